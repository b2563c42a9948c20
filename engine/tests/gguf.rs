//! GGUF files as they should be, and as nobody should have written them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use expect_test::{Expect, expect};
use surmise_engine::{
    EngineError,
    model::Checkpoint,
    weights::{GgmlType, Gguf, Tensor, WeightSource},
};

use gguf_builder::{Builder, Value, open, string, strings};

mod gguf_builder;

/// Checks that the file is refused as malformed, and how.
#[track_caller]
fn check_refused(builder: &Builder, expected: Expect) {
    let error = open(&builder.build()).err().expect("the file must be refused");
    assert!(matches!(error, EngineError::BadFile { .. }), "{error:?}");
    expected.assert_eq(&error.to_string());
}

/// A small file with a bit of everything.
fn sample() -> Builder {
    Builder::new()
        .pair("general.architecture", Value::Str(b"qwen3".to_vec()))
        .pair("a.u8", Value::U8(7))
        .pair("a.i8", Value::I8(-7))
        .pair("a.u16", Value::U16(777))
        .pair("a.u64", Value::U64(u64::MAX))
        .pair("a.i64", Value::I64(-1))
        .pair("a.f32", Value::F32(1e-6))
        .pair("a.f64", Value::F64(0.5))
        .pair("a.bool", Value::Bool(1))
        .pair("a.texts", strings(&["one", "", "trois é"]))
        .pair(
            "a.ids",
            Value::Array(
                5,
                3,
                [1_i32, 2, 3].iter().flat_map(|id| id.to_le_bytes()).collect(),
            ),
        )
        .pair(
            "a.floats",
            Value::Array(
                6,
                2,
                [0.5_f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect(),
            ),
        )
        .pair("a.flags", Value::Array(7, 2, vec![0, 1]))
        .tensor(
            "norm.weight",
            &[3],
            GgmlType::F32,
            &[1_f32, 2.0, 3.0].map(f32::to_le_bytes).concat(),
        )
        .tensor("blk.0.attn_q.weight", &[64, 2], GgmlType::Q8_0, &[5; 2 * 2 * 34])
}

#[test]
fn reads_what_was_written() {
    for version in [2, 3] {
        let gguf = open(&Builder { version, ..sample() }.build()).unwrap();
        assert_eq!((gguf.version(), gguf.alignment()), (version, 32));
        assert_eq!(gguf.path(), Path::new("<embedded>"));
        let metadata = gguf.metadata();
        assert_eq!(metadata.require_str("general.architecture").unwrap(), "qwen3");
        assert_eq!(metadata.require_u32("a.u8").unwrap(), 7);
        assert_eq!(metadata.require_u64("a.u16").unwrap(), 777);
        assert_eq!(metadata.require_u64("a.u64").unwrap(), u64::MAX);
        assert_eq!(metadata.require_f32("a.f32").unwrap(), 1e-6);
        assert_eq!(metadata.require_f32("a.f64").unwrap(), 0.5);
        assert!(metadata.require_bool("a.bool").unwrap());
        assert_eq!(
            metadata.require_str_array("a.texts").unwrap(),
            ["one", "", "trois é"]
        );
        assert_eq!(metadata.get_u32_array("a.ids").unwrap().unwrap(), [1, 2, 3]);
        assert_eq!(metadata.get_f32_array("a.floats").unwrap().unwrap(), [0.5, -2.0]);
        assert_eq!(
            metadata.get_bool_array("a.flags").unwrap().unwrap(),
            [false, true]
        );
        assert_eq!(metadata.get_u32("absent").unwrap(), None);
        assert_eq!(metadata.get_str_array("absent").unwrap(), None);

        let norm = gguf.require("norm.weight").unwrap();
        assert_eq!(
            (norm.dtype, &norm.shape[..], norm.n_elements()),
            (GgmlType::F32, &[3][..], 3)
        );
        assert_eq!(norm.bytes(), [1_f32, 2.0, 3.0].map(f32::to_le_bytes).concat());
        let matrix = gguf.tensor("blk.0.attn_q.weight").unwrap();
        assert_eq!(
            (matrix.shape.as_slice(), matrix.bytes().len()),
            (&[2, 64][..], 2 * 2 * 34)
        );
        assert_eq!(
            gguf.tensors().map(|info| info.n_bytes()).collect::<Vec<_>>(),
            [12, 136]
        );
        assert!(gguf.tensor("absent").is_none());
    }
}

#[test]
fn tensors_outlive_the_file_object() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, sample().build()).unwrap();
    let gguf = Gguf::open(WeightSource::File(path.clone())).unwrap();
    assert_eq!(gguf.path(), path);
    let tensor = gguf.require("norm.weight").unwrap();
    let clone = tensor.clone();
    drop((gguf, tensor));
    assert_eq!(clone.bytes().len(), 12);
}

