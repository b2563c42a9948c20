//! `surmise bench --kernels`: what products with each type of weights cost, with each set of instructions that this machine has.

use std::time::{Duration, Instant};

use serde::Serialize;
use surmise_engine::{
    EngineError,
    kernels::Isa,
    product_timer::ProductTimer,
    quant::{known_type_names, known_types},
    weights::GgmlType,
};

use super::{bandwidth::Bandwidth, spread::Spread};

/// Columns of the matrices: whole blocks of every type.
const N_INPUTS: usize = 4096;
/// Bytes of weights that a few rows are multiplied by: more than most caches hold, as a model's.
const LARGE_BYTES: usize = 256 << 20;
/// Rows that verify drafts.
const STEP_ROWS: [usize; 4] = [2, 4, 8, 12];
/// Rows of a prompt, and the outputs of the matrix that they are multiplied by.
pub const PROMPT_ROWS: usize = 512;
const PROMPT_OUTPUTS: usize = 1024;
/// One type with one set of instructions begins no new round after so long.
const TIME: Duration = Duration::from_millis(600);

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Kernels {
    /// Threads that compute.
    pub n_threads: usize,
    /// By type of the weights, then by instructions, the best first.
    pub products: Vec<Products>,
}

/// Products with one type of weights and one set of instructions.
#[derive(Debug, Clone, Serialize)]
pub struct Products {
    /// The type's name as ggml prints it.
    pub weights: &'static str,
    /// Instructions that the kernel uses.
    pub instructions: &'static str,
    /// Rounds that there was time for.
    pub n_rounds: usize,
    /// Bytes of weights per second with one row.
    pub bytes_per_second: Spread,
    /// Those as a share of what the same threads read in the same rounds.
    pub share_of_bandwidth: f64,
    /// Steps of several rows.
    pub steps: Vec<Step>,
    /// Multiplications and additions per second with the rows of a long prompt.
    pub multiply_adds_per_second: Spread,
}

/// A product with a few rows.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Rows.
    pub n_rows: usize,
    /// Against one row.
    pub relative: f64,
}

/// Measures the types whose names are in `formats`, or all; each with at most `n_rounds` rounds. `progress` is told what is next.
///
/// # Errors
/// [`EngineError::Unsupported`] for a type that there is no kernel for, and [`EngineError::NoMemory`].
pub fn measure(
    formats: &[String],
    threads: Option<usize>,
    n_rounds: usize,
    progress: &dyn Fn(&str),
) -> Result<Kernels, EngineError> {
    let is_called = |dtype: GgmlType, name: &str| dtype.name().eq_ignore_ascii_case(name);
    if let Some(unknown) = formats
        .iter()
        .find(|it| !known_types().any(|dtype| is_called(dtype, it)))
    {
        return Err(EngineError::Unsupported {
            what: "type of weights",
            found: unknown.clone(),
            known: known_type_names(),
        });
    }
    let wanted = |dtype: &GgmlType| formats.is_empty() || formats.iter().any(|it| is_called(*dtype, it));
    let mut kernels = Kernels {
        n_threads: 0,
        products: Vec::new(),
    };
    let mut bandwidth = None;
    for dtype in known_types().filter(wanted) {
        for isa in Isa::all() {
            progress(&format!("{} with {}", dtype.name(), isa.name()));
            let n_outputs = LARGE_BYTES / (N_INPUTS / dtype.block_len() * dtype.block_bytes());
            let large = ProductTimer::new(dtype, isa, [n_outputs, N_INPUTS], threads)?;
            let prompt = ProductTimer::new(dtype, isa, [PROMPT_OUTPUTS, N_INPUTS], threads)?;
            kernels.n_threads = large.n_threads();
            let bandwidth = match &bandwidth {
                Some(bandwidth) => bandwidth,
                None => {
                    bandwidth.insert(Bandwidth::new(LARGE_BYTES, large.n_threads()).map_err(|error| {
                        EngineError::NoMemory {
                            what: "memory to be read".into(),
                            n_bytes: LARGE_BYTES,
                            reason: error.to_string(),
                        }
                    })?)
                }
            };
            kernels
                .products
                .push(products(dtype, isa, large, prompt, bandwidth, n_rounds));
        }
    }
    Ok(kernels)
}

fn products(
    dtype: GgmlType,
    isa: Isa,
    mut large: ProductTimer,
    mut prompt: ProductTimer,
    bandwidth: &Bandwidth,
    n_rounds: usize,
) -> Products {
    let (mut read, mut one_row, mut steps, mut long) =
        (vec![], vec![], [const { Vec::new() }; STEP_ROWS.len()], vec![]);
    let started = Instant::now();
    large.multiply(1);
    while one_row.is_empty() || one_row.len() < n_rounds && started.elapsed() < TIME {
        read.push(bandwidth.measure(1));
        large.multiply(1);
        one_row.push(large.multiply(1).as_secs_f64());
        for (n_rows, seconds) in STEP_ROWS.into_iter().zip(&mut steps) {
            seconds.push(large.multiply(n_rows).as_secs_f64());
        }
        prompt.multiply(1);
        long.push(prompt.multiply(PROMPT_ROWS).as_secs_f64());
    }
    let speeds =
        |amount: usize, seconds: &[f64]| Spread::of(seconds.iter().map(|it| amount as f64 / it).collect());
    let n_rounds = one_row.len();
    let bytes_per_second = speeds(large.n_bytes(), &one_row);
    let one_row = Spread::of(one_row).median;
    Products {
        weights: dtype.name(),
        instructions: isa.name(),
        n_rounds,
        share_of_bandwidth: bytes_per_second.median / Spread::of(read).median,
        bytes_per_second,
        steps: STEP_ROWS
            .into_iter()
            .zip(steps)
            .map(|(n_rows, seconds)| Step {
                n_rows,
                relative: Spread::of(seconds).median / one_row,
            })
            .collect(),
        multiply_adds_per_second: speeds(PROMPT_ROWS * PROMPT_OUTPUTS * N_INPUTS, &long),
    }
}
