use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::encode::HeaderBuilder;
use crate::fixture::{Faltering, llama, parse, real_model};
use crate::value::{Array, Value};
use crate::{facts, piece, slice, vocabulary};

fn attempt(bytes: &[u8]) -> Result<Gguf, ParseError> {
    Gguf::parse(&mut Cursor::new(bytes), bytes.len() as u64, Limits::default())
}

/// A header with these counts and this body.
fn raw(tensors: u64, entries: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(entries.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn text(text: &[u8]) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = text(key.as_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(value);
    bytes
}

fn tensor(name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name.as_bytes());
    bytes.extend((dimensions.len() as u32).to_le_bytes());
    bytes.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

fn with_data(mut header: Vec<u8>, data: usize) -> Vec<u8> {
    header.resize(header.len().next_multiple_of(32) + data, 0);
    header
}

#[test]
fn what_was_written_is_read_back() {
    let mut header = HeaderBuilder::new();
    let values = [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-3)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-300)),
        ("u32", Value::U32(u32::MAX)),
        ("i32", Value::I32(i32::MIN)),
        ("f32", Value::F32(1.5)),
        ("bool", Value::Bool(true)),
        ("string", Value::string("ä\n")),
        ("bytes", Value::String(vec![0xff, 0])),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(-1)),
        ("f64", Value::F64(-0.25)),
        ("strings", Value::Array(Array::of_strings([&b"one"[..], b"", &[0xff]]))),
        ("numbers", Value::Array(Array::of_i32([-1, 7]))),
    ];
    for (key, value) in &values {
        header.entry(key, value);
    }
    header.tensor("a", TensorType::F32, &[3, 2], 24);
    header.tensor("b", TensorType::F32, &[1], 4);
    let gguf = parse(&with_data(header.finish(), 36));
    let read: Vec<_> = gguf.metadata.iter().map(|(key, value)| (key, value.clone())).collect();
    assert_eq!(read, values);
    assert_eq!(
        gguf.metadata
            .get("strings")
            .unwrap()
            .as_array()
            .unwrap()
            .strings()
            .count(),
        3
    );
    assert_eq!(gguf.tensors[0].dimensions, [3, 2]);
    assert_eq!(gguf.tensors[1].offset_bytes, gguf.files[0].data_offset_bytes + 32);
    assert_eq!(gguf.version, 3);
}

#[test]
fn version_2_is_read_like_version_3() {
    let mut bytes = llama(1).bytes();
    bytes[4] = 2;
    assert_eq!(parse(&bytes).tensors, llama(1).gguf().tensors);
}

#[test]
fn a_file_cut_anywhere_is_reported_as_truncated() {
    let whole = llama(2).untied().with_rotary_factors().bytes();
    let gguf = parse(&whole);
    for length in 0..gguf.files[0].data_offset_bytes as usize {
        let error = attempt(&whole[..length]).unwrap_err();
        assert!(
            matches!(error, ParseError::Truncated { needed, actual, .. } if needed > actual && actual == length as u64),
            "{length}: {error}"
        );
    }
    let last = gguf
        .tensors
        .iter()
        .map(|tensor| tensor.offset_bytes + tensor.size_bytes)
        .max()
        .unwrap();
    for length in gguf.files[0].data_offset_bytes..last {
        let error = attempt(&whole[..length as usize]).unwrap_err();
        assert!(
            matches!(error, ParseError::Truncated { actual, .. } if actual == length),
            "{length}: {error}"
        );
    }
    attempt(&whole[..last as usize]).unwrap();
}

#[test]
fn a_source_that_ends_before_its_stated_length_is_truncated() {
    let whole = llama(1).bytes();
    for length in 0..parse(&whole).files[0].data_offset_bytes as usize - 32 {
        let mut source = Cursor::new(&whole[..length]);
        let error = Gguf::parse(&mut source, 1 << 40, Limits::default()).unwrap_err();
        assert!(matches!(error, ParseError::Truncated { .. }), "{length}: {error}");
    }
}

