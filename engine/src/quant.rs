//! What the bytes of a quantised block mean: the slow, obvious reference for every kernel.
//!
//! Layouts are those of `ggml-common.h` (ggml-org/llama.cpp), which the GGUF specification refers to. A row is
//! a run of blocks; a block of 32 or 256 weights holds its scales and small integers. We read it as *runs* of 32
//! weights, each with one scale in single precision, so that a product is a sum of integers times a few factors.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::{
    error::EngineError,
    weights::{GgmlType, Tensor},
};

mod write;

pub use self::write::WRITABLE_TYPES;
pub(crate) use self::write::{quantize_row, require_writable};

/// Weights that share one scale in single precision.
pub(crate) const RUN_LEN: usize = 32;

/// Runs in the longest block, one of 256 weights.
pub(crate) const MAX_RUNS: usize = 8;

/// Whether the engine can multiply by a matrix of this type.
pub fn is_known(dtype: GgmlType) -> bool {
    matches!(dtype, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16) || block_reader(dtype).is_some()
}

/// All types that the engine can multiply by, in the order of their ids.
pub fn known_types() -> impl Iterator<Item = GgmlType> {
    GgmlType::all().filter(|dtype| is_known(*dtype))
}

/// Their names, for people.
pub fn known_type_names() -> String {
    known_types().map(GgmlType::name).collect::<Vec<_>>().join(", ")
}

/// Refuses a tensor of a type that the engine cannot multiply by.
///
/// # Errors
/// [`EngineError::Unsupported`] with the names of the types that it can.
pub fn require_known(tensor: &Tensor) -> Result<(), EngineError> {
    if is_known(tensor.dtype) {
        return Ok(());
    }
    Err(EngineError::Unsupported {
        what: "tensor type",
        found: format!("{} of {}", tensor.dtype.name(), tensor.name),
        known: known_type_names(),
    })
}

/// Whether the scales of a block are numbers: neither infinite nor NaN, which MXFP4's exponent of all ones stands for.
pub(crate) fn has_number_scales(dtype: GgmlType, block: &[u8]) -> bool {
    let is_number = |at: usize| half::f16::from_le_bytes([block[at], block[at + 1]]).is_finite();
    match dtype {
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4NL | GgmlType::IQ4XS => is_number(0),
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => is_number(0) && is_number(2),
        GgmlType::Q2K => is_number(80) && is_number(82),
        GgmlType::Q3K => is_number(108),
        GgmlType::Q6K => is_number(208),
        GgmlType::MXFP4 => block[0] != u8::MAX,
        _ => true,
    }
}

/// Whether all weights in a row of blocks are numbers: neither infinite nor NaN.
fn are_numbers(dtype: GgmlType, row: &[u8]) -> bool {
    // All of them, for the compiler to take many at a time.
    fn all<const N: usize>(row: &[u8], is_number: impl Fn([u8; N]) -> bool) -> bool {
        let numbers = row.as_chunks().0.iter();
        numbers.fold(true, |all, bytes| all & is_number(*bytes))
    }
    match dtype {
        GgmlType::F32 => all(row, |bytes| f32::from_le_bytes(bytes).is_finite()),
        GgmlType::F16 => all(row, |bytes| f16::from_le_bytes(bytes).is_finite()),
        GgmlType::BF16 => all(row, |bytes| bf16::from_le_bytes(bytes).is_finite()),
        _ => row
            .chunks_exact(dtype.block_bytes())
            .all(|block| has_number_scales(dtype, block)),
    }
}

/// Refuses a tensor with weights that are not numbers. Reads all of it.
///
/// # Errors
/// [`EngineError::BadWeight`] if it has one.
pub(crate) fn require_numbers(tensor: &Tensor) -> Result<(), EngineError> {
    if (0..tensor.n_rows()).all(|row| are_numbers(tensor.dtype, &tensor.read_rows(row..row + 1))) {
        return Ok(());
    }
    Err(EngineError::BadWeight {
        tensor: tensor.name.clone(),
    })
}

/// Thirty-two weights: weight `i` is `scale * weights[i] - mins[i / 16]`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Run {
    /// Below 2^13 in magnitude: scales of 16 weights are multiplied in, for they are integers.
    pub(crate) weights: [i16; RUN_LEN],
    pub(crate) scale: f32,
    pub(crate) mins: [f32; 2],
}

/// Minimums in a run of this type: none, one for 32 weights, or one for each 16.
pub(crate) fn n_mins(dtype: GgmlType) -> usize {
    match dtype {
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => 1,
        GgmlType::Q2K => 2,
        _ => 0,
    }
}

