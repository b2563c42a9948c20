//! Names of the mixtures of types that GGUF files come in, as people ask for them: `Q4_K_M`.

/// Set if whoever wrote the file did not say, and it was guessed from its tensors.
const GUESSED: u32 = 1024;

/// Name of a `general.file_type`, as llama.cpp's `llama-quantize` takes it; `None` for a number that has none.
///
/// Source: `enum llama_ftype` in llama.cpp's `llama.h`, and the options of its `quantize.cpp`.
pub(super) fn file_type_name(file_type: u32) -> Option<&'static str> {
    Some(match file_type & !GUESSED {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        39 => "NVFP4",
        40 => "Q1_0",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixtures_have_the_names_that_people_use() {
        for (file_type, name) in [
            (1, Some("F16")),
            (15, Some("Q4_K_M")),
            (16, Some("Q5_K_S")),
            (30, Some("IQ4_XS")),
            (38, Some("MXFP4_MOE")),
            (1024 + 12, Some("Q3_K_M")),
            // What llama.cpp has removed, and what is still to come.
            (4, None),
            (33, None),
            (1000, None),
        ] {
            assert_eq!(file_type_name(file_type), name, "{file_type}");
        }
    }
}
