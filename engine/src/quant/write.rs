//! Numbers to blocks. The K-quants are candle-core's; each row is quantised by itself.

use candle_core::quantized::{GgmlType as Blocks, k_quants};
use half::bf16;

use crate::{error::EngineError, weights::GgmlType};

/// Types that weights can be quantised to.
pub const WRITABLE_TYPES: &str = "F32, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K";

/// Refuses a type that [`quantize_row`] does not write.
///
/// # Errors
/// [`EngineError::Unsupported`] with the names of those that it does.
pub(crate) fn require_writable(dtype: GgmlType) -> Result<(), EngineError> {
    use GgmlType::{BF16, F32, Q4_0, Q4K, Q5K, Q6K, Q8_0};
    if matches!(dtype, F32 | BF16 | Q8_0 | Q4_0 | Q4K | Q5K | Q6K) {
        return Ok(());
    }
    Err(EngineError::Unsupported {
        what: "type to quantise to",
        found: dtype.name().into(),
        known: WRITABLE_TYPES.into(),
    })
}

/// Writes one row of `numbers` in blocks of type `dtype`. A row with what is no number gets scales that are none, so that it
/// shows in the logits.
///
/// # Panics
/// If `out` is not exactly the blocks of so many numbers, or [`WRITABLE_TYPES`] does not have `dtype`.
pub(crate) fn quantize_row(dtype: GgmlType, numbers: &[f32], out: &mut [u8]) {
    assert_eq!(
        dtype.row_bytes(numbers.len()),
        Some(out.len()),
        "a row of {dtype} has another length"
    );
    // Looking for the largest passes over NaN, and integers cannot hold it.
    if !numbers.iter().all(|x| x.is_finite()) && !matches!(dtype, GgmlType::F32 | GgmlType::BF16) {
        return out.fill(0xff);
    }
    match dtype {
        GgmlType::F32 => narrow(numbers, out, f32::to_le_bytes),
        GgmlType::BF16 => narrow(numbers, out, |x| bf16::from_f32(x).to_le_bytes()),
        GgmlType::Q8_0 => write_blocks::<k_quants::BlockQ8_0>(numbers, out),
        GgmlType::Q4_0 => write_blocks::<k_quants::BlockQ4_0>(numbers, out),
        GgmlType::Q4K => write_blocks::<k_quants::BlockQ4K>(numbers, out),
        GgmlType::Q5K => write_blocks::<k_quants::BlockQ5K>(numbers, out),
        GgmlType::Q6K => write_blocks::<k_quants::BlockQ6K>(numbers, out),
        other => panic!("no quantisation to {}", other.name()),
    }
}

fn narrow<const N: usize>(numbers: &[f32], out: &mut [u8], to_bytes: impl Fn(f32) -> [u8; N]) {
    for (x, out) in numbers.iter().zip(out.as_chunks_mut().0) {
        *out = to_bytes(*x);
    }
}

/// Blocks as candle has them, which are ggml's structures.
fn write_blocks<B: Blocks>(numbers: &[f32], out: &mut [u8]) {
    // Zeroed: some bits are only ever added.
    let mut blocks = vec![B::zeros(); numbers.len() / B::BLCK_SIZE];
    B::from_float(numbers, &mut blocks);
    // SAFETY: the structures are `repr(C)` arrays of integers and half-precision numbers without padding, as the
    // comparison of sizes just above by `quantize_row`, and that below, confirm; any of their bytes may be read.
    let bytes = unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), size_of_val(&*blocks)) };
    out.copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize_row;

    /// Root mean square of the error, as a share of that of numbers with a normal distribution.
    #[test]
    fn numbers_come_back_as_exactly_as_their_type_allows() {
        // Sums of twelve uniform numbers, from a linear congruential generator.
        let mut state = 7u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as f32 / u32::MAX as f32
        };
        let numbers: Vec<f32> = (0..4096)
            .map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
            .collect();
        let square = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>();
        for (dtype, most) in [
            (GgmlType::F32, 0.0),
            (GgmlType::BF16, 0.002),
            (GgmlType::Q8_0, 0.006),
            (GgmlType::Q6K, 0.02),
            (GgmlType::Q5K, 0.045),
            (GgmlType::Q4K, 0.09),
            (GgmlType::Q4_0, 0.1),
        ] {
            let mut bytes = vec![0; dtype.row_bytes(numbers.len()).unwrap()];
            quantize_row(dtype, &numbers, &mut bytes);
            let mut found = vec![0.0; numbers.len()];
            dequantize_row(dtype, &bytes, &mut found);
            let error = square(&mut numbers.iter().zip(&found).map(|(a, b)| a - b));
            let error = (error / square(&mut numbers.iter().copied())).sqrt();
            eprintln!("{dtype}: {error}");
            assert!(error <= most, "{dtype}: {error}");
        }
        assert!(require_writable(GgmlType::IQ4XS).is_err());
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut numbers = [1.0; 256];
            numbers[100] = bad;
            for dtype in [
                GgmlType::BF16,
                GgmlType::Q8_0,
                GgmlType::Q6K,
                GgmlType::Q5K,
                GgmlType::Q4K,
                GgmlType::Q4_0,
            ] {
                let mut bytes = vec![0; dtype.row_bytes(256).unwrap()];
                quantize_row(dtype, &numbers, &mut bytes);
                let mut found = [0.0; 256];
                dequantize_row(dtype, &bytes, &mut found);
                assert!(!found[100].is_finite(), "{dtype}: {bad} became {}", found[100]);
            }
        }
    }
}
