//! How keys or values lie in memory: number formats and orientation, and nothing about who owns them.
//!
//! The unit is a head block: the [`BLOCK_LEN`] slots of one block for one layer and one head.

use half::{f16, slice::HalfFloatSliceExt, vec::HalfBitsVecExt};

use super::{BLOCK_LEN, CacheType};
use crate::kernels::{Isa, float::widen};

/// Numbers of one slot that share a scale in [`CacheType::Q8_0`].
pub(super) const RUN_LEN: usize = 32;

/// Which index runs fastest in a head block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Orientation {
    /// `(head_dim, BLOCK_LEN)`, for keys: the scores of a whole block come out side by side.
    SlotsInside,
    /// `(BLOCK_LEN, head_dim)`, for values.
    SlotsOutside,
}

/// Keys or values of all layers, blocks and heads.
#[derive(Debug)]
pub(super) struct Storage {
    orientation: Orientation,
    head_dim: usize,
    numbers: Numbers,
}

#[derive(Debug)]
enum Numbers {
    F16(Vec<f16>),
    F32(Vec<f32>),
    /// Scales are `(head_dim / RUN_LEN, BLOCK_LEN)` in each head block, whatever the orientation.
    Q8_0 {
        values: Vec<i8>,
        scales: Vec<f16>,
    },
}

impl Storage {
    /// Memory is taken from the system page by page, as it is first written.
    pub(super) fn new(
        cache_type: CacheType,
        orientation: Orientation,
        head_dim: usize,
        n_head_blocks: usize,
    ) -> Self {
        let len = n_head_blocks * BLOCK_LEN * head_dim;
        // Zeroed as integers: only then does the system lend the pages one by one.
        let halves = |len| vec![0u16; len].reinterpret_into();
        let numbers = match cache_type {
            CacheType::F16 => Numbers::F16(halves(len)),
            CacheType::F32 => Numbers::F32(vec![0.0; len]),
            CacheType::Q8_0 => Numbers::Q8_0 {
                values: vec![0; len],
                scales: halves(n_head_blocks * BLOCK_LEN * head_dim.div_ceil(RUN_LEN)),
            },
        };
        Self {
            orientation,
            head_dim,
            numbers,
        }
    }

    /// Numbers of a head block.
    fn head_block_len(&self) -> usize {
        BLOCK_LEN * self.head_dim
    }

    /// Scales of a head block.
    fn n_scales(&self) -> usize {
        BLOCK_LEN * self.head_dim.div_ceil(RUN_LEN)
    }

    /// Where the numbers of a slot start in a head block, and how far apart they are.
    fn slot(&self, slot: usize) -> (usize, usize) {
        match self.orientation {
            Orientation::SlotsInside => (slot, BLOCK_LEN),
            Orientation::SlotsOutside => (slot * self.head_dim, 1),
        }
    }

    /// Writes one slot from `row`, `(head_dim)`.
    pub(super) fn write(&mut self, head_block: usize, slot: usize, row: &[f32]) {
        let (start, stride) = self.slot(slot);
        let start = head_block * self.head_block_len() + start;
        let first_scale = head_block * self.n_scales() + slot;
        match &mut self.numbers {
            Numbers::F16(numbers) => {
                let slot = numbers[start..].iter_mut().step_by(stride);
                slot.zip(row).for_each(|(cached, &x)| *cached = f16::from_f32(x));
            }
            Numbers::F32(numbers) => {
                let slot = numbers[start..].iter_mut().step_by(stride);
                slot.zip(row).for_each(|(cached, &x)| *cached = x);
            }
            Numbers::Q8_0 { values, scales } => {
                let mut slot = values[start..].iter_mut().step_by(stride);
                for (run_idx, run) in row.chunks(RUN_LEN).enumerate() {
                    // Adding zero times each number carries NaN into the scale, which integers could not hold.
                    let largest = run.iter().fold(0.0f32, |max, x| max.max(x.abs()) + x * 0.0);
                    let scale = f16::from_f32(largest / 127.0);
                    let inverse = match scale.to_f32() {
                        scale if scale > 0.0 => 1.0 / scale,
                        _ => 0.0,
                    };
                    scales[first_scale + run_idx * BLOCK_LEN] = scale;
                    for (x, cached) in run.iter().zip(&mut slot) {
                        *cached = (x * inverse).round_ties_even() as i8;
                    }
                }
            }
        }
    }

    /// The first `n_slots` slots of a head block in its own orientation, as `out`; keys come with all slots.
    #[inline(always)]
    pub(super) fn load(&self, isa: Isa, head_block: usize, n_slots: usize, out: &mut [f32]) {
        let len = match self.orientation {
            Orientation::SlotsInside => self.head_block_len(),
            Orientation::SlotsOutside => n_slots * self.head_dim,
        };
        let (start, out) = (head_block * self.head_block_len(), &mut out[..len]);
        match &self.numbers {
            Numbers::F16(numbers) => widen(isa, &numbers[start..start + len], out),
            Numbers::F32(numbers) => out.copy_from_slice(&numbers[start..start + len]),
            Numbers::Q8_0 { values, scales } => {
                let values = &values[start..start + len];
                let scales = &scales[head_block * self.n_scales()..][..self.n_scales()];
                match self.orientation {
                    Orientation::SlotsInside => dequantize_keys(values, scales, out),
                    Orientation::SlotsOutside => dequantize_values(values, scales, self.head_dim, out),
                }
            }
        }
    }

