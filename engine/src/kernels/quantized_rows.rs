//! Activations as 8-bit integers, in the form that every integer product reads.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::Integers;
use super::{Isa, SharedOut, pool::ThreadPool};
use crate::quant::RUN_LEN;

/// Activations, `(rows, columns)`, as 8-bit integers with a scale for each run of 32.
///
/// The scale is the run's largest magnitude over 127, so that a number is about scale * value (the Q8_0 of ggml,
/// with the scale in single precision).
///
/// Rows that are multiplied together lie together: a group holds the first run of each of its rows, then the second ones, so
/// that one pointer leads to all of them.
#[derive(Debug, Default)]
pub(crate) struct QuantizedRows {
    n_rows: usize,
    n_runs: usize,
    groups: Vec<RowGroup>,
    runs: Vec<ActivationRun>,
}

/// Rows that are multiplied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowGroup {
    pub(super) first_row: usize,
    pub(super) n_rows: usize,
    /// Rows that there is room for, at least `n_rows`. Those that are lacking are zeros, or what an earlier batch has left.
    pub(super) width: usize,
    /// Index of the group's first run.
    start: usize,
}

/// Thirty-two activations: a cache line.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct ActivationRun {
    /// In [-127, 127].
    pub(super) values: [i8; RUN_LEN],
    pub(super) scale: f32,
    /// Sum of the values of each half.
    #[allow(dead_code, reason = "for unsigned weights, which some machines do not have")]
    pub(super) half_sums: [i16; 2],
    /// Scale times the sum of all values, and of each half's, for weights with minimums.
    pub(super) scaled_sum: f32,
    pub(super) scaled_half_sums: [f32; 2],
}

impl ActivationRun {
    const ZERO: Self = Self {
        values: [0; RUN_LEN],
        scale: 0.0,
        half_sums: [0; 2],
        scaled_sum: 0.0,
        scaled_half_sums: [0.0; 2],
    };

    /// Sets what follows from the scale and the sums of the values.
    #[inline(always)]
    fn set_sums(&mut self, scale: f32, half_sums: [i32; 2]) {
        self.scale = scale;
        self.half_sums = half_sums.map(|sum| sum as i16);
        self.scaled_half_sums = half_sums.map(|sum| scale * sum as f32);
        self.scaled_sum = scale * (half_sums[0] + half_sums[1]) as f32;
    }
}

impl QuantizedRows {
    /// Quantises `rows`, `(n_rows, n_columns)`. Does nothing where `n_columns` is no whole number of runs: then
    /// no quantised weights can want it.
    pub(crate) fn set_rows(&mut self, isa: Isa, pool: &mut ThreadPool, rows: &[f32], n_columns: usize) {
        if n_columns.is_multiple_of(RUN_LEN) {
            self.quantize(isa, pool, rows.len() / n_columns, n_columns, &|columns| {
                &rows[columns]
            });
        }
    }

    /// Lets `make` fill each of `rows`, `(n_rows, n_columns)`, given its range of them, and quantises it at once, while it is in
    /// the first cache.
    pub(crate) fn make_rows(
        &mut self,
        isa: Isa,
        pool: &mut ThreadPool,
        rows: &mut [f32],
        n_columns: usize,
        make: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
    ) {
        let n_rows = rows.len() / n_columns;
        let rows = SharedOut::new(rows);
        let make_row = |columns: Range<usize>| {
            // SAFETY: every row is another range.
            let row = unsafe { rows.slice(columns.clone()) };
            make(columns, row);
            &*row
        };
        if n_columns.is_multiple_of(RUN_LEN) {
            self.quantize(isa, pool, n_rows, n_columns, &make_row);
        } else {
            pool.run_rows(n_rows, n_columns, &|columns| {
                make_row(columns);
            });
        }
    }

