//! Tensors by name and shape, with an account of which were asked for, in the types that they are multiplied in.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{LoadOptions, NormWeights};
use crate::{
    error::EngineError,
    kernels::{
        matmul::{Matrix, TileArena},
        pool::ThreadPool,
    },
    model::ModelConfig,
    weights::{GgmlType, Tensor, Weights, fp8},
};

/// Smaller matrices are not worth quantising.
const MIN_QUANTIZED_ELEMENTS: usize = 1 << 12;

pub(super) struct Loader<'a> {
    weights: &'a Weights,
    pub(super) config: &'a ModelConfig,
    options: LoadOptions<'a>,
    /// Lays matrices out for the kernels.
    pool: &'a mut ThreadPool,
    arena: TileArena,
    used: BTreeSet<String>,
    /// By name, what is read where it stands, and was not looked at.
    unread: BTreeMap<String, Tensor>,
    /// Bytes of the tensors that were asked for, as their files have them.
    n_read_bytes: usize,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        weights: &'a Weights,
        config: &'a ModelConfig,
        options: LoadOptions<'a>,
        pool: &'a mut ThreadPool,
    ) -> Self {
        Self {
            weights,
            config,
            options,
            pool,
            arena: TileArena::default(),
            used: BTreeSet::new(),
            unread: BTreeMap::new(),
            n_read_bytes: 0,
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.weights.get(name).is_some()
    }

    /// The matrix `name`, `(n_outputs, n_inputs)`.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] if it is not there or has another shape, [`EngineError::Unsupported`] for a type without
    /// kernels, [`EngineError::BadWeight`] for what is read and is no number. So all others.
    pub(super) fn matrix(
        &mut self,
        name: &str,
        n_outputs: usize,
        n_inputs: usize,
    ) -> Result<Matrix, EngineError> {
        self.part(name, &[n_outputs, n_inputs], 0..n_outputs)
    }

    /// The matrix `name`, `(n_rows, n_columns)`, of which only rows are read.
    pub(super) fn table(
        &mut self,
        name: &str,
        n_rows: usize,
        n_columns: usize,
    ) -> Result<Matrix, EngineError> {
        let tensor = self.tensor(name, &[n_rows, n_columns])?;
        self.unread.insert(name.to_owned(), tensor.clone());
        Matrix::of_rows(tensor.clone())
    }

    /// As [`matrix`](Self::matrix), where the file may do without.
    pub(super) fn optional_matrix(
        &mut self,
        name: &str,
        n_outputs: usize,
        n_inputs: usize,
    ) -> Result<Option<Matrix>, EngineError> {
        self.has(name)
            .then(|| self.matrix(name, n_outputs, n_inputs))
            .transpose()
    }

    /// Some rows of a tensor that holds several matrices, one below the other. Rows are counted over all dimensions but the
    /// last. They get the type that the options want for the whole tensor.
    pub(super) fn part(
        &mut self,
        name: &str,
        shape: &[usize],
        rows: Range<usize>,
    ) -> Result<Matrix, EngineError> {
        let whole = self.tensor(name, shape)?;
        let dtype = loaded_type(name, whole, self.options.quantize);
        let mut tensor = whole.rows(rows);
        if dtype != tensor.dtype {
            tensor = tensor.requantized(dtype)?;
        }
        self.n_read_bytes += tensor.n_bytes();
        (self.options.progress)(self.n_read_bytes);
        let is_stored = tensor.is_stored();
        let matrix = Matrix::new(tensor, self.options.isa, self.pool, &mut self.arena)?;
        if is_stored && matrix.is_unread() {
            self.unread.insert(name.to_owned(), whole.clone());
        }
        Ok(matrix)
    }

    /// One of several matrices, `(n_outputs, n_inputs)` each: on its own, or within the tensor that holds all of them.
    pub(super) fn slice(
        &mut self,
        name: &str,
        (idx, n_matrices): (usize, usize),
        n_outputs: usize,
        n_inputs: usize,
    ) -> Result<Matrix, EngineError> {
        let alone = format!("{name}.{idx}.weight");
        if self.has(&alone) {
            return self.matrix(&alone, n_outputs, n_inputs);
        }
        let shape = [n_matrices, n_outputs, n_inputs];
        let rows = idx * n_outputs..(idx + 1) * n_outputs;
        self.part(&format!("{name}.weight"), &shape, rows)
    }

    /// A vector of `len` numbers, as single precision.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
        self.numbers(name, &[len])
    }

    /// As [`vector`](Self::vector), where the file may do without.
    pub(super) fn optional_vector(
        &mut self,
        name: &str,
        len: usize,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        self.has(name).then(|| self.vector(name, len)).transpose()
    }

    /// All numbers of a small tensor.
    pub(super) fn numbers(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EngineError> {
        self.tensor(name, shape)?.numbers()
    }

    /// The one row of a matrix, which some files have as a vector.
    pub(super) fn optional_row(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>, EngineError> {
        match self.weights.get(name).map(|tensor| tensor.shape.len()) {
            None => Ok(None),
            Some(1) => self.vector(name, len).map(Some),
            Some(_) => self.numbers(name, &[1, len]).map(Some),
        }
    }

    /// Weights of a convolution over positions, `(width, len)`; some files have them as `(width, 1, len)`.
    pub(super) fn conv(&mut self, name: &str, width: usize, len: usize) -> Result<Vec<f32>, EngineError> {
        match self.weights.require(name)?.shape.len() {
            3 => self.numbers(name, &[width, 1, len]),
            _ => self.numbers(name, &[width, len]),
        }
    }

    /// A norm of the residual stream; `name` goes without `.weight`.
    pub(super) fn norm(&mut self, name: &str) -> Result<NormWeights, EngineError> {
        let hidden = self.config.hidden;
        Ok(NormWeights {
            scale: self.norm_scale(name, hidden)?,
            bias: self
                .optional_vector(&format!("{name}.bias"), hidden)?
                .unwrap_or_else(|| vec![0.0; hidden]),
        })
    }

    /// As [`norm`](Self::norm), where the file may do without.
    pub(super) fn optional_norm(&mut self, name: &str) -> Result<Option<NormWeights>, EngineError> {
        self.has(&format!("{name}.weight"))
            .then(|| self.norm(name))
            .transpose()
    }

    /// The weights of a norm of heads, where the family has it.
    pub(super) fn optional_head_norm(
        &mut self,
        name: &str,
        head_dim: usize,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        self.has(&format!("{name}.weight"))
            .then(|| self.norm_scale(name, head_dim))
            .transpose()
    }

    /// Passes over a tensor that the file may have for nothing.
    pub(super) fn ignore(&mut self, name: &str) {
        self.used.insert(name.to_owned());
    }

    /// The tensors that are read where they stand, and were not looked at.
    pub(super) fn into_unread(self) -> Vec<Tensor> {
        self.unread.into_values().collect()
    }

    /// Refuses a file with weights that nothing asked for: its text would be wrong without a word.
    pub(super) fn refuse_the_rest(&self) -> Result<(), EngineError> {
        match self.weights.names().find(|name| !self.used.contains(*name)) {
            None => Ok(()),
            Some(name) => Err(EngineError::Unsupported {
                what: "tensor",
                found: name.into(),
                known: format!(
                    "for {} with {} layers, such as {}",
                    self.config.architecture,
                    self.config.n_layers,
                    self.used
                        .iter()
                        .take(12)
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            }),
        }
    }

    fn norm_scale(&mut self, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
        let mut scale = self.vector(&format!("{name}.weight"), len)?;
        let offset = self.config.norm.weight_offset;
        scale.iter_mut().for_each(|it| *it += offset);
        Ok(scale)
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<&'a Tensor, EngineError> {
        let tensor = self.weights.require(name)?;
        if tensor.shape != shape {
            return Err(self.weights.bad(
                name,
                format!(
                    "shape {:?} found, {shape:?} expected from the configuration",
                    tensor.shape
                ),
            ));
        }
        self.used.insert(name.to_owned());
        Ok(tensor)
    }
}

/// Bytes that a model's tensors take once they are loaded. Of embeddings that are no output matrix only rows are read, where
/// they are: they take nothing.
pub(in crate::model) fn loaded_bytes(weights: &Weights, quantize: Option<GgmlType>) -> usize {
    let has_output = weights.get("output.weight").is_some();
    let is_table =
        |name: &str| name == LAYER_EMBEDDING || name == POSITION_EMBEDDING || has_output && name == EMBEDDING;
    let in_memory = weights.iter().filter(|(name, _)| !is_table(name));
    in_memory
        .map(|(name, tensor)| match tensor.shape.len() {
            // Vectors are widened.
            1 => tensor.n_elements() * size_of::<f32>(),
            _ => {
                let dtype = loaded_type(name, tensor, quantize);
                tensor.n_elements() / dtype.block_len() * dtype.block_bytes()
            }
        })
        .sum()
}

const EMBEDDING: &str = "token_embd.weight";

/// The embedding of positions.
pub(super) const POSITION_EMBEDDING: &str = "position_embd.weight";

/// The second embedding, that of all layers.
pub(super) const LAYER_EMBEDDING: &str = "per_layer_token_embd.weight";

/// The type in which the matrices of a tensor are multiplied: its own, or the one to quantise to if they are large, and not
/// quantised yet. Rows that are no whole blocks of 256 get Q8_0, and what scores the vocabulary 6 bits at least, as in
/// llama.cpp; routers stay exact.
fn loaded_type(name: &str, tensor: &Tensor, quantize: Option<GgmlType>) -> GgmlType {
    let is_plain = matches!(tensor.source_type(), "F32" | "F16" | "BF16" | fp8::NAME);
    let n_elements: usize = tensor.shape.iter().rev().take(2).product();
    let Some(wanted) = quantize.filter(|_| is_plain && n_elements >= MIN_QUANTIZED_ELEMENTS) else {
        return tensor.dtype;
    };
    let fits = |dtype: &GgmlType| tensor.n_cols().is_multiple_of(dtype.block_len());
    let candidates = match name {
        _ if name.ends_with("ffn_gate_inp.weight") => return tensor.dtype,
        EMBEDDING | "output.weight" if wanted != GgmlType::Q8_0 => [GgmlType::Q6K, GgmlType::Q8_0],
        _ => [wanted, GgmlType::Q8_0],
    };
    candidates.into_iter().find(fits).unwrap_or(tensor.dtype)
}
