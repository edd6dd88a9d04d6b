use std::io::Cursor;

use super::*;
use crate::fixture::{Faltering, Model, llama, parse};
use crate::index::file_digest;

fn names() -> Vec<String> {
    vec!["tiny.gguf".to_owned()]
}

fn index_of(model: &Model) -> (Vec<u8>, WeightIndex) {
    let bytes = model.bytes();
    let index = build(&mut [Cursor::new(&bytes)], &parse(&bytes), &names()).unwrap();
    (bytes, index)
}

#[test]
fn an_index_names_the_bytes_of_every_tensor_and_of_the_header() {
    let (bytes, index) = index_of(&llama(3).untied().with_rotary_factors());
    let gguf = parse(&bytes);
    assert_eq!(index.tensors().len(), gguf.tensors.len());
    for tensor in &gguf.tensors {
        let range = tensor.offset_bytes as usize..(tensor.offset_bytes + tensor.size_bytes) as usize;
        let expected = file_digest(&mut &bytes[range]).unwrap();
        assert_eq!(index.tensor(&tensor.name).unwrap().sha256, expected, "{}", tensor.name);
    }
    assert_eq!(index.sha256(), file_digest(&mut &bytes[..]).unwrap());
    assert_eq!(index.total_bytes(), bytes.len() as u64);
    let header = &bytes[..index.files()[0].header_bytes as usize];
    assert_eq!(index.read_headers(&[header]).unwrap(), gguf);
}

#[test]
fn the_index_does_not_depend_on_how_the_bytes_arrive() {
    let (bytes, index) = index_of(&llama(2));
    let gguf = parse(&bytes);
    for size in [1, 31, 4096, bytes.len()] {
        let mut builder = IndexBuilder::new(&gguf, &names()).unwrap();
        for chunk in bytes.chunks(size) {
            builder.update(chunk).unwrap();
        }
        let again = builder.finish().unwrap();
        assert_eq!(again.digest(), index.digest());
        assert_eq!(again.to_bytes(), index.to_bytes());
    }
}

#[test]
fn a_source_that_changed_its_length_gives_no_index() {
    let (bytes, _) = index_of(&llama(2));
    let gguf = parse(&bytes);
    let built = |bytes: &[u8]| build(&mut [Cursor::new(bytes)], &gguf, &names()).unwrap_err();
    let error = built(&bytes[..bytes.len() - 1]);
    assert!(
        matches!(&error, BuildError::Short { found, expected, .. } if found + 1 == *expected),
        "{error}"
    );
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(built(&longer), BuildError::Long { .. }));
    let none: &mut [Cursor<Vec<u8>>] = &mut [];
    assert!(matches!(
        build(none, &gguf, &names()),
        Err(BuildError::FileCount { .. })
    ));
    assert!(matches!(
        IndexBuilder::new(&gguf, &[]),
        Err(BuildError::FileCount { .. })
    ));
}

#[test]
fn a_file_that_cannot_be_named_in_an_index_is_refused() {
    let bytes = llama(1).bytes();
    for name in ["", "..", "a/b.gguf", "a\nb.gguf", &"x".repeat(256)] {
        let error = build(&mut [Cursor::new(&bytes)], &parse(&bytes), &[name.to_owned()]).unwrap_err();
        assert!(error.to_string().contains("no file name"), "{error}");
    }
}

#[test]
fn reading_goes_on_after_an_interruption_and_ends_with_any_other_error() {
    let (bytes, index) = index_of(&llama(1));
    let source = |fault| Faltering {
        source: Cursor::new(&bytes[..]),
        faults: vec![fault],
    };
    let built = |fault| build(&mut [source(fault)], &parse(&bytes), &names());
    let interrupted = io::ErrorKind::Interrupted;
    assert_eq!(built(interrupted).unwrap(), index);
    assert_eq!(file_digest(&mut source(interrupted)).unwrap(), index.sha256());
    let refused = io::ErrorKind::PermissionDenied;
    assert!(matches!(built(refused), Err(BuildError::Io { .. })));
    assert_eq!(file_digest(&mut source(refused)).unwrap_err().kind(), refused);
}
