//! How the elements of a tensor are stored: the block types of ggml, with their sizes.

use std::fmt;

/// Type of a tensor's blocks.
///
/// All types that current files may hold are named, so that a file opens even if it holds a tensor this engine
/// cannot run; whoever uses a tensor checks its type. Source: `enum ggml_type` in ggml's `docs/gguf.md` and the
/// block structures in its `ggml-common.h`.
#[allow(missing_docs, reason = "the names are ggml's")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    IQ1S,
    IQ1M,
    IQ2XXS,
    IQ2XS,
    IQ2S,
    IQ3XXS,
    IQ3S,
    IQ4NL,
    IQ4XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    /// Ollama's, in its files of GPT-OSS from August 2025: a byte holds two neighbours, as in OpenAI's own.
    MXFP4Pairs,
    NVFP4,
}

/// Id in the file, name as ggml prints it, elements in a block, bytes of a block.
type Row = (u32, GgmlType, &'static str, usize, usize);

/// Ids 5, 31 to 33 and 36 to 38 belonged to types that ggml has removed. So did 4, before there were GGUF files: Ollama took it.
const TABLE: [Row; 34] = [
    (0, GgmlType::F32, "F32", 1, 4),
    (1, GgmlType::F16, "F16", 1, 2),
    (2, GgmlType::Q4_0, "Q4_0", 32, 18),
    (3, GgmlType::Q4_1, "Q4_1", 32, 20),
    (4, GgmlType::MXFP4Pairs, "MXFP4_PAIRS", 32, 17),
    (6, GgmlType::Q5_0, "Q5_0", 32, 22),
    (7, GgmlType::Q5_1, "Q5_1", 32, 24),
    (8, GgmlType::Q8_0, "Q8_0", 32, 34),
    (9, GgmlType::Q8_1, "Q8_1", 32, 36),
    (10, GgmlType::Q2K, "Q2_K", 256, 84),
    (11, GgmlType::Q3K, "Q3_K", 256, 110),
    (12, GgmlType::Q4K, "Q4_K", 256, 144),
    (13, GgmlType::Q5K, "Q5_K", 256, 176),
    (14, GgmlType::Q6K, "Q6_K", 256, 210),
    (15, GgmlType::Q8K, "Q8_K", 256, 292),
    (16, GgmlType::IQ2XXS, "IQ2_XXS", 256, 66),
    (17, GgmlType::IQ2XS, "IQ2_XS", 256, 74),
    (18, GgmlType::IQ3XXS, "IQ3_XXS", 256, 98),
    (19, GgmlType::IQ1S, "IQ1_S", 256, 50),
    (20, GgmlType::IQ4NL, "IQ4_NL", 32, 18),
    (21, GgmlType::IQ3S, "IQ3_S", 256, 110),
    (22, GgmlType::IQ2S, "IQ2_S", 256, 82),
    (23, GgmlType::IQ4XS, "IQ4_XS", 256, 136),
    (24, GgmlType::I8, "I8", 1, 1),
    (25, GgmlType::I16, "I16", 1, 2),
    (26, GgmlType::I32, "I32", 1, 4),
    (27, GgmlType::I64, "I64", 1, 8),
    (28, GgmlType::F64, "F64", 1, 8),
    (29, GgmlType::IQ1M, "IQ1_M", 256, 56),
    (30, GgmlType::BF16, "BF16", 1, 2),
    (34, GgmlType::TQ1_0, "TQ1_0", 256, 54),
    (35, GgmlType::TQ2_0, "TQ2_0", 256, 66),
    (39, GgmlType::MXFP4, "MXFP4", 32, 17),
    (40, GgmlType::NVFP4, "NVFP4", 64, 36),
];

impl GgmlType {
    /// Every type, in the order of ids.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.1)
    }

    /// Type of an id in the file; `None` if it is unknown or was removed from ggml.
    pub fn from_id(id: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.0 == id).map(|row| row.1)
    }

    /// Id in the file.
    pub fn id(self) -> u32 {
        self.row().0
    }

    /// Name as ggml prints it, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Elements in one block; 1 for plain numbers. A row of a tensor is a whole number of blocks.
    pub fn block_len(self) -> usize {
        self.row().3
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Bytes of a row of `n_cols` elements; `None` if they are not a whole number of blocks, or too many.
    pub fn row_bytes(self, n_cols: usize) -> Option<usize> {
        if !n_cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (n_cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bytes of a tensor of this shape, outermost extent first, or why there cannot be one.
    pub fn tensor_bytes(self, shape: &[usize]) -> Result<usize, String> {
        let Some((&n_cols, outer)) = shape.split_last() else {
            return Err("a tensor needs at least one dimension".to_owned());
        };
        if shape.contains(&0) {
            return Err(format!("shape {shape:?} holds a zero"));
        }
        if !n_cols.is_multiple_of(self.block_len()) {
            return Err(format!(
                "rows of {n_cols} elements are not a whole number of {} blocks of {}",
                self.name(),
                self.block_len()
            ));
        }
        let n_elements = shape.iter().try_fold(1_usize, |n, &extent| n.checked_mul(extent));
        let n_bytes = outer.iter().try_fold(self.row_bytes(n_cols), |n, &extent| {
            n?.checked_mul(extent).map(Some)
        });
        n_elements
            .and(n_bytes.flatten())
            .ok_or_else(|| format!("shape {shape:?} is too large to address"))
    }

    fn row(self) -> &'static Row {
        TABLE
            .iter()
            .find(|row| row.1 == self)
            .expect("every type has a row")
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_types_map_both_ways() {
        for row in &TABLE {
            assert_eq!(GgmlType::from_id(row.0), Some(row.1));
            assert_eq!(row.1.id(), row.0);
        }
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        for removed in [5, 31, 32, 33, 36, 37, 38, 41, u32::MAX] {
            assert_eq!(GgmlType::from_id(removed), None);
        }
    }

    #[test]
    fn sizes_of_tensors() {
        assert_eq!(GgmlType::Q4K.tensor_bytes(&[3, 512]), Ok(3 * 2 * 144));
        assert_eq!(GgmlType::F32.tensor_bytes(&[7]), Ok(28));
        assert!(GgmlType::Q8_0.tensor_bytes(&[2, 33]).is_err());
        assert!(GgmlType::F32.tensor_bytes(&[usize::MAX, 2]).is_err());
        assert!(GgmlType::F32.tensor_bytes(&[usize::MAX / 2]).is_err());
        assert!(GgmlType::F32.tensor_bytes(&[0, usize::MAX, usize::MAX]).is_err());
        assert!(GgmlType::F32.tensor_bytes(&[]).is_err());
    }
}
