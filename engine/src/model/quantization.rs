//! What a folder says about how its weights were quantised: the kinds that are read, and a word on the others.

use std::path::Path;

use serde_json::Value;

use crate::{
    error::EngineError,
    weights::{WeightSource, fp8},
};

/// Kinds that are read, for messages.
const KNOWN: &str = "FP8 (e4m3 weights with scales) and MXFP4; try a GGUF file of the same model, or the folder it was \
                     quantised from with `engine.quantize`";

/// Outputs and inputs that share a scale in the FP8 weights of a folder, whatever their kind, with `config.json` as it is.
///
/// # Errors
/// [`EngineError::Unsupported`] with the name of a kind of quantisation that is not read.
pub(super) fn fp8_block(folder: &Path, config: &Value) -> Result<[usize; 2], EngineError> {
    let own = read_own(folder);
    let places = [config, config.get("text_config").unwrap_or(&Value::Null)];
    let stated = places
        .iter()
        .flat_map(|place| {
            // The last is MLX's, which has no other name for itself.
            ["quantization_config", "compression_config", "quantization"].map(|key| place.get(key))
        })
        .flatten()
        .find(|it| it.is_object())
        .or(own.get("quantization"));
    let Some(stated) = stated else {
        return Ok(fp8::DEFAULT_BLOCK);
    };
    let word = |key: &str| stated.get(key).and_then(Value::as_str);
    let method = match word("quant_method") {
        Some(method) => method,
        None if stated.get("bits").is_some() => "MLX",
        None => "modelopt",
    };
    let is_known = match method {
        "fp8" => word("fmt").is_none_or(|it| it.eq_ignore_ascii_case("e4m3")),
        "mxfp4" => true,
        "modelopt" => word("quant_algo").is_some_and(|it| it.starts_with("FP8")),
        "compressed-tensors" => groups(stated).all(is_fp8),
        _ => false,
    };
    if !is_known {
        let details = ["format", "quant_algo", "fmt", "bits"]
            .into_iter()
            .filter_map(|key| stated.get(key))
            .map(|it| it.as_str().map_or_else(|| format!("{it} bits"), str::to_owned));
        let found: Vec<String> = [method.to_owned()].into_iter().chain(details).collect();
        return Err(EngineError::Unsupported {
            what: "quantisation",
            found: found.join(", "),
            known: KNOWN.into(),
        });
    }
    let block = stated.get("weight_block_size").or_else(|| {
        let mut weights = groups(stated).filter_map(|group| group.get("weights"));
        weights.find_map(|weights| weights.get("block_structure"))
    });
    let pair = |block: &Value| {
        let extent = |idx: usize| {
            let extent = usize::try_from(block.get(idx)?.as_u64()?).ok()?;
            Some(extent).filter(|it| *it > 0)
        };
        Some([extent(0)?, extent(1)?])
    };
    Ok(block.and_then(pair).unwrap_or(fp8::DEFAULT_BLOCK))
}

/// What ModelOpt writes beside `config.json`, or nothing.
fn read_own(folder: &Path) -> Value {
    let source = WeightSource::File(folder.join("hf_quant_config.json"));
    let bytes = source.open().ok();
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or(Value::Null)
}

/// Groups of layers that compressed-tensors treats alike.
fn groups(stated: &Value) -> impl Iterator<Item = &Value> {
    let groups = stated.get("config_groups").and_then(Value::as_object);
    groups.into_iter().flat_map(|groups| groups.values())
}

fn is_fp8(group: &Value) -> bool {
    let weights = group.get("weights").unwrap_or(&Value::Null);
    weights.get("type").and_then(Value::as_str) == Some("float")
        && weights.get("num_bits").and_then(Value::as_u64) == Some(8)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let block = |quantization: Value| {
            let config = json!({ "quantization_config": quantization });
            fp8_block(folder.path(), &config).map_err(|error| error.to_string())
        };
        let group = |weights: Value| json!({"group_0": {"targets": ["Linear"], "weights": weights}});
        assert_eq!(fp8_block(folder.path(), &json!({})).unwrap(), [128, 128]);
        for (quantization, expected) in [
            (json!(null), [128, 128]),
            (
                json!({"quant_method": "fp8", "activation_scheme": "dynamic"}),
                [128, 128],
            ),
            (
                json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [64, 32]}),
                [64, 32],
            ),
            (
                json!({"quant_method": "modelopt", "quant_algo": "FP8"}),
                [128, 128],
            ),
            (
                json!({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": group(json!(
                    {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 64]}
                ))}),
                [128, 64],
            ),
        ] {
            assert_eq!(block(quantization.clone()), Ok(expected), "{quantization}");
        }
        for (quantization, expected) in [
            (json!({"quant_method": "awq", "bits": 4}), "`awq, 4 bits`"),
            (json!({"quant_method": "gptq", "bits": 4}), "`gptq, 4 bits`"),
            (
                json!({"quant_method": "auto-round", "bits": 4}),
                "`auto-round, 4 bits`",
            ),
            (json!({"quant_method": "exl2", "bits": 4.0}), "`exl2, 4.0 bits`"),
            (json!({"quant_method": "exl3", "bits": 3.5}), "`exl3, 3.5 bits`"),
            (
                json!({"quant_method": "quark", "export": {"weight_format": "real_quantized"}}),
                "`quark`",
            ),
            (
                json!({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
                "`fbgemm_fp8`",
            ),
            (json!({"quant_method": "torchao"}), "`torchao`"),
            (json!({"quant_method": "hqq"}), "`hqq`"),
            (json!({"quant_method": "aqlm"}), "`aqlm`"),
            (json!({"group_size": 64, "bits": 4}), "`MLX, 4 bits`"),
            (
                json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
                "`bitsandbytes`",
            ),
            (json!({"quant_method": "fp8", "fmt": "e5m2"}), "`fp8, e5m2`"),
            (
                json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}),
                "`modelopt, NVFP4`",
            ),
            (
                json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": group(json!(
                    {"num_bits": 4, "type": "int"}
                ))}),
                "`compressed-tensors, pack-quantized`",
            ),
        ] {
            let error = block(quantization).unwrap_err();
            assert!(
                error.starts_with(&format!("quantisation {expected} is not supported")),
                "{error}"
            );
            assert!(error.contains("GGUF"), "{error}");
        }

        let of_mlx = json!({"quantization": {"group_size": 64, "bits": 8, "mode": "affine"}});
        let error = fp8_block(folder.path(), &of_mlx).unwrap_err().to_string();
        assert!(error.starts_with("quantisation `MLX, 8 bits`"), "{error}");

        let own = json!({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "W4A16_AWQ"}});
        std::fs::write(folder.path().join("hf_quant_config.json"), own.to_string()).unwrap();
        let error = fp8_block(folder.path(), &json!({})).unwrap_err().to_string();
        assert!(error.starts_with("quantisation `modelopt, W4A16_AWQ`"), "{error}");
    }
}
