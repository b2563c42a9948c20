//! Every path against the slow one, bit for bit, and the slow one against the dequantised weights.

use super::*;
use crate::{
    kernels::{pool::ThreadPool, quantized_rows::QuantizedRows},
    weights::{
        GgmlType, SharedBytes,
        panels::{LINE_BYTES, PanelShape},
    },
};

/// The integers are exact, so only the rounding of single-precision additions differs.
const TOLERANCE: f32 = 2e-5;

const QUANTIZED: [GgmlType; 13] = [
    GgmlType::Q8_0,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q2K,
    GgmlType::Q3K,
    GgmlType::Q4K,
    GgmlType::Q5K,
    GgmlType::Q6K,
    GgmlType::IQ4NL,
    GgmlType::IQ4XS,
    GgmlType::MXFP4,
];

const FLOATS: [GgmlType; 3] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn float(&mut self) -> f32 {
        (self.next() % 20_001) as f32 / 10_000.0 - 1.0
    }
}

/// Replaces the scales of a block that are not integers.
fn set_scales(dtype: GgmlType, block: &mut [u8], mut scale: impl FnMut() -> f32) {
    let places: &[usize] = match dtype {
        GgmlType::MXFP4 => {
            block[0] = (127.0 + scale().abs().log2()).clamp(100.0, 150.0) as u8;
            return;
        }
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => &[0, 2],
        GgmlType::Q2K => &[80, 82],
        GgmlType::Q3K => &[108],
        GgmlType::Q6K => &[208],
        _ => &[0],
    };
    for &at in places {
        block[at..at + 2].copy_from_slice(&half::f16::from_f32(scale()).to_le_bytes());
    }
}

/// Random blocks, all bit patterns allowed except scales that are not moderate numbers.
fn random_matrix(dtype: GgmlType, n_outputs: usize, n_inputs: usize, random: &mut Random) -> Matrix {
    let n_bytes = n_outputs * n_inputs / dtype.block_len() * dtype.block_bytes();
    let mut bytes: Vec<u8> = (0..n_bytes).map(|_| random.next() as u8).collect();
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        match dtype {
            GgmlType::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            GgmlType::F16 => block.copy_from_slice(&half::f16::from_f32(random.float()).to_le_bytes()),
            GgmlType::BF16 => block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes()),
            _ => set_scales(dtype, block, || random.float() / 16.0),
        }
    }
    Matrix::of_rows(Tensor::from_bytes("w", dtype, &[n_outputs, n_inputs], bytes).unwrap()).unwrap()
}

fn quantize(isa: Isa, rows: &[f32], n_columns: usize) -> QuantizedRows {
    let mut quantized = QuantizedRows::default();
    quantized.set_rows(isa, &mut ThreadPool::new(1), rows, n_columns);
    quantized
}

fn product(isa: Isa, matrix: &Matrix, rows: &[f32], n_threads: usize) -> Vec<f32> {
    let n_rows = rows.len() / matrix.n_inputs;
    let quantized = quantize(isa, rows, matrix.n_inputs);
    let pool = &mut ThreadPool::new(n_threads);
    let matrix = &Matrix::new(tensor(matrix).clone(), isa, pool, &mut TileArena::default()).unwrap();
    let mut out = vec![f32::NAN; n_rows * matrix.n_outputs];
    let input = Input {
        rows,
        quantized: &quantized,
    };
    let products = [Product {
        matrix,
        out: &mut out,
    }];
    multiply(isa, pool, input, n_rows, products);
    out
}

fn tensor(matrix: &Matrix) -> &Tensor {
    match &matrix.layout {
        Layout::File(tensor) => tensor,
        Layout::Tiles(_) => panic!("the matrix is as in the file"),
    }
}