    /// One slot of a head block, written where `out`, a head block in the same orientation, has slot `to`.
    #[inline(always)]
    pub(super) fn load_slot(&self, head_block: usize, slot: usize, out: &mut [f32], to: usize) {
        let ((start, stride), (to, _)) = (self.slot(slot), self.slot(to));
        let start = head_block * self.head_block_len() + start;
        let out = out[to..].iter_mut().step_by(stride).take(self.head_dim);
        match &self.numbers {
            Numbers::F16(numbers) => {
                let slot = numbers[start..].iter().step_by(stride);
                out.zip(slot).for_each(|(out, cached)| *out = cached.to_f32());
            }
            Numbers::F32(numbers) => {
                let slot = numbers[start..].iter().step_by(stride);
                out.zip(slot).for_each(|(out, cached)| *out = *cached);
            }
            Numbers::Q8_0 { values, scales } => {
                let first_scale = head_block * self.n_scales() + slot;
                let slot = values[start..].iter().step_by(stride);
                for (dim, (out, cached)) in out.zip(slot).enumerate() {
                    let scale = scales[first_scale + dim / RUN_LEN * BLOCK_LEN];
                    *out = f32::from(*cached) * scale.to_f32();
                }
            }
        }
    }

    /// Copies the first `n_slots` slots of a head block to another; of keys, all slots.
    pub(super) fn copy_slots(&mut self, from: usize, to: usize, n_slots: usize) {
        let len = match self.orientation {
            Orientation::SlotsInside => self.head_block_len(),
            Orientation::SlotsOutside => n_slots * self.head_dim,
        };
        let (block_len, n_scales) = (self.head_block_len(), self.n_scales());
        let (source, target) = (from * block_len, to * block_len);
        match &mut self.numbers {
            Numbers::F16(numbers) => numbers.copy_within(source..source + len, target),
            Numbers::F32(numbers) => numbers.copy_within(source..source + len, target),
            Numbers::Q8_0 { values, scales } => {
                values.copy_within(source..source + len, target);
                scales.copy_within(from * n_scales..(from + 1) * n_scales, to * n_scales);
            }
        }
    }

    /// Copies one slot, given as (head block, slot), to another.
    pub(super) fn copy_slot(&mut self, from: (usize, usize), to: (usize, usize)) {
        fn copy<T: Copy>(numbers: &mut [T], from: usize, to: usize, stride: usize, len: usize) {
            for idx in 0..len {
                numbers[to + idx * stride] = numbers[from + idx * stride];
            }
        }
        let ((from_start, stride), (to_start, _)) = (self.slot(from.1), self.slot(to.1));
        let (source, target) = (
            from.0 * self.head_block_len() + from_start,
            to.0 * self.head_block_len() + to_start,
        );
        let (from_scale, to_scale) = (from.0 * self.n_scales() + from.1, to.0 * self.n_scales() + to.1);
        match &mut self.numbers {
            Numbers::F16(numbers) => copy(numbers, source, target, stride, self.head_dim),
            Numbers::F32(numbers) => copy(numbers, source, target, stride, self.head_dim),
            Numbers::Q8_0 { values, scales } => {
                copy(values, source, target, stride, self.head_dim);
                copy(
                    scales,
                    from_scale,
                    to_scale,
                    BLOCK_LEN,
                    self.head_dim.div_ceil(RUN_LEN),
                );
            }
        }
    }
}

/// `(head_dim, BLOCK_LEN)`: a run of a slot is a column.
#[inline(always)]
fn dequantize_keys(values: &[i8], scales: &[f16], out: &mut [f32]) {
    let mut run_scales = [0.0f32; BLOCK_LEN];
    let runs = values
        .chunks(RUN_LEN * BLOCK_LEN)
        .zip(out.chunks_mut(RUN_LEN * BLOCK_LEN));
    for ((values, out), scales) in runs.zip(scales.chunks_exact(BLOCK_LEN)) {
        scales.convert_to_f32_slice(&mut run_scales);
        for (values, out) in values
            .chunks_exact(BLOCK_LEN)
            .zip(out.chunks_exact_mut(BLOCK_LEN))
        {
            for slot in 0..BLOCK_LEN {
                out[slot] = f32::from(values[slot]) * run_scales[slot];
            }
        }
    }
}

/// `(slots, head_dim)`: a run of a slot is contiguous.
#[inline(always)]
fn dequantize_values(values: &[i8], scales: &[f16], head_dim: usize, out: &mut [f32]) {
    let slots = values.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim));
    for (slot, (values, out)) in slots.enumerate() {
        for (run_idx, (values, out)) in values.chunks(RUN_LEN).zip(out.chunks_mut(RUN_LEN)).enumerate() {
            let scale = scales[run_idx * BLOCK_LEN + slot].to_f32();
            for (value, out) in values.iter().zip(out) {
                *out = f32::from(*value) * scale;
            }
        }
    }
}
