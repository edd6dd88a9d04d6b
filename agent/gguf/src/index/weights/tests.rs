use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::fixture::split::split;
use crate::fixture::{llama, parse, real_model};
use crate::index::{build, index};
use crate::piece::pieces;

fn tiny() -> (Vec<u8>, WeightIndex) {
    let bytes = llama(2).untied().with_rotary_factors().bytes();
    let index = build(&mut [Cursor::new(&bytes)], &parse(&bytes), &["tiny.gguf".to_owned()]).unwrap();
    (bytes, index)
}

/// The index's text with one thing replaced.
fn changed(from: &str, to: &str) -> WeightIndexError {
    let text = String::from_utf8(tiny().1.to_bytes()).unwrap();
    assert!(text.contains(from), "{text}");
    WeightIndex::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err()
}

#[test]
fn the_form_is_the_documented_one() {
    let table = Table {
        version: 1,
        sha256: Digest([0x11; 32]),
        files: vec![IndexedFile {
            name: "m.gguf".to_owned(),
            bytes: 8,
            header_bytes: 4,
            header_sha256: Digest([0x22; 32]),
        }],
        tensors: vec![IndexedTensor {
            name: "t".to_owned(),
            file: 0,
            offset_bytes: 4,
            size_bytes: 4,
            sha256: Digest([0xab; 32]),
        }],
    };
    let expected = format!(
        "{{\"version\":1,\"sha256\":\"{}\",\"files\":[{{\"name\":\"m.gguf\",\"bytes\":8,\"header_bytes\":4,\"header_sha256\":\"{}\"}}],\
         \"tensors\":[{{\"name\":\"t\",\"file\":0,\"offset\":4,\"bytes\":4,\"sha256\":\"{}\"}}]}}\n",
        "11".repeat(32),
        "22".repeat(32),
        "ab".repeat(32)
    );
    let index = WeightIndex::seal(table).unwrap();
    assert_eq!(String::from_utf8(index.to_bytes()).unwrap(), expected);
    assert_eq!(index.digest(), Digest(Sha256::digest(expected.as_bytes()).into()));
    assert_eq!(WeightIndex::parse(expected.as_bytes()).unwrap(), index);
}

#[test]
fn header_and_index_give_all_piece_digests_without_weights() {
    let (bytes, weights) = tiny();
    let header = &bytes[..weights.files()[0].header_bytes as usize];
    let gguf = weights.read_headers(&[header]).unwrap();
    let pieces = pieces(&gguf).unwrap();
    let expected = index(&mut Cursor::new(&bytes), &pieces).unwrap();
    assert_eq!(weights.piece_digests(&pieces).unwrap(), expected);
}

#[test]
fn an_index_in_another_form_is_refused() {
    let bytes = tiny().1.to_bytes();
    assert_eq!(WeightIndex::parse(&bytes).unwrap().to_bytes(), bytes);
    let spaced = String::from_utf8(bytes.clone()).unwrap().replace(':', ": ");
    let upper = tiny().1.sha256().to_string();
    let text = String::from_utf8(bytes.clone()).unwrap();
    for other in [
        spaced.as_bytes(),
        &bytes[..bytes.len() - 1],
        text.replace(&upper, &upper.to_uppercase()).as_bytes(),
    ] {
        assert!(matches!(WeightIndex::parse(other), Err(WeightIndexError::NotCanonical)));
    }
}

#[test]
fn every_wrong_entry_is_named() {
    let says = |error: WeightIndexError, words: &str| {
        let text = error.to_string();
        assert!(text.contains(words), "{text}");
    };
    says(changed("\"version\":1", "\"version\":2"), "version 2");
    says(changed("\"files\"", "\"folders\""), "folders");
    says(changed("\"bytes\":", "\"bytes\":-"), "no weight index");
    says(
        changed("\"tiny.gguf\"", "\"../tiny.gguf\""),
        "\"../tiny.gguf\" is no file name",
    );
    says(changed("\"file\":0", "\"file\":7"), "is in file 7");
    let (_, index) = tiny();
    let (first, second) = (&index.tensors()[0], &index.tensors()[1]);
    let place = |offset: u64| format!("\"offset\":{offset},");
    says(changed(&place(first.offset_bytes), &place(0)), "is not inside the data");
    says(
        changed(&place(second.offset_bytes), &place(u64::MAX)),
        &format!("`{}`", second.name),
    );
    says(
        changed(&place(second.offset_bytes), &place(first.offset_bytes + 1)),
        "overlap",
    );
    let name = |name: &str| format!("{{\"name\":\"{name}\",\"file\"");
    says(changed(&name(&second.name), &name(&first.name)), "appears twice");
    says(changed(&name(&second.name), &name("")), "no tensor name");
    says(changed(&name(&second.name), &name(&"x".repeat(64))), "no tensor name");
    let hash = first.sha256.to_string();
    says(changed(&hash, &hash[1..]), "64 hexadecimal");
    let file = &index.files()[0];
    says(
        changed(
            &format!("\"header_bytes\":{}", file.header_bytes),
            &format!("\"header_bytes\":{}", file.bytes + 1),
        ),
        "longer than the file",
    );
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    let error = WeightIndex::parse(&vec![b' '; MAX_INDEX_BYTES + 1]).unwrap_err();
    assert!(
        matches!(error, WeightIndexError::TooLarge { what: "bytes", .. }),
        "{error}"
    );
    let (_, index) = tiny();
    let mut table = index.table.clone();
    table.files = vec![table.files[0].clone(); MAX_FILES + 1];
    assert!(matches!(
        WeightIndex::seal(table),
        Err(WeightIndexError::TooLarge { what: "files", .. })
    ));
    let mut table = index.table.clone();
    table.files.push(table.files[0].clone());
    let error = WeightIndex::seal(table).unwrap_err().to_string();
    assert!(error.contains("no name for the first of 2 files"), "{error}");
    let mut table = index.table;
    table.files[0].bytes = MAX_FILE_BYTES + 1;
    assert!(matches!(
        WeightIndex::seal(table),
        Err(WeightIndexError::TooLarge { .. })
    ));
}