/// Weights and activations as the numbers they stand for, multiplied in double precision.
fn reference(matrix: &Matrix, rows: &[f32]) -> Vec<f64> {
    let quantized = quantize(Isa::PORTABLE, rows, matrix.n_inputs);
    let mut weights = vec![0.0; matrix.n_inputs];
    let n_rows = rows.len() / matrix.n_inputs;
    let mut out = vec![0.0; n_rows * matrix.n_outputs];
    for output in 0..matrix.n_outputs {
        matrix.row(output, &mut weights);
        for row in 0..n_rows {
            let activation = |column: usize| {
                if matrix.wants_quantized() {
                    let run = quantized.run(row, column / 32);
                    f64::from(run.values[column % 32]) * f64::from(run.scale)
                } else {
                    f64::from(rows[row * matrix.n_inputs + column])
                }
            };
            out[row * matrix.n_outputs + output] = weights
                .iter()
                .enumerate()
                .map(|(column, weight)| f64::from(*weight) * activation(column))
                .sum();
        }
    }
    out
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_slow_product_is_that_of_the_dequantized_weights() {
    let mut random = Random(1);
    for isa in [Isa::PORTABLE, Isa::detect()] {
        for dtype in QUANTIZED.into_iter().chain(FLOATS) {
            let matrix = random_matrix(dtype, 19, 768, &mut random);
            let rows: Vec<f32> = (0..5 * 768).map(|_| random.float()).collect();
            let expected = reference(&matrix, &rows);
            let scale = expected.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
            for (found, expected) in product(isa, &matrix, &rows, 2).into_iter().zip(expected) {
                let error = ((f64::from(found) - expected) / scale).abs() as f32;
                assert!(
                    error < TOLERANCE,
                    "{} {dtype:?}: {found} for {expected}",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn every_path_gives_the_bits_of_the_slow_one() {
    let mut random = Random(2);
    for isa in Isa::all() {
        for dtype in QUANTIZED {
            for (n_outputs, n_runs) in [(1, 8), (8, 8), (19, 24), (37, 40)] {
                let n_inputs = n_runs * 32 + if dtype.block_len() == 32 { 96 } else { 0 };
                let matrix = random_matrix(dtype, n_outputs, n_inputs, &mut random);
                for n_rows in (1..=17).chain([48, 130, 512]) {
                    let rows: Vec<f32> = (0..n_rows * n_inputs).map(|_| random.float()).collect();
                    let expected = product(Isa::PORTABLE, &matrix, &rows, 1);
                    assert!(
                        bits(&product(isa, &matrix, &rows, 3)) == bits(&expected),
                        "{}: {n_rows} rows by {dtype:?} ({n_outputs}, {n_inputs})",
                        isa.name()
                    );
                }
            }
        }
    }
}

#[test]
fn any_number_of_blocks_makes_a_row() {
    let mut random = Random(4);
    for isa in Isa::all() {
        for dtype in QUANTIZED.into_iter().chain(FLOATS) {
            for n_blocks in (1..=20).chain([28, 72, 90]) {
                let n_inputs = n_blocks * dtype.block_len().max(32);
                let matrix = random_matrix(dtype, 19, n_inputs, &mut random);
                let rows: Vec<f32> = (0..13 * n_inputs).map(|_| random.float()).collect();
                for n_rows in [1, 8, 13] {
                    let rows = &rows[..n_rows * n_inputs];
                    let (found, expected) = (product(isa, &matrix, rows, 2), reference(&matrix, rows));
                    let scale = expected.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
                    for (found, expected) in found.into_iter().zip(expected) {
                        let error = ((f64::from(found) - expected) / scale).abs() as f32;
                        assert!(
                            error < TOLERANCE,
                            "{} {dtype:?}, {n_rows} rows of {n_inputs}: {found} for {expected}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn plain_numbers_make_rows_of_any_length() {
    let mut random = Random(6);
    for isa in Isa::all() {
        for dtype in FLOATS {
            for n_inputs in [1, 7, 17, 100, 771] {
                let matrix = random_matrix(dtype, 19, n_inputs, &mut random);
                for n_rows in (1..=7).chain([13, 97]) {
                    let rows: Vec<f32> = (0..n_rows * n_inputs).map(|_| random.float()).collect();
                    let found = product(isa, &matrix, &rows, 2);
                    for (found, expected) in found.into_iter().zip(reference(&matrix, &rows)) {
                        let error = (f64::from(found) - expected).abs() / expected.abs().max(1.0);
                        assert!(
                            error < f64::from(TOLERANCE),
                            "{} {dtype:?}, {n_rows} rows of {n_inputs}: {found} for {expected}",
                            isa.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_gives_the_same_bits_alone_and_in_a_batch_on_any_number_of_threads() {
    let mut random = Random(3);
    for isa in Isa::all() {
        for dtype in [GgmlType::Q6K, GgmlType::Q4_0].into_iter().chain(FLOATS) {
            let matrix = random_matrix(dtype, 256, 768, &mut random);
            let rows: Vec<f32> = (0..67 * 768).map(|_| random.float()).collect();
            let together = product(isa, &matrix, &rows, 3);
            for (row, x) in rows.chunks_exact(768).enumerate() {
                let alone = product(isa, &matrix, x, 1);
                assert!(
                    bits(&alone) == bits(&together[row * 256..(row + 1) * 256]),
                    "{} {dtype:?} row {row}",
                    isa.name()
                );
            }
        }
        for dtype in FLOATS {
            let matrix = random_matrix(dtype, 19, 771, &mut random);
            let rows: Vec<f32> = (0..7 * 771).map(|_| random.float()).collect();
            let alone: Vec<f32> = rows
                .chunks_exact(771)
                .flat_map(|x| product(isa, &matrix, x, 1))
                .collect();
            for n_rows in 2..=7 {
                let together = product(isa, &matrix, &rows[..n_rows * 771], 2);
                assert!(
                    bits(&together) == bits(&alone[..n_rows * 19]),
                    "{} {dtype:?}, {n_rows} rows",
                    isa.name()
                );
            }
        }
    }
}

#[test]
fn rows_are_the_same_in_tiles() {
    let mut random = Random(5);
    for isa in Isa::all() {
        for dtype in QUANTIZED {
            let stored = random_matrix(dtype, 37, 512, &mut random);
            let laid_out = Matrix::new(
                tensor(&stored).clone(),
                isa,
                &mut ThreadPool::new(2),
                &mut TileArena::default(),
            )
            .unwrap();
            let (mut expected, mut found) = (vec![0.0; 512], vec![0.0; 512]);
            for row in 0..37 {
                stored.row(row, &mut expected);
                laid_out.row(row, &mut found);
                assert!(
                    bits(&found) == bits(&expected),
                    "{} {dtype:?} row {row}",
                    isa.name()
                );
            }
        }
    }
}

/// As in the model inside the program; from a place that loads of whole registers cannot read, they are laid out anew.
#[test]
fn panels_are_multiplied_where_they_lie() {
    let (n_outputs, n_inputs) = (96, 256);
    let stored = random_matrix(GgmlType::Q8_0, n_outputs, n_inputs, &mut Random(9));
    let shape = PanelShape::of_embedded(n_outputs, n_inputs, PANEL_ROWS).unwrap();
    let mut panels = Vec::new();
    for rows in tensor(&stored).bytes().chunks(PANEL_ROWS * n_inputs / 32 * 34) {
        let mut panel = vec![0; shape.n_bytes()];
        shape.lay_out(rows, &mut panel, |_| {});
        panels.extend(panel);
    }
    for (shift, is_in_place) in [(0, true), (32, false)] {
        let mut memory = vec![0; panels.len() + 2 * LINE_BYTES];
        let start = memory.as_ptr().align_offset(LINE_BYTES) + shift;
        memory[start..start + panels.len()].copy_from_slice(&panels);
        let bytes = SharedBytes::from(memory).slice(start..start + panels.len());
        let laid_out = Tensor::in_panels("w", GgmlType::Q8_0, &[n_outputs, n_inputs], shape, bytes);
        assert_eq!(laid_out.bytes(), tensor(&stored).bytes());
        let mut random = Random(2);
        let rows: Vec<f32> = (0..3 * n_inputs).map(|_| random.float()).collect();
        for isa in Isa::all() {
            // All of it, and what begins with another panel.
            for first in [0, 48] {
                let [found, expected] = [&laid_out, tensor(&stored)]
                    .map(|it| Matrix::of_rows(it.rows(first..n_outputs)).unwrap())
                    .map(|it| product(isa, &it, &rows, 2));
                assert!(bits(&found) == bits(&expected), "{} from {first}", isa.name());
            }
            let matrix = Matrix::new(
                laid_out.clone(),
                isa,
                &mut ThreadPool::new(1),
                &mut TileArena::default(),
            );
            match &matrix.unwrap().layout {
                Layout::Tiles(tiles) => assert_eq!(tiles.is_in_program(), is_in_place, "{}", isa.name()),
                Layout::File(_) => assert!(!isa.has_panels()),
            }
        }
    }
}

/// Every extreme at once: nothing may saturate.
#[test]
fn the_largest_products_fit() {
    for dtype in QUANTIZED {
        for byte in [0x00, 0x7f, 0x80, 0xff] {
            let n_bytes = 16 * dtype.row_bytes(512).unwrap();
            let mut bytes = vec![byte; n_bytes];
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                set_scales(dtype, block, || 1.0);
            }
            let tensor = Tensor::from_bytes("w", dtype, &[16, 512], bytes).unwrap();
            let matrix = Matrix::of_rows(tensor).unwrap();
            for sign in [-1.0, 1.0] {
                let rows = vec![sign; 3 * 512];
                let expected = product(Isa::PORTABLE, &matrix, &rows, 1);
                for isa in Isa::all() {
                    let found = product(isa, &matrix, &rows, 1);
                    assert!(
                        bits(&found) == bits(&expected),
                        "{} {dtype:?} {byte:x}",
                        isa.name()
                    );
                }
            }
        }
    }
}

/// candle reads the same block layouts, written by other people.
#[test]
fn dequantized_rows_equal_candle() {
    use candle_core::quantized::{GgmlDType, QStorage, QTensor};
    let mut random = Random(4);
    let types = [
        (GgmlType::Q8_0, GgmlDType::Q8_0),
        (GgmlType::Q4_0, GgmlDType::Q4_0),
        (GgmlType::Q4_1, GgmlDType::Q4_1),
        (GgmlType::Q5_0, GgmlDType::Q5_0),
        (GgmlType::Q5_1, GgmlDType::Q5_1),
        (GgmlType::Q2K, GgmlDType::Q2K),
        (GgmlType::Q3K, GgmlDType::Q3K),
        (GgmlType::Q4K, GgmlDType::Q4K),
        (GgmlType::Q5K, GgmlDType::Q5K),
        (GgmlType::Q6K, GgmlDType::Q6K),
    ];
    for (dtype, candle_type) in types {
        let matrix = random_matrix(dtype, 3, 512, &mut random);
        let device = candle_core::Device::Cpu;
        let storage =
            QStorage::from_data(tensor(&matrix).bytes().to_vec().into(), &device, candle_type).unwrap();
        let candle = QTensor::new(storage, (3, 512))
            .unwrap()
            .dequantize(&device)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let mut row = vec![0.0; 512];
        for (row_idx, expected) in candle.iter().enumerate() {
            matrix.row(row_idx, &mut row);
            for (found, expected) in row.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 1e-6 * expected.abs(),
                    "{dtype:?}: {found} for {expected}"
                );
            }
        }
    }
}