#[test]
fn an_unknown_architecture_is_refused_by_name() {
    let architecture = |name: &str| {
        let file = Builder::new().pair("general.architecture", Value::Str(name.into()));
        Checkpoint::from_gguf(&open(&file.build()).unwrap())
            .err()
            .unwrap()
            .to_string()
    };
    assert_eq!(
        architecture("mamba3"),
        "architecture `mamba3` is not supported; known: llama, mistral3, qwen2, qwen3, qwen3moe, qwen3next, qwen35, qwen35moe, \
         deepseek2, gemma, gemma2, gemma3, gemma4, gpt-oss, gptoss, granite, phi3, starcoder, starcoder2"
    );
    // Families without a name of their own in GGUF files have no empty one either; the others are next to some that are read.
    for name in [
        "",
        "granitehybrid",
        "granitemoe",
        "llama4",
        "phimoe",
        "gemma3n",
        "gemma-embedding",
        "qwen2moe",
        "qwen2vl",
        "qwen3vl",
        "glm4",
        "glm4moe",
        "deepseek",
        "mistral4",
        "lfm2",
        "olmo3",
        "seed_oss",
    ] {
        let error = architecture(name);
        let expected = format!("architecture `{name}` is not supported; known: llama, ");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn getters_say_what_they_expected_and_found() {
    let gguf = open(&sample().build()).unwrap();
    let metadata = gguf.metadata();
    let check =
        |error: Option<EngineError>, expected: Expect| expected.assert_eq(&error.unwrap().to_string());
    check(
        metadata.get_u32("general.architecture").err(),
        expect![
            "<embedded>: metadata `general.architecture`: expected an integer from 0 to 4294967295, found string"
        ],
    );
    check(
        metadata.get_u32("a.i8").err(),
        expect!["<embedded>: metadata `a.i8`: expected an integer from 0 to 4294967295, found -7"],
    );
    check(
        metadata.get_u32("a.u64").err(),
        expect![
            "<embedded>: metadata `a.u64`: expected an integer from 0 to 4294967295, found 18446744073709551615"
        ],
    );
    check(
        metadata.get_str("a.texts").err(),
        expect!["<embedded>: metadata `a.texts`: expected string, found array of 3 string"],
    );
    check(
        metadata.get_f32_array("a.ids").err(),
        expect!["<embedded>: metadata `a.ids`: expected array of f32, found array of 3 i32"],
    );
    check(
        metadata.require_f32("absent").err(),
        expect!["<embedded>: metadata `absent`: the key is missing"],
    );
    check(
        gguf.require("absent").err(),
        expect!["<embedded>: tensor `absent`: the tensor is missing"],
    );
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let file = sample().build();
    // The padding after the last tensor is not missed.
    let n_needed = file.len() - (file.len() - 136) % 32;
    for n_bytes in 0..n_needed {
        match open(&file[..n_bytes]) {
            Err(EngineError::BadFile { field, reason, .. }) => {
                assert!(
                    !field.is_empty() && reason.contains("truncated"),
                    "{n_bytes} bytes: {field}: {reason}"
                );
            }
            Err(error) => panic!("{n_bytes} bytes: {error}"),
            Ok(_) => panic!("{n_bytes} of {} bytes are accepted", file.len()),
        }
    }
    assert!(open(&file).is_ok());
}

#[test]
fn any_changed_byte_is_harmless() {
    let file = sample().build();
    for idx in 0..file.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut file = file.clone();
            file[idx] ^= change;
            // Whatever it has become, it opens or is refused, and what it holds can be reached.
            let Ok(gguf) = open(&file) else { continue };
            let names: Vec<String> = gguf.tensors().map(|info| info.name.clone()).collect();
            assert!(
                names
                    .iter()
                    .all(|name| gguf.require(name).is_ok_and(|tensor| !tensor.bytes().is_empty()))
            );
            for key in gguf.metadata().keys() {
                let _ = (
                    gguf.metadata().get_str_array(key),
                    gguf.metadata().get_f32_array(key),
                    gguf.metadata().get_u32(key),
                );
            }
        }
    }
}

