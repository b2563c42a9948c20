//! Rows of a matrix made columns, eight by eight.

/// Numbers that change places together.
const SIDE: usize = 8;

/// `to[column][row] = from[row][column]` for the first `n_rows` rows of `from`, `(at least n_rows, n_columns)`; `to` is
/// `(n_columns, n_rows)`. `AVX` says that the caller runs with those instructions.
#[inline(always)]
pub(super) fn transpose<const AVX: bool>(from: &[f32], n_columns: usize, to: &mut [f32], n_rows: usize) {
    assert!(from.len() >= n_rows * n_columns && to.len() >= n_rows * n_columns);
    let (whole_rows, whole_columns) = (n_rows / SIDE * SIDE, n_columns / SIDE * SIDE);
    for row in (0..whole_rows).step_by(SIDE) {
        for column in (0..whole_columns).step_by(SIDE) {
            let (from, to) = (
                &from[row * n_columns + column..],
                &mut to[column * n_rows + row..],
            );
            #[cfg(target_arch = "x86_64")]
            if AVX {
                // SAFETY: the caller has the instructions; the square lies within both slices by the assertion.
                unsafe { transpose_square(from.as_ptr(), n_columns, to.as_mut_ptr(), n_rows) };
                continue;
            }
            for place in 0..SIDE * SIDE {
                let (row, column) = (place % SIDE, place / SIDE);
                to[column * n_rows + row] = from[row * n_columns + column];
            }
        }
    }
    for row in 0..n_rows {
        let first = if row < whole_rows { whole_columns } else { 0 };
        for column in first..n_columns {
            to[column * n_rows + row] = from[row * n_columns + column];
        }
    }
}

/// Eight rows of eight numbers, `from_stride` apart, become the columns of eight rows `to_stride` apart.
///
/// # Safety
/// The rows may be read and written.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline]
unsafe fn transpose_square(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    use std::arch::x86_64::*;
    let zero = _mm256_setzero_ps();
    let (mut rows, mut twos, mut fours) = ([zero; SIDE], [zero; SIDE], [zero; SIDE]);
    for (row, numbers) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *numbers = unsafe { _mm256_loadu_ps(from.add(row * from_stride)) };
    }
    // Each column of two rows together, then of four, then of all.
    for pair in [0, 2, 4, 6] {
        let (a, b) = (rows[pair], rows[pair + 1]);
        (twos[pair], twos[pair + 1]) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    }
    for (idx, first) in [0, 1, 4, 5].into_iter().enumerate() {
        let (a, b) = (twos[first], twos[first + 2]);
        fours[2 * idx] = _mm256_shuffle_ps::<0x44>(a, b);
        fours[2 * idx + 1] = _mm256_shuffle_ps::<0xee>(a, b);
    }
    for column in 0..SIDE / 2 {
        let (a, b) = (fours[column], fours[column + SIDE / 2]);
        let halves = [
            _mm256_permute2f128_ps::<0x20>(a, b),
            _mm256_permute2f128_ps::<0x31>(a, b),
        ];
        for (half, turned) in halves.into_iter().enumerate() {
            let column = column + half * SIDE / 2;
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_ps(to.add(column * to_stride), turned) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    #[test]
    fn rows_become_columns() {
        let has_avx = Isa::detect() != Isa::PORTABLE && cfg!(target_arch = "x86_64");
        for (n_rows, n_columns) in [(16, 32), (21, 32), (3, 8), (8, 11)] {
            let from: Vec<f32> = (0..(n_rows + 1) * n_columns).map(|it| it as f32).collect();
            let mut to = vec![0.0; n_rows * n_columns];
            let check = |to: &[f32]| {
                for (idx, found) in to.iter().enumerate() {
                    let (column, row) = (idx / n_rows, idx % n_rows);
                    assert_eq!(
                        *found,
                        from[row * n_columns + column],
                        "row {row}, column {column}"
                    );
                }
            };
            transpose::<false>(&from, n_columns, &mut to, n_rows);
            check(&to);
            if has_avx {
                to.fill(0.0);
                transpose::<true>(&from, n_columns, &mut to, n_rows);
                check(&to);
            }
        }
    }
}