#[test]
fn headers_and_models_of_others_are_refused() {
    let (bytes, index) = tiny();
    let length = index.files()[0].header_bytes as usize;
    let mut other = bytes[..length].to_vec();
    index.check_header(0, &other).unwrap();
    other[length / 2] ^= 1;
    for (file, header, words) in [
        (0, &other[..], "the header of tiny.gguf has SHA-256 "),
        (0, &bytes[..length - 1], "is another one than the index was made from"),
        (1, &bytes[..length], "2 headers were given for the 1 files"),
    ] {
        let error = index.check_header(file, header).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let error = index.read_headers(&[&other, &other]).unwrap_err();
    assert!(matches!(error, WeightIndexError::HeaderCount { .. }), "{error}");
    for model in [llama(2).untied(), llama(3).untied().with_rotary_factors()] {
        let error = index.check_model(&model.gguf()).unwrap_err();
        assert!(matches!(error, WeightIndexError::TensorDiffers { .. }), "{error}");
    }
    let mut fewer = parse(&bytes);
    fewer.tensors.pop();
    let error = index.check_model(&fewer).unwrap_err().to_string();
    assert!(error.contains("is not in the model"), "{error}");
}

/// An index of files that are headers from their first byte to their last.
fn index_of_headers(files: &[(&str, &[u8])]) -> WeightIndex {
    let indexed = |(name, bytes): &(&str, &[u8])| IndexedFile {
        name: (*name).to_owned(),
        bytes: bytes.len() as u64,
        header_bytes: bytes.len() as u64,
        header_sha256: Digest(Sha256::digest(bytes).into()),
    };
    let table = Table {
        version: VERSION,
        sha256: Digest([0; 32]),
        files: files.iter().map(indexed).collect(),
        tensors: Vec::new(),
    };
    WeightIndex::seal(table).unwrap()
}

#[test]
fn headers_that_the_index_knows_and_nobody_can_read_are_refused_by_the_name_of_their_file() {
    let text = b"nothing of the kind, though the index says so".as_slice();
    let error = index_of_headers(&[("m.gguf", text)]).read_headers(&[text]).unwrap_err();
    assert!(matches!(&error, WeightIndexError::Header { .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("the header of m.gguf: this is no GGUF file"),
        "{error}"
    );

    let parts = split(&llama(2).bytes(), 2);
    let (first, again) = (parts[0].bytes(), parts[0].bytes());
    let files = [
        ("m-00001-of-00002.gguf", &first[..]),
        ("m-00002-of-00002.gguf", &again[..]),
    ];
    let error = index_of_headers(&files).read_headers(&[&first, &again]).unwrap_err();
    assert!(matches!(&error, WeightIndexError::Split(_)), "{error}");
    assert_eq!(
        error.to_string(),
        "part 2 states 0 for `split.no` where 1 belongs; the parts are not of one model, fetch all again"
    );
}

#[test]
fn a_real_models_index_is_the_same_read_back() {
    let Some(path) = real_model() else { return };
    let gguf = Gguf::open(&path).unwrap();
    let mut file = std::fs::File::open(&path).unwrap();
    let index = build(std::slice::from_mut(&mut file), &gguf, &["real.gguf".to_owned()]).unwrap();
    let bytes = index.to_bytes();
    assert_eq!(WeightIndex::parse(&bytes).unwrap(), index);
    index.check_model(&gguf).unwrap();
    let pieces = pieces(&gguf).unwrap();
    assert_eq!(
        index.piece_digests(&pieces).unwrap(),
        crate::index::index(&mut file, &pieces).unwrap()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_damaged_index_is_an_error_and_never_a_panic(place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = tiny().1.to_bytes();
        let place = place.index(bytes.len());
        if cut {
            bytes.truncate(place);
        } else {
            bytes[place] = byte;
        }
        if let Ok(index) = WeightIndex::parse(&bytes) {
            prop_assert_eq!(index.to_bytes(), bytes);
        }
    }
}