#[test]
fn not_a_gguf_file() {
    let refuse = |bytes: &[u8], expected: Expect| expected.assert_eq(&open(bytes).err().unwrap().to_string());
    refuse(
        b"",
        expect!["<embedded>: magic: 4 bytes expected at byte 0, 0 left; the file is truncated"],
    );
    refuse(
        b"PK\x03\x04 and so on, for a while",
        expect![[r"<embedded>: magic: expected `GGUF`, found PK\x03\x04; this is not a GGUF file"]],
    );
    check_refused(
        &Builder {
            version: 1,
            ..sample()
        },
        expect!["<embedded>: version: expected 2 or 3, found 1; convert the model again"],
    );
    check_refused(
        &Builder {
            version: 3_u32.swap_bytes(),
            ..sample()
        },
        expect!["<embedded>: version: the file is big endian; convert it to little endian"],
    );
}

#[test]
fn counts_are_held_against_the_bytes_left() {
    check_refused(
        &Builder {
            n_tensors: Some(u64::MAX),
            ..sample()
        },
        expect![
            "<embedded>: number of tensors: 18446744073709551615 tensors do not fit in the 712 bytes left; the file is truncated or malformed"
        ],
    );
    check_refused(
        &Builder {
            n_pairs: Some(1 << 40),
            ..sample()
        },
        expect![
            "<embedded>: number of metadata pairs: 1099511627776 pairs do not fit in the 712 bytes left; the file is truncated or malformed"
        ],
    );
    check_refused(
        &Builder::new().pair("a", Value::Array(8, 1 << 60, string(b"x"))),
        expect![
            "<embedded>: metadata `a`: 1152921504606846976 elements do not fit in the 9 bytes left; the file is truncated or malformed"
        ],
    );
    check_refused(
        &Builder::new().pair("a", Value::Array(10, u64::MAX / 8, vec![0; 8])),
        expect![
            "<embedded>: metadata `a`: 2305843009213693951 elements do not fit in the 8 bytes left; the file is truncated or malformed"
        ],
    );
    let mut long_string = Builder::new().pair("a", Value::Str(b"x".to_vec())).build();
    let length_at = long_string.len() - 9;
    long_string[length_at..length_at + 8].fill(0xff);
    let error = open(&long_string).err().unwrap().to_string();
    expect!["<embedded>: metadata `a`: 18446744073709551615 bytes do not fit in the 1 bytes left; the file is truncated or malformed"]
        .assert_eq(&error);
}

#[test]
fn malformed_metadata() {
    check_refused(
        &Builder::new()
            .pair("twice", Value::U8(1))
            .pair("twice", Value::U8(2)),
        expect!["<embedded>: metadata `twice`: the key is there twice"],
    );
    check_refused(
        &Builder::new().pair(b"\xff\xfe", Value::U8(1)),
        expect!["<embedded>: metadata key 0: not UTF-8: invalid utf-8 sequence of 1 bytes from index 0"],
    );
    check_refused(
        &Builder::new().pair("text", Value::Str(b"\xed\xa0\x80".to_vec())),
        expect![
            "<embedded>: metadata `text`: the string is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0"
        ],
    );
    check_refused(
        &Builder::new().pair("flag", Value::Bool(2)),
        expect!["<embedded>: metadata `flag`: a bool is 2, not 0 or 1"],
    );
    check_refused(
        &Builder::new().pair("a", Value::Array(99, 0, vec![])),
        expect!["<embedded>: metadata `a`: value type 99 is unknown; types go from 0 to 12"],
    );
    let mut nested = (8_u32, 0_u64, Vec::new());
    for _ in 0..100 {
        let (element, len, bytes) = nested;
        nested = (
            9,
            1,
            [&u32::to_le_bytes(element)[..], &u64::to_le_bytes(len), &bytes].concat(),
        );
    }
    check_refused(
        &Builder::new().pair("a", Value::Array(nested.0, nested.1, nested.2)),
        expect!["<embedded>: metadata `a`: arrays are nested more than 4 deep"],
    );
    check_refused(
        &Builder::new().pair("general.alignment", Value::U32(24)),
        expect!["<embedded>: metadata `general.alignment`: expected a power of two from 8, found 24"],
    );
    check_refused(
        &Builder::new().pair("general.alignment", Value::I32(0)),
        expect!["<embedded>: metadata `general.alignment`: expected a power of two from 8, found 0"],
    );
    check_refused(
        &Builder::new().pair([b'k'; 70_000], Value::U8(1)),
        expect!["<embedded>: metadata key 0: 70000 bytes; names have at most 65535"],
    );
}

