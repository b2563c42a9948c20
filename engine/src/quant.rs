//! What the bytes of a quantised block mean: the slow, obvious reference for every kernel.
//!
//! Layouts are those of `ggml-common.h` (ggml-org/llama.cpp), which the GGUF specification refers to. A row is
//! a run of blocks; a block of `n` weights holds its scales and `n` small integers.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::{
    error::EngineError,
    weights::{GgmlType, Tensor},
};

/// Types that [`dequantize_row`] knows.
pub const KNOWN_TYPES: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K";

/// Whether the engine can multiply by a matrix of this type.
pub fn is_known(dtype: GgmlType) -> bool {
    use GgmlType::{BF16, F16, F32, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    matches!(
        dtype,
        F32 | F16 | BF16 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q4K | Q5K | Q6K
    )
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
        known: KNOWN_TYPES.into(),
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
    let dequantize_block = match dtype {
        GgmlType::F32 => return widen_f32(bytes, out),
        GgmlType::F16 => return widen_f16(bytes, out),
        GgmlType::BF16 => return widen_bf16(bytes, out),
        GgmlType::Q8_0 => q8_0,
        GgmlType::Q4_0 => q4_0,
        GgmlType::Q4_1 => q4_1,
        GgmlType::Q5_0 => q5_0,
        GgmlType::Q5_1 => q5_1,
        GgmlType::Q4K => q4_k,
        GgmlType::Q5K => q5_k,
        GgmlType::Q6K => q6_k,
        other => panic!("no dequantisation for {}", other.name()),
    };
    for (block, out) in bytes
        .chunks_exact(block_bytes)
        .zip(out.chunks_exact_mut(block_len))
    {
        dequantize_block(block, out);
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
pub(crate) fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Scale and minimum of sub-block `idx` (of 8) of a Q4_K or Q5_K block: 6 bits each, packed in 12 bytes.
pub(crate) fn k_scale_min(packed: &[u8], idx: usize) -> (u8, u8) {
    if idx < 4 {
        (packed[idx] & 63, packed[idx + 4] & 63)
    } else {
        let scale = (packed[idx + 4] & 15) | ((packed[idx - 4] >> 6) << 4);
        let min = (packed[idx + 4] >> 4) | ((packed[idx] >> 6) << 4);
        (scale, min)
    }
}

/// `d: f16, q: [i8; 32]`; weight = d q.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (out, &quant) in out.iter_mut().zip(&block[2..]) {
        *out = scale * f32::from(quant as i8);
    }
}

/// `d: f16, q: [u4; 32]`, low halves first; weight = d (q - 8).
fn q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (idx, &byte) in block[2..].iter().enumerate() {
        out[idx] = scale * (f32::from(byte & 15) - 8.0);
        out[idx + 16] = scale * (f32::from(byte >> 4) - 8.0);
    }
}

/// `d: f16, m: f16, q: [u4; 32]`; weight = d q + m.
fn q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    for (idx, &byte) in block[4..].iter().enumerate() {
        out[idx] = scale * f32::from(byte & 15) + min;
        out[idx + 16] = scale * f32::from(byte >> 4) + min;
    }
}

/// Fifth bits of a Q5_0 or Q5_1 block, weight `idx` at bit `idx`.
fn fifth_bits(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// `d: f16, h: u32, q: [u4; 32]`; weight = d ((q | h << 4) - 16).
fn q5_0(block: &[u8], out: &mut [f32]) {
    let (scale, high) = (half_at(block, 0), fifth_bits(block, 2));
    for (idx, &byte) in block[6..].iter().enumerate() {
        let low = u32::from(byte & 15) | (((high >> idx) & 1) << 4);
        let upper = u32::from(byte >> 4) | (((high >> (idx + 16)) & 1) << 4);
        out[idx] = scale * (low as f32 - 16.0);
        out[idx + 16] = scale * (upper as f32 - 16.0);
    }
}

/// `d: f16, m: f16, h: u32, q: [u4; 32]`; weight = d (q | h << 4) + m.
fn q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, min, high) = (half_at(block, 0), half_at(block, 2), fifth_bits(block, 4));
    for (idx, &byte) in block[8..].iter().enumerate() {
        let low = u32::from(byte & 15) | (((high >> idx) & 1) << 4);
        let upper = u32::from(byte >> 4) | (((high >> (idx + 16)) & 1) << 4);
        out[idx] = scale * low as f32 + min;
        out[idx + 16] = scale * upper as f32 + min;
    }
}

/// `d: f16, dmin: f16, scales: [u8; 12], q: [u4; 256]`; weight = d s q - dmin m, s and m of 32 weights.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (scale, min_scale) = (half_at(block, 0), half_at(block, 2));
    for (idx, out) in out.chunks_exact_mut(32).enumerate() {
        let (sub_scale, sub_min) = k_scale_min(&block[4..16], idx);
        let quants = &block[16 + idx / 2 * 32..][..32];
        for (out, &byte) in out.iter_mut().zip(quants) {
            let quant = if idx % 2 == 0 { byte & 15 } else { byte >> 4 };
            *out = scale * f32::from(sub_scale) * f32::from(quant) - min_scale * f32::from(sub_min);
        }
    }
}

/// As Q4_K, with `h: [u8; 32]` before the quants: bit `s` of byte `i` is the fifth bit of weight `i` of sub-block `s`.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (scale, min_scale) = (half_at(block, 0), half_at(block, 2));
    let high = &block[16..48];
    for (idx, out) in out.chunks_exact_mut(32).enumerate() {
        let (sub_scale, sub_min) = k_scale_min(&block[4..16], idx);
        let quants = &block[48 + idx / 2 * 32..][..32];
        for ((out, &byte), &high) in out.iter_mut().zip(quants).zip(high) {
            let low = if idx % 2 == 0 { byte & 15 } else { byte >> 4 };
            let quant = low | (((high >> idx) & 1) << 4);
            *out = scale * f32::from(sub_scale) * f32::from(quant) - min_scale * f32::from(sub_min);
        }
    }
}

/// `ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: f16`; weight = d s (q - 32), s of 16 weights.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 208);
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    for (idx, out) in out.iter_mut().enumerate() {
        // Each half of 128 weights is four runs of 32 that share bytes.
        let (half, run, column) = (idx / 128, idx % 128 / 32, idx % 32);
        let low_byte = low[half * 64 + run % 2 * 32 + column];
        let low_bits = if run < 2 { low_byte & 15 } else { low_byte >> 4 };
        let high_bits = (high[half * 32 + column] >> (2 * run)) & 3;
        let quant = i32::from(low_bits | (high_bits << 4)) - 32;
        *out = scale * f32::from(scales[idx / 16] as i8) * quant as f32;
    }
}