    /// Quantises the rows that `row_at` gives for their ranges. `n_columns` is a whole number of runs.
    fn quantize<'a>(
        &mut self,
        isa: Isa,
        pool: &mut ThreadPool,
        n_rows: usize,
        n_columns: usize,
        row_at: &(dyn Fn(Range<usize>) -> &'a [f32] + Sync),
    ) {
        self.n_runs = n_columns / RUN_LEN;
        self.n_rows = n_rows;
        self.group(isa.max_rows());
        let (groups, n_runs) = (&self.groups, self.n_runs);
        let runs = SharedOut::new(&mut self.runs);
        pool.run_rows(n_rows, n_columns, &|columns| {
            let row = columns.start / n_columns;
            let group = group_of(groups, row);
            // SAFETY: a row writes its own runs of the group only.
            let out = |run: usize| unsafe {
                let at = group.run(row - group.first_row, run);
                &mut runs.slice(at..at + 1)[0]
            };
            debug_assert_eq!(columns.len(), n_runs * RUN_LEN);
            let x = row_at(columns);
            match isa.0 {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the kind is only made where the instructions were detected.
                super::Kind::Avx2(Integers::Avx512Vnni) => unsafe { quantize_row_avx512(x, out) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                super::Kind::Avx2(_) => unsafe { quantize_row_avx2(x, out) },
                _ => quantize_row(x, out),
            }
        });
    }

    /// Divides the rows into groups. At most `max_rows` are one, 1, 2, 4, 8 or 12 wide; more are several, of two widths only, the
    /// wider ones first: those which leave the least room empty.
    fn group(&mut self, max_rows: usize) {
        self.groups.clear();
        let (wide, narrow) = if max_rows == 12 { (12, 8) } else { (8, 4) };
        let n_places = self.n_rows.next_multiple_of(4);
        // Twice eight places are better than twelve and one that is mostly empty.
        let n_narrow = match n_places % wide {
            0 => 0,
            rest => (1..=2).find(|n| n * narrow % wide == rest).unwrap_or(0),
        };
        let n_wide = (n_places - (n_narrow * narrow).min(n_places)) / wide;
        let widths = if self.n_rows <= max_rows {
            [1, 2, 4, 8, 12].into_iter().find(|it| *it >= self.n_rows)
        } else {
            None
        };
        let several = std::iter::repeat_n(wide, n_wide).chain(std::iter::repeat_n(narrow, n_narrow));
        let (mut first_row, mut start) = (0, 0);
        for width in widths
            .into_iter()
            .chain(several.take(if widths.is_some() { 0 } else { usize::MAX }))
        {
            let n_rows = (self.n_rows - first_row).min(width);
            self.groups.push(RowGroup {
                first_row,
                n_rows,
                width,
                start,
            });
            first_row += n_rows;
            start += width * self.n_runs;
        }
        self.runs.resize(start, ActivationRun::ZERO);
    }

    /// Runs in a row.
    pub(super) fn n_runs(&self) -> usize {
        self.n_runs
    }

    /// All rows, in groups.
    pub(super) fn groups(&self) -> &[RowGroup] {
        &self.groups
    }

    /// The runs of a group, `(n_runs, width)`.
    pub(super) fn runs_of(&self, group: RowGroup) -> &[ActivationRun] {
        &self.runs[group.start..group.start + group.width * self.n_runs]
    }

    /// Run `run` of row `row`.
    pub(super) fn run(&self, row: usize, run: usize) -> &ActivationRun {
        let group = group_of(&self.groups, row);
        &self.runs[group.run(row - group.first_row, run)]
    }
}

/// The group that a row is in.
fn group_of(groups: &[RowGroup], row: usize) -> RowGroup {
    groups[groups.partition_point(|it| it.first_row <= row) - 1]
}

impl RowGroup {
    /// Index of run `run` of the group's row `row`.
    fn run(self, row: usize, run: usize) -> usize {
        self.start + run * self.width + row
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn quantize_row_avx2<'a>(x: &[f32], out: impl Fn(usize) -> &'a mut ActivationRun) {
    quantize_row(x, out);
}

/// [`quantize_run`] run by run.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn quantize_row_avx512<'a>(x: &[f32], out: impl Fn(usize) -> &'a mut ActivationRun) {
    use std::arch::x86_64::*;
    for (idx, x) in x.as_chunks::<RUN_LEN>().0.iter().enumerate() {
        // SAFETY: 32 numbers.
        let (first, second) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))) };
        let magnitudes = [_mm512_abs_ps(first), _mm512_abs_ps(second)];
        // Either order passes over NaN in one place: the poison carries it on.
        let largest = _mm512_reduce_max_ps(_mm512_max_ps(magnitudes[0], magnitudes[1]));
        let zero = _mm512_setzero_ps();
        let poison = _mm512_fmadd_ps(magnitudes[0], zero, _mm512_mul_ps(magnitudes[1], zero));
        let is_number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(poison, poison) == 0xffff;
        let scale = if is_number { largest / 127.0 } else { f32::NAN };
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let integers = |x| _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
        let bytes = _mm256_set_m128i(
            _mm512_cvtepi32_epi8(integers(second)),
            _mm512_cvtepi32_epi8(integers(first)),
        );
        // Four sums of four values for each half, then one.
        let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
        let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
        let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b01_00_11_10>(sums));
        let run = out(idx);
        // SAFETY: there is room for 32 bytes.
        unsafe { _mm256_storeu_si256(run.values.as_mut_ptr().cast(), bytes) };
        let half_sums = [_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums)];
        run.set_sums(scale, half_sums);
    }
}