#[test]
fn a_source_that_cannot_be_read_is_no_damaged_file_and_one_that_is_interrupted_is_read_on() {
    let whole = llama(1).bytes();
    let after = |fault| {
        let mut source = Faltering {
            source: Cursor::new(&whole[..]),
            faults: vec![fault],
        };
        Gguf::parse(&mut source, whole.len() as u64, Limits::default())
    };
    assert_eq!(after(io::ErrorKind::Interrupted).unwrap(), parse(&whole));
    let error = after(io::ErrorKind::PermissionDenied).unwrap_err();
    assert!(matches!(error, ParseError::Io(_)), "{error}");
    assert_eq!(error.to_string(), "reading the GGUF file failed: permission denied");
}

#[test]
fn other_files_are_no_gguf() {
    let error = attempt(b"PK\x03\x04 and so on, for a while").unwrap_err();
    assert!(matches!(error, ParseError::NotGguf { found } if &found == b"PK\x03\x04"));
    assert!(error.to_string().contains(".gguf"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Gguf::open(Path::new("/nowhere/model.gguf")).unwrap_err();
    assert!(matches!(error, ParseError::Open { .. }));
    assert!(error.to_string().contains("/nowhere/model.gguf"), "{error}");
}

#[test]
fn unknown_versions_and_foreign_byte_orders_are_refused() {
    for version in [0u32, 1, 4, 3u32.swap_bytes()] {
        let mut bytes = llama(1).bytes();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        let error = attempt(&bytes).unwrap_err();
        assert!(matches!(error, ParseError::UnsupportedVersion { version: found } if found == version));
    }
}

#[test]
fn counts_above_the_limits_are_refused_before_anything_is_read() {
    for (tensors, entries) in [(u64::MAX, 0), (0, u64::MAX), (1 << 17, 0), (0, 1 << 15)] {
        let error = attempt(&raw(tensors, entries, &[0; 64])).unwrap_err();
        assert!(matches!(error, ParseError::TooLarge { .. }), "{error}");
    }
}

#[test]
fn lengths_beyond_the_file_are_truncations_however_large() {
    for length in [65, 1 << 31, 1 << 62, u64::MAX] {
        let string = entry("k", 8, &length.to_le_bytes());
        let mut array = 8u32.to_le_bytes().to_vec();
        array.extend(length.to_le_bytes());
        let strings = entry("k", 9, &array);
        array[0] = 10;
        let numbers = entry("k", 9, &array);
        for body in [string, strings, numbers] {
            let error = attempt(&raw(0, 1, &body)).unwrap_err();
            let overflow = matches!(error, ParseError::Malformed { .. }) && length > 1 << 60;
            assert!(
                overflow || matches!(error, ParseError::Truncated { .. }),
                "{length}: {error}"
            );
        }
    }
}

#[test]
fn a_header_larger_than_its_limit_is_refused() {
    let bytes = llama(2).bytes();
    let limits = Limits {
        header_bytes: 100,
        ..Limits::default()
    };
    let error = Gguf::parse(&mut Cursor::new(&bytes), bytes.len() as u64, limits).unwrap_err();
    assert!(matches!(error, ParseError::TooLarge { limit: 100, .. }), "{error}");
    let error = Gguf::parse(&mut Cursor::new(&bytes), u64::MAX, Limits::default()).unwrap_err();
    assert!(matches!(error, ParseError::TooLarge { .. }), "{error}");
}

#[test]
fn what_is_exactly_as_large_as_its_limit_is_read_and_what_is_larger_is_not() {
    // Side by side, without a byte between them or behind.
    let body = [
        entry("k", 4, &[0; 4]),
        tensor(&"n".repeat(63), &[2, 2, 1, 2], 0, 0),
        tensor("b", &[8], 0, 32),
    ];
    let header = raw(2, 1, &body.concat());
    let bytes = with_data(header.clone(), 64);
    let within = |limits| Gguf::parse(&mut Cursor::new(&bytes), bytes.len() as u64, limits);
    let exact = Limits {
        header_bytes: header.len() as u64,
        entries: 1,
        tensors: 2,
    };
    assert_eq!(within(exact).unwrap().tensors.len(), 2);
    let header_bytes = exact.header_bytes - 1;
    for smaller in [
        Limits { header_bytes, ..exact },
        Limits { entries: 0, ..exact },
        Limits { tensors: 1, ..exact },
    ] {
        let error = within(smaller).unwrap_err();
        assert!(matches!(error, ParseError::TooLarge { .. }), "{error}");
    }
    for (bytes, is_read) in [(MAX_ALIGNMENT, true), (2 * MAX_ALIGNMENT, false)] {
        let alignment = entry("general.alignment", 4, &bytes.to_le_bytes());
        assert_eq!(attempt(&raw(0, 1, &alignment)).is_ok(), is_read, "{bytes}");
    }
}

#[test]
fn entries_that_make_no_sense_are_named() {
    let twice = [entry("key.one", 4, &[0; 4]), entry("key.one", 4, &[0; 4])].concat();
    let nested = entry("key.one", 9, &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let alignment = |value: u32| entry("general.alignment", 4, &value.to_le_bytes());
    let cases = [
        (2, twice, "twice"),
        (1, nested, "array of arrays"),
        (1, entry("key.one", 13, &[0; 8]), "value type 13"),
        (1, entry("", 4, &[0; 4]), "empty"),
        (1, entry("a\0b", 4, &[0; 4]), "zero byte"),
        (1, [text(&[0xff]), vec![0; 16]].concat(), "UTF-8"),
        (1, alignment(0), "general.alignment"),
        (1, alignment(48), "general.alignment"),
        (1, alignment(1 << 30), "general.alignment"),
        (1, entry("general.alignment", 8, &text(b"32")), "general.alignment"),
    ];
    for (count, body, words) in cases {
        let error = attempt(&raw(0, count, &body)).unwrap_err();
        assert!(matches!(error, ParseError::Malformed { .. }), "{words}: {error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

#[test]
fn tensors_that_make_no_sense_are_named() {
    let malformed = [
        tensor("t", &[], 0, 0),
        tensor("t", &[1, 1, 1, 1, 1], 0, 0),
        tensor("t", &[4, 0], 0, 0),
        tensor("t", &[33], 3, 0),
        tensor("t", &[1 << 40, 1 << 40], 0, 0),
        tensor("t", &[1 << 62], 0, 0),
        tensor("t", &[8], 0, u64::MAX - 31),
    ];
    for body in malformed {
        let error = attempt(&with_data(raw(1, 0, &body), 64)).unwrap_err();
        assert!(
            matches!(&error, ParseError::Malformed { what } if what.contains("`t`")),
            "{error}"
        );
    }
    let error = attempt(&with_data(raw(1, 0, &tensor("t", &[4], 4, 0)), 64)).unwrap_err();
    assert!(matches!(error, ParseError::UnknownTensorType { id: 4, .. }), "{error}");
    let error = attempt(&with_data(raw(1, 0, &tensor("t", &[4], 0, 8)), 64)).unwrap_err();
    assert!(
        matches!(
            error,
            ParseError::Misaligned {
                offset: 8,
                alignment: 32,
                ..
            }
        ),
        "{error}"
    );
    let long = tensor(&"n".repeat(64), &[4], 0, 0);
    let error = attempt(&with_data(raw(1, 0, &long), 64)).unwrap_err();
    assert!(
        matches!(
            error,
            ParseError::TooLarge {
                found: 64,
                limit: 63,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn tensors_may_not_share_bytes_or_names() {
    let overlapping = [tensor("a", &[16], 0, 0), tensor("b", &[4], 0, 32)].concat();
    let error = attempt(&with_data(raw(2, 0, &overlapping), 96)).unwrap_err();
    assert!(
        matches!(&error, ParseError::Overlap { first, second } if first == "a" && second == "b"),
        "{error}"
    );
    let doubled = [tensor("a", &[4], 0, 0), tensor("a", &[4], 0, 32)].concat();
    let error = attempt(&with_data(raw(2, 0, &doubled), 96)).unwrap_err();
    assert!(error.to_string().contains("`a` appears twice"), "{error}");
}

#[test]
fn the_table_knows_the_sizes_of_quantised_tensors() {
    // Bytes of one row of 256 elements.
    let rows = [
        (0, 1024),
        (1, 512),
        (2, 144),
        (3, 160),
        (6, 176),
        (7, 192),
        (8, 272),
        (10, 84),
        (11, 110),
        (12, 144),
        (13, 176),
        (14, 210),
        (16, 66),
        (17, 74),
        (18, 98),
        (19, 50),
        (20, 144),
        (21, 110),
        (22, 82),
        (23, 136),
        (29, 56),
        (30, 512),
        (34, 54),
        (35, 66),
        (39, 136),
        (40, 144),
        (41, 36),
        (42, 72),
    ];
    for (id, bytes) in rows {
        let tensor_type = TensorType::from_id(id).unwrap();
        assert_eq!(tensor_type.bytes_of(256), Some(bytes), "{tensor_type}");
        assert_eq!(tensor_type.id(), id);
    }
    for withdrawn in [4, 5, 31, 33, 36, 38, 43, u32::MAX] {
        assert_eq!(TensorType::from_id(withdrawn), None);
    }
}

#[test]
fn a_real_model_is_read() {
    let Some(path) = real_model() else { return };
    let gguf = Gguf::open(&path).unwrap();
    assert!(
        gguf.metadata
            .string("tokenizer.chat_template")
            .unwrap()
            .contains("message")
    );
    let tokens = gguf.metadata.array("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.strings().count() as u64, tokens.len());
    assert!(gguf.tensor("token_embd.weight").is_some());
}

/// Everything that looks at a header must stand whatever it says.
fn use_everything(bytes: &[u8]) {
    let Ok(gguf) = attempt(bytes) else { return };
    let _ = facts::model_facts(&gguf);
    let _ = vocabulary::vocabulary(&gguf);
    let Ok(pieces) = piece::pieces(&gguf) else { return };
    for end in 1..=pieces.layer_count() {
        let Ok(plan) = slice::SlicePlan::new(&pieces, end - 1, end) else {
            continue;
        };
        let first = plan.first_file();
        assert!(attempt(&first).is_ok());
        for part in plan.parts() {
            plan.part_header(part, 1).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        use_everything(&bytes);
        use_everything(&[b"GGUF\x03\0\0\0".to_vec(), bytes].concat());
    }

    #[test]
    fn a_damaged_model_never_panics(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        layers in 1u32..4,
    ) {
        let mut bytes = llama(layers).with_rotary_factors().with_kv_heads(&vec![1; layers as usize]).bytes();
        let header = parse(&bytes).files[0].data_offset_bytes as usize;
        for (place, value) in damage {
            bytes[place.index(header)] = value;
        }
        use_everything(&bytes);
    }

    #[test]
    fn numbers_replaced_by_extremes_never_panic(
        place in any::<proptest::sample::Index>(),
        value in prop_oneof![Just(0u64), Just(1 << 31), Just(1 << 40), Just(i64::MAX as u64), Just(u64::MAX)],
    ) {
        let mut bytes = llama(2).untied().bytes();
        let header = parse(&bytes).files[0].data_offset_bytes as usize;
        let place = place.index(header - 8);
        bytes[place..place + 8].copy_from_slice(&value.to_le_bytes());
        use_everything(&bytes);
    }
}

#[test]
fn a_safetensors_file_is_named_as_such() {
    let json = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    let error = attempt(&bytes).unwrap_err();
    assert!(matches!(error, ParseError::Safetensors), "{error}");
    assert!(error.to_string().contains("convert_hf_to_gguf.py"), "{error}");
    bytes[8] = b'[';
    assert!(matches!(attempt(&bytes), Err(ParseError::NotGguf { .. })));
}