/// Reads one block into its runs.
type BlockReader = fn(block: &[u8], runs: &mut [Run]);

/// How blocks of this type are read; `None` for plain numbers and for types without kernels.
pub(crate) fn block_reader(dtype: GgmlType) -> Option<BlockReader> {
    Some(match dtype {
        GgmlType::Q8_0 => q8_0,
        GgmlType::Q4_0 => q4_0,
        GgmlType::Q4_1 => q4_1,
        GgmlType::Q5_0 => q5_0,
        GgmlType::Q5_1 => q5_1,
        GgmlType::Q2K => q2_k,
        GgmlType::Q3K => q3_k,
        GgmlType::Q4K => q4_k,
        GgmlType::Q5K => q5_k,
        GgmlType::Q6K => q6_k,
        GgmlType::IQ4NL => iq4_nl,
        GgmlType::IQ4XS => iq4_xs,
        GgmlType::MXFP4 => mxfp4,
        _ => return None,
    })
}

/// Writes the numbers that one row of blocks stands for.
///
/// # Panics
/// If `bytes` is not exactly the blocks of `out.len()` numbers, or [`is_known`] is false for `dtype`.
pub fn dequantize_row(dtype: GgmlType, bytes: &[u8], out: &mut [f32]) {
    let (block_len, block_bytes) = (dtype.block_len(), dtype.block_bytes());
    assert_eq!(
        bytes.len() / block_bytes * block_len,
        out.len(),
        "a row of {} has another length",
        dtype.name()
    );
    let Some(read_block) = block_reader(dtype) else {
        return match dtype {
            GgmlType::F32 => widen_f32(bytes, out),
            GgmlType::F16 => widen_f16(bytes, out),
            GgmlType::BF16 => widen_bf16(bytes, out),
            other => panic!("no dequantisation for {}", other.name()),
        };
    };
    let mut runs = [Run::default(); MAX_RUNS];
    for (block, out) in bytes
        .chunks_exact(block_bytes)
        .zip(out.chunks_exact_mut(block_len))
    {
        read_block(block, &mut runs[..block_len / RUN_LEN]);
        for (run, out) in runs.iter().zip(out.chunks_exact_mut(RUN_LEN)) {
            for (idx, out) in out.iter_mut().enumerate() {
                *out = run.scale * f32::from(run.weights[idx]) - run.mins[idx / 16];
            }
        }
    }
}

fn widen_f32(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

fn widen_bf16(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = bf16::from_le_bytes(*bytes).to_f32();
    }
}