#[test]
fn strings_within_arrays_are_checked_when_asked_for() {
    let gguf = open(
        &Builder::new()
            .pair("a", Value::Array(8, 1, string(b"\xff")))
            .build(),
    )
    .unwrap();
    let error = gguf.metadata().get_str_array("a").err().unwrap().to_string();
    expect![
        "<embedded>: metadata `a`: a string is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0"
    ]
    .assert_eq(&error);
}

#[test]
fn malformed_tensors() {
    let f32 = GgmlType::F32.id();
    let with_data = || Builder {
        data: vec![0; 256],
        ..Builder::new()
    };
    check_refused(
        &with_data().entry("t", &[4], f32, 0).entry("t", &[4], f32, 32),
        expect!["<embedded>: tensor `t`: the name is there twice"],
    );
    check_refused(
        &with_data().entry("a", &[16], f32, 0).entry("b", &[4], f32, 32),
        expect!["<embedded>: tensor `b`: it overlaps tensor `a`"],
    );
    check_refused(
        &with_data().entry("t", &[4], f32, 4),
        expect!["<embedded>: tensor `t`: offset 4 is not a multiple of the alignment, 32"],
    );
    check_refused(
        &with_data().entry("t", &[4], f32, 256),
        expect![
            "<embedded>: tensor `t`: it ends at byte 272 of the tensor data, which has 256; the file is truncated"
        ],
    );
    check_refused(
        &with_data().entry("t", &[4], f32, u64::MAX - 31),
        expect![
            "<embedded>: tensor `t`: it ends at byte 18446744073709551600 of the tensor data, which has 256; the file is truncated"
        ],
    );
    check_refused(
        &with_data().entry("t", &[8], f32, u64::MAX - 31),
        expect!["<embedded>: tensor `t`: offset 18446744073709551584 is too large"],
    );
    check_refused(
        &with_data().entry("t", &[1 << 32, 1 << 32], f32, 0),
        expect!["<embedded>: tensor `t`: shape [4294967296, 4294967296] is too large to address"],
    );
    check_refused(
        &with_data().entry("t", &[33], GgmlType::Q8_0.id(), 0),
        expect!["<embedded>: tensor `t`: rows of 33 elements are not a whole number of Q8_0 blocks of 32"],
    );
    check_refused(
        &with_data().entry("t", &[0, 4], f32, 0),
        expect!["<embedded>: tensor `t`: shape [4, 0] holds a zero"],
    );
    check_refused(
        &with_data().entry("t", &[], f32, 0).entry("u", &[1], f32, 0),
        expect!["<embedded>: tensor `t`: expected 1 to 4 dimensions, found 0"],
    );
    check_refused(
        &with_data().entry("t", &[1; 5], f32, 0),
        expect!["<embedded>: tensor `t`: expected 1 to 4 dimensions, found 5"],
    );
    let mut not_utf8 = with_data().entry("t", &[4], f32, 0);
    not_utf8.tensors[0].0 = b"t\xff".to_vec();
    check_refused(
        &not_utf8,
        expect!["<embedded>: name of tensor 0: not UTF-8: invalid utf-8 sequence of 1 bytes from index 1"],
    );
}

#[test]
fn well_formed_but_not_for_us() {
    let refuse = |builder: Builder, expected: Expect| {
        let error = open(&builder.build()).err().unwrap();
        assert!(matches!(error, EngineError::Unsupported { .. }), "{error:?}");
        expected.assert_eq(&error.to_string());
    };
    refuse(
        Builder {
            data: vec![0; 64],
            ..Builder::new()
        }
        .entry("t", &[4], 5, 0),
        expect![
            "tensor type `id 5 of tensor `t`` is not supported; known: ggml's types up to NVFP4 (40), without those it removed"
        ],
    );
    refuse(
        Builder::new().pair("split.count", Value::U16(3)),
        expect![
            "GGUF file `one of 3 parts, <embedded>` is not supported; known: whole files, and first parts with a name that ends in `-00001-of-00003.gguf`"
        ],
    );
}

