//! Every product against the dequantised reference, and the same bits whatever runs beside a row.

use super::*;

/// The integers are exact, so only the order of single-precision additions differs.
const TOLERANCE: f32 = 2e-5;

const QUANTIZED: [GgmlType; 8] = [
    GgmlType::Q8_0,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q4K,
    GgmlType::Q5K,
    GgmlType::Q6K,
];

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

/// Random blocks, all bit patterns allowed except scales that are not moderate numbers.
fn random_matrix(dtype: GgmlType, n_outputs: usize, n_inputs: usize, random: &mut Random) -> Matrix {
    let n_bytes = n_outputs * n_inputs / dtype.block_len() * dtype.block_bytes();
    let mut bytes: Vec<u8> = (0..n_bytes).map(|_| random.next() as u8).collect();
    let scales_at: &[usize] = match dtype {
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4K | GgmlType::Q5K => &[0, 2],
        GgmlType::Q6K => &[208],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        match dtype {
            GgmlType::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            GgmlType::F16 => block.copy_from_slice(&half::f16::from_f32(random.float()).to_le_bytes()),
            GgmlType::BF16 => block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes()),
            _ => {
                for &at in scales_at {
                    block[at..at + 2]
                        .copy_from_slice(&half::f16::from_f32(random.float() / 16.0).to_le_bytes());
                }
            }
        }
    }
    Matrix::new(Tensor::from_bytes("w", dtype, &[n_outputs, n_inputs], bytes).unwrap()).unwrap()
}

fn quantize(isa: Isa, rows: &[f32], n_columns: usize) -> QuantizedRows {
    let mut quantized = QuantizedRows::default();
    quantized.set_rows(isa, &mut ThreadPool::new(1), rows, n_columns);
    quantized
}

fn product(isa: Isa, matrix: &Matrix, rows: &[f32], n_threads: usize) -> Vec<f32> {
    let n_rows = rows.len() / matrix.n_inputs;
    let quantized = quantize(isa, rows, matrix.n_inputs);
    let mut out = vec![f32::NAN; n_rows * matrix.n_outputs];
    let input = Input {
        rows,
        quantized: &quantized,
    };
    let products = [Product {
        matrix,
        out: &mut out,
    }];
    multiply(isa, &mut ThreadPool::new(n_threads), input, n_rows, products);
    out
}

/// Weights and activations as the numbers they stand for, multiplied in double precision.
fn reference(isa: Isa, matrix: &Matrix, rows: &[f32]) -> Vec<f64> {
    let quantized = quantize(isa, rows, matrix.n_inputs);
    let mut weights = vec![0.0; matrix.n_inputs];
    let n_rows = rows.len() / matrix.n_inputs;
    let mut out = vec![0.0; n_rows * matrix.n_outputs];
    for output in 0..matrix.n_outputs {
        matrix.row(output, &mut weights);
        for row in 0..n_rows {
            let activation = |column: usize| {
                if matrix.wants_quantized(isa) {
                    f64::from(quantized.values(row)[column]) * f64::from(quantized.scales(row)[column / 32])
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

fn isas() -> Vec<Isa> {
    let mut isas = vec![Isa::PORTABLE, Isa::detect()];
    isas.dedup();
    isas
}

#[test]
fn products_equal_the_dequantized_reference() {
    let mut random = Random(1);
    for isa in isas() {
        for dtype in QUANTIZED
            .into_iter()
            .chain([GgmlType::F32, GgmlType::F16, GgmlType::BF16])
        {
            for n_inputs in [256, 768] {
                let matrix = random_matrix(dtype, 19, n_inputs, &mut random);
                for n_rows in [1, 2, 3, 5, 8, 13, 50] {
                    let rows: Vec<f32> = (0..n_rows * n_inputs).map(|_| random.float()).collect();
                    let expected = reference(isa, &matrix, &rows);
                    let scale = expected.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
                    for (found, expected) in product(isa, &matrix, &rows, 2).into_iter().zip(expected) {
                        let error = ((f64::from(found) - expected) / scale).abs() as f32;
                        assert!(
                            error < TOLERANCE,
                            "{isa:?} {dtype:?} {n_rows} rows: {found} for {expected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_gives_the_same_bits_alone_and_in_a_batch_on_any_number_of_threads() {
    let mut random = Random(2);
    for isa in isas() {
        for dtype in QUANTIZED {
            let matrix = random_matrix(dtype, 256, 768, &mut random);
            let rows: Vec<f32> = (0..21 * 768).map(|_| random.float()).collect();
            let together = product(isa, &matrix, &rows, 3);
            for (row, x) in rows.chunks_exact(768).enumerate() {
                let alone = product(isa, &matrix, x, 1);
                assert_eq!(
                    alone,
                    together[row * 256..(row + 1) * 256],
                    "{isa:?} {dtype:?} row {row}"
                );
            }
        }
    }
}

#[test]
fn quantized_activations_are_within_half_a_scale() {
    let mut random = Random(3);
    let x: Vec<f32> = (0..320)
        .map(|column| random.float() * (column / 32) as f32)
        .collect();
    let (mut values, mut scales, mut scaled_sums) = (vec![0; 320], vec![0.0; 10], vec![0.0; 10]);
    quantize_row(&x, &mut values, &mut scales, &mut scaled_sums);
    assert_eq!(scales[0], 0.0, "a run of zeros");
    for (column, x) in x.iter().enumerate() {
        let scale = scales[column / 32];
        assert!(
            (x - scale * f32::from(values[column])).abs() <= 0.5001 * scale,
            "column {column}"
        );
    }
    let detected = quantize(Isa::detect(), &x, 320);
    if Isa::detect() != Isa::PORTABLE {
        assert_eq!(
            (detected.values, detected.scales, detected.scaled_sums),
            (values, scales, scaled_sums)
        );
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
        (GgmlType::Q4K, GgmlDType::Q4K),
        (GgmlType::Q5K, GgmlDType::Q5K),
        (GgmlType::Q6K, GgmlDType::Q6K),
    ];
    for (dtype, candle_type) in types {
        let matrix = random_matrix(dtype, 3, 512, &mut random);
        let device = candle_core::Device::Cpu;
        let storage =
            QStorage::from_data(matrix.tensor.bytes().to_vec().into(), &device, candle_type).unwrap();
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