fn widen_f16(bytes: &[u8], out: &mut [f32]) {
    let mut halves = [f16::ZERO; 64];
    for (out, bytes) in out.chunks_mut(64).zip(bytes.chunks(128)) {
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

/// Half-precision number at byte `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Weight `idx` of 32 that are packed in 16 bytes, low halves first.
fn nibble(packed: &[u8], idx: usize) -> u8 {
    (packed[idx % 16] >> (idx / 16 * 4)) & 15
}

/// Bit `idx` of some bytes, the lowest of the first byte being bit 0, as a number with that bit at `place`.
fn bit(packed: &[u8], idx: usize, place: usize) -> u8 {
    ((packed[idx / 8] >> (idx % 8)) & 1) << place
}

/// Fills a run with integers below 256, minus an offset.
fn fill(run: &mut Run, offset: i16, quant: impl Fn(usize) -> u8) {
    for (idx, weight) in run.weights.iter_mut().enumerate() {
        *weight = i16::from(quant(idx)) - offset;
    }
}

/// `d: f16, q: [i8; 32]`; weight = d q.
fn q8_0(block: &[u8], runs: &mut [Run]) {
    runs[0].scale = half_at(block, 0);
    for (weight, &quant) in runs[0].weights.iter_mut().zip(&block[2..]) {
        *weight = i16::from(quant as i8);
    }
}

/// `d: f16, q: [u4; 32]`, low halves first; weight = d (q - 8).
fn q4_0(block: &[u8], runs: &mut [Run]) {
    runs[0].scale = half_at(block, 0);
    fill(&mut runs[0], 8, |idx| nibble(&block[2..], idx));
}

/// `d: f16, m: f16, q: [u4; 32]`; weight = d q + m.
fn q4_1(block: &[u8], runs: &mut [Run]) {
    runs[0].scale = half_at(block, 0);
    runs[0].mins = [-half_at(block, 2); 2];
    fill(&mut runs[0], 0, |idx| nibble(&block[4..], idx));
}

/// `d: f16, h: u32, q: [u4; 32]`; weight = d ((q | h << 4) - 16), bit `i` of h for weight `i`.
fn q5_0(block: &[u8], runs: &mut [Run]) {
    runs[0].scale = half_at(block, 0);
    fill(&mut runs[0], 16, |idx| {
        nibble(&block[6..], idx) | bit(&block[2..], idx, 4)
    });
}

/// `d: f16, m: f16, h: u32, q: [u4; 32]`; weight = d (q | h << 4) + m.
fn q5_1(block: &[u8], runs: &mut [Run]) {
    runs[0].scale = half_at(block, 0);
    runs[0].mins = [-half_at(block, 2); 2];
    fill(&mut runs[0], 0, |idx| {
        nibble(&block[8..], idx) | bit(&block[4..], idx, 4)
    });
}

/// Multiplies each half of a run by its own integer scale.
fn scale_halves(run: &mut Run, scales: [i16; 2]) {
    for (idx, weight) in run.weights.iter_mut().enumerate() {
        *weight *= scales[idx / 16];
    }
}

/// Two bits of weight `idx` of run `run` of a block whose 256 weights are packed in 64 bytes: each half of 128
/// weights is four runs that share 32 bytes.
fn two_bits(packed: &[u8], run: usize, idx: usize) -> u8 {
    (packed[run / 4 * 32 + idx] >> (run % 4 * 2)) & 3
}

/// `scales: [u4, u4; 16], q: [u2; 256], d: f16, dmin: f16`; weight = d s q - dmin m, s (low half) and m of 16 weights.
fn q2_k(block: &[u8], runs: &mut [Run]) {
    let (scale, min_scale) = (half_at(block, 80), half_at(block, 82));
    for (run_idx, run) in runs.iter_mut().enumerate() {
        let packed = [block[2 * run_idx], block[2 * run_idx + 1]];
        run.scale = scale;
        run.mins = packed.map(|packed| min_scale * f32::from(packed >> 4));
        fill(run, 0, |idx| two_bits(&block[16..], run_idx, idx));
        scale_halves(run, packed.map(|packed| i16::from(packed & 15)));
    }
}

/// `h: [u8; 32], q: [u2; 256], scales: [u6; 16], d: f16`; weight = d (s - 32) ((q | h << 2) - 4), bit `r` of byte
/// `i` of h for weight `i` of run `r`. Scale `j` has its low four bits in byte `j % 8`, its high two in byte `8 + j % 4`.
fn q3_k(block: &[u8], runs: &mut [Run]) {
    let (high, packed) = (&block[..32], &block[96..108]);
    let scale = |idx: usize| {
        let low = (packed[idx % 8] >> (idx / 8 * 4)) & 15;
        let high = (packed[8 + idx % 4] >> (idx / 4 * 2)) & 3;
        i16::from(low | high << 4) - 32
    };
    for (run_idx, run) in runs.iter_mut().enumerate() {
        run.scale = half_at(block, 108);
        fill(run, 4, |idx| {
            two_bits(&block[32..], run_idx, idx) | ((high[idx] >> run_idx) & 1) << 2
        });
        scale_halves(run, [scale(2 * run_idx), scale(2 * run_idx + 1)]);
    }
}

/// Scale and minimum of run `idx` (of 8) of a Q4_K or Q5_K block: 6 bits each, packed in 12 bytes.
fn k_scale_min(packed: &[u8], idx: usize) -> (u8, u8) {
    if idx < 4 {
        (packed[idx] & 63, packed[idx + 4] & 63)
    } else {
        let scale = (packed[idx + 4] & 15) | ((packed[idx - 4] >> 6) << 4);
        let min = (packed[idx + 4] >> 4) | ((packed[idx] >> 6) << 4);
        (scale, min)
    }
}

/// What Q4_K and Q5_K have in common; two runs share the 32 bytes of their low four bits.
fn k_runs(block: &[u8], quants: &[u8], runs: &mut [Run], high: impl Fn(usize, usize) -> u8) {
    let (scale, min_scale) = (half_at(block, 0), half_at(block, 2));
    for (run_idx, run) in runs.iter_mut().enumerate() {
        let (run_scale, run_min) = k_scale_min(&block[4..16], run_idx);
        run.scale = scale * f32::from(run_scale);
        run.mins = [min_scale * f32::from(run_min); 2];
        fill(run, 0, |idx| {
            let low = quants[run_idx / 2 * 32 + idx] >> (run_idx % 2 * 4) & 15;
            low | high(run_idx, idx)
        });
    }
}

/// `d: f16, dmin: f16, scales: [u8; 12], q: [u4; 256]`; weight = d s q - dmin m, s and m of 32 weights.
fn q4_k(block: &[u8], runs: &mut [Run]) {
    k_runs(block, &block[16..], runs, |_, _| 0);
}

/// As Q4_K, with `h: [u8; 32]` before the quants: bit `r` of byte `i` is the fifth bit of weight `i` of run `r`.
fn q5_k(block: &[u8], runs: &mut [Run]) {
    k_runs(block, &block[48..], runs, |run_idx, idx| {
        ((block[16 + idx] >> run_idx) & 1) << 4
    });
}

/// `ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: f16`; weight = d s (q - 32), s of 16 weights.
fn q6_k(block: &[u8], runs: &mut [Run]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    for (run_idx, run) in runs.iter_mut().enumerate() {
        // Each half of 128 weights is four runs: the first two are the low halves of 64 bytes.
        let (half, quarter) = (run_idx / 4, run_idx % 4);
        run.scale = half_at(block, 208);
        fill(run, 32, |idx| {
            let low_bits = low[half * 64 + quarter % 2 * 32 + idx] >> (quarter / 2 * 4) & 15;
            low_bits | two_bits(high, run_idx, idx) << 4
        });
        scale_halves(
            run,
            [2 * run_idx, 2 * run_idx + 1].map(|idx| i16::from(scales[idx] as i8)),
        );
    }
}

/// Weights of the IQ4 types: steps that grow with distance from zero.
pub(crate) const IQ4_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Twice the values of a 4-bit float with 2 bits of exponent and 1 of mantissa (OCP Microscaling Formats 1.0).
pub(crate) const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Fills a run with the values that 4-bit numbers stand for.
fn fill_from(values: [i8; 16], packed: &[u8], run: &mut Run) {
    for (idx, weight) in run.weights.iter_mut().enumerate() {
        *weight = i16::from(values[usize::from(nibble(packed, idx))]);
    }
}

/// `d: f16, q: [u4; 32]`; weight = `d values[q]`.
fn iq4_nl(block: &[u8], runs: &mut [Run]) {
    runs[0].scale = half_at(block, 0);
    fill_from(IQ4_VALUES, &block[2..], &mut runs[0]);
}

/// `d: f16, sh: [u2; 8], sl: [u4; 8], q: [u4; 256]`;
/// `weight = d ((sl | sh << 4) - 32) values[q]`, scales of 32 weights.
fn iq4_xs(block: &[u8], runs: &mut [Run]) {
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (run_idx, run) in runs.iter_mut().enumerate() {
        let low = block[4 + run_idx / 2] >> (run_idx % 2 * 4) & 15;
        let run_scale = u16::from(low) | (high >> (2 * run_idx) & 3) << 4;
        run.scale = half_at(block, 0) * (f32::from(run_scale) - 32.0);
        fill_from(IQ4_VALUES, &block[8 + run_idx * 16..], run);
    }
}

/// `e: u8, q: [u4; 32]`; `weight = 2^(e - 127) values[q] / 2`.
fn mxfp4(block: &[u8], runs: &mut [Run]) {
    runs[0].scale = half_power_of_two(block[0]);
    fill_from(MXFP4_VALUES, &block[1..], &mut runs[0]);
}

/// 2^(exponent - 128), which for the two smallest exponents is a subnormal number.
fn half_power_of_two(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => (u32::from(exponent) - 1) << 23,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// `tests/references/gguf_fixtures.py` wrote what the gguf package reads in random blocks.
    #[test]
    fn blocks_stand_for_the_numbers_of_the_gguf_package() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/fixtures/references/blocks.safetensors"
        );
        let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let mut n_types = 0;
        for dtype in (0..64)
            .filter_map(GgmlType::from_id)
            .filter(|dtype| block_reader(*dtype).is_some())
        {
            let bytes: Vec<u8> = tensors[&format!("{}.blocks", dtype.name())].to_vec1().unwrap();
            let expected: Vec<f32> = tensors[&format!("{}.numbers", dtype.name())].to_vec1().unwrap();
            let mut found = vec![0.0; expected.len()];
            dequantize_row(dtype, &bytes, &mut found);
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() <= 1e-6 * expected.abs(),
                    "{dtype}: {found} for {expected}"
                );
            }
            n_types += 1;
        }
        assert_eq!(tensors.len(), 2 * n_types, "a type without blocks");
    }
}