#[inline(always)]
fn quantize_row<'a>(x: &[f32], out: impl Fn(usize) -> &'a mut ActivationRun) {
    for (run, x) in x.as_chunks().0.iter().enumerate() {
        quantize_run(x, out(run));
    }
}

#[inline(always)]
fn quantize_run(x: &[f32; RUN_LEN], run: &mut ActivationRun) {
    let (mut largest, mut poison) = ([0.0f32; 8], [0.0f32; 8]);
    for chunk in x.as_chunks::<8>().0 {
        for lane in 0..8 {
            let magnitude = chunk[lane].abs();
            largest[lane] = if magnitude > largest[lane] {
                magnitude
            } else {
                largest[lane]
            };
            // Comparisons pass over NaN, and integers cannot hold it: the scale carries it on.
            poison[lane] += magnitude * 0.0;
        }
    }
    let largest = largest.into_iter().fold(0.0, f32::max);
    let scale = largest / 127.0 + poison.iter().sum::<f32>();
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut integers = [0i32; RUN_LEN];
    for (integer, x) in integers.iter_mut().zip(x) {
        // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
        *integer = (x * inverse + 12_582_912.0).to_bits() as i32 - 0x4b40_0000;
    }
    run.values = integers.map(|integer| integer as i8);
    let half_sum = |half: &[i8]| half.iter().map(|value| i32::from(*value)).sum();
    run.set_sums(scale, [half_sum(&run.values[..16]), half_sum(&run.values[16..])]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantized_activations_are_within_half_a_scale() {
        let x: Vec<f32> = (0..320)
            .map(|column| ((column * 37 % 101) as f32 / 50.0 - 1.0) * (column / 32) as f32)
            .collect();
        let mut quantized = QuantizedRows::default();
        quantized.set_rows(Isa::PORTABLE, &mut ThreadPool::new(1), &x, 320);
        assert_eq!(*quantized.run(0, 0), ActivationRun::ZERO, "a run of zeros");
        for (column, x) in x.iter().enumerate() {
            let run = quantized.run(0, column / 32);
            let value = run.values[column % 32];
            assert!(
                (x - run.scale * f32::from(value)).abs() <= 0.5001 * run.scale,
                "column {column}"
            );
        }
        let mut detected = QuantizedRows::default();
        detected.set_rows(Isa::detect(), &mut ThreadPool::new(1), &x, 320);
        for run in 0..10 {
            assert_eq!(detected.run(0, run), quantized.run(0, run));
        }
    }

    #[test]
    fn rows_are_quantized_as_they_are_made() {
        for n_columns in [64, 40] {
            let x: Vec<f32> = (0..30 * n_columns)
                .map(|at| (at * 37 % 101) as f32 - 50.0)
                .collect();
            let mut made = vec![0.0; x.len()];
            let (mut pool, isa) = (ThreadPool::new(2), Isa::detect());
            let (mut expected, mut found) = (QuantizedRows::default(), QuantizedRows::default());
            expected.set_rows(isa, &mut pool, &x, n_columns);
            found.make_rows(isa, &mut pool, &mut made, n_columns, &|range, row| {
                row.copy_from_slice(&x[range]);
            });
            assert_eq!(made, x);
            assert_eq!((&found.groups, &found.runs), (&expected.groups, &expected.runs));
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for isa in Isa::all() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 15, 16, 31] {
                    let mut x = [1.0; 64];
                    x[32 + at] = bad;
                    let mut quantized = QuantizedRows::default();
                    quantized.set_rows(isa, &mut ThreadPool::new(1), &x, 64);
                    assert!(quantized.run(0, 1).scale.is_nan(), "{} {bad} {at}", isa.name());
                    assert_eq!(quantized.run(0, 0).scale, 1.0 / 127.0);
                }
            }
        }
    }

    #[test]
    fn every_row_has_its_place() {
        for n_rows in 1..40 {
            let x: Vec<f32> = (0..n_rows * 64).map(|at| (at / 64 + 1) as f32).collect();
            for isa in Isa::all() {
                let mut quantized = QuantizedRows::default();
                quantized.set_rows(isa, &mut ThreadPool::new(1), &x, 64);
                for row in 0..n_rows {
                    let scale = (row + 1) as f32 / 127.0;
                    assert!([0, 1].map(|run| quantized.run(row, run).scale) == [scale; 2]);
                }
                let groups = quantized.groups();
                assert_eq!(groups.iter().map(|it| it.n_rows).sum::<usize>(), n_rows);
                assert!(
                    groups
                        .iter()
                        .all(|it| it.n_rows <= it.width && it.width <= isa.max_rows())
                );
            }
        }
    }
}