#[test]
fn a_model_in_parts_opens_by_its_first() {
    let folder = tempfile::tempdir().unwrap();
    let part = |idx: u16, count: u16, name: &str| {
        Builder::new()
            .pair("split.no", Value::U16(idx))
            .pair("split.count", Value::U16(count))
            .pair("split.tensors.count", Value::I32(2))
            .tensor(name, &[2], GgmlType::F32, &[idx as u8; 8])
            .build()
    };
    let path = |idx: u16| folder.path().join(format!("model-{:05}-of-00002.gguf", idx + 1));
    std::fs::write(path(0), part(0, 2, "a")).unwrap();
    let open = || Gguf::open(WeightSource::File(path(0)));
    let error = open().err().unwrap();
    assert!(matches!(error, EngineError::Io { .. }), "{error}");

    std::fs::write(path(1), part(1, 2, "b")).unwrap();
    let gguf = open().unwrap();
    assert_eq!(gguf.tensors().count(), 2);
    for (name, byte) in [("a", 0), ("b", 1)] {
        assert_eq!(gguf.require(name).unwrap().bytes(), [byte; 8], "{name}");
    }
    let second = Gguf::open(WeightSource::File(path(1))).err().unwrap();
    assert!(
        second.to_string().contains("whole files, and first parts"),
        "{second}"
    );

    for (wrong, reason) in [
        (part(1, 2, "a"), "the name is there twice, in two parts"),
        (part(0, 2, "b"), "part 1 of 2, counted from 0, expected"),
        (
            Builder::new().pair("split.no", Value::U16(1)).build(),
            "2 tensors expected in all parts, 1 found",
        ),
    ] {
        std::fs::write(path(1), wrong).unwrap();
        let error = open().err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn what_is_allowed_though_rare() {
    // Another alignment, a gap between tensors, a tensor type that nobody runs, nested arrays, no tensors.
    let nested = [&8_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &string(b"deep")].concat();
    let builder = Builder {
        alignment: 64,
        ..Builder::new()
    }
    .pair("general.alignment", Value::U32(64))
    .pair("nested", Value::Array(9, 1, nested))
    .tensor("exotic", &[256], GgmlType::IQ1M, &[0; 56])
    .tensor("unused", &[1], GgmlType::I64, &[0; 8])
    .tensor("plain", &[2, 2, 2, 2], GgmlType::BF16, &[0; 32]);
    let mut with_gap = builder.clone();
    with_gap.tensors.remove(1);
    for builder in [builder, with_gap] {
        let gguf = open(&builder.build()).unwrap();
        assert_eq!(gguf.alignment(), 64);
        assert_eq!(gguf.require("plain").unwrap().shape, [2, 2, 2, 2]);
        assert!(gguf.metadata().contains("nested"));
    }
    assert_eq!(open(&Builder::new().build()).unwrap().tensors().count(), 0);
}

#[test]
fn an_embedded_file_may_stand_at_any_address() {
    let file = sample().build();
    for shift in 0..8 {
        let shifted: &'static [u8] = Box::leak([vec![0; shift], file.clone()].concat().into_boxed_slice());
        let gguf = Gguf::open(WeightSource::Embedded(&shifted[shift..])).unwrap();
        assert_eq!(
            gguf.require("norm.weight").unwrap().bytes()[4..8],
            2_f32.to_le_bytes()
        );
    }
}

#[test]
fn files_that_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    for path in [
        folder.path().join("absent.gguf"),
        folder.path().to_path_buf(),
        PathBuf::new(),
    ] {
        let error = Gguf::open(WeightSource::File(path.clone())).err().unwrap();
        assert!(
            matches!(&error, EngineError::Io { path: found, .. } if *found == path),
            "{error:?}"
        );
    }
    let empty = folder.path().join("empty.gguf");
    fs::write(&empty, "").unwrap();
    assert!(matches!(
        Gguf::open(WeightSource::File(empty)),
        Err(EngineError::BadFile { .. })
    ));
}

#[test]
fn tensors_made_by_the_program() {
    let tensor = Tensor::from_bytes("t", GgmlType::Q4_0, &[2, 32], vec![1; 36]).unwrap();
    assert_eq!((tensor.n_elements(), tensor.bytes()), (64, &[1; 36][..]));
    let error = Tensor::from_bytes("t", GgmlType::Q4_0, &[2, 32], vec![1; 35]).unwrap_err();
    expect!["bad request: tensor `t`: Q4_0 of shape [2, 32] takes 36 bytes, found 35"]
        .assert_eq(&error.to_string());
}
