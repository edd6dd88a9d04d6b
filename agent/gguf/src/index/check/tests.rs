use super::*;
use crate::index::Digest;

fn file(number: u32, header_bytes: u64) -> IndexedFile {
    IndexedFile {
        name: format!("m-0000{number}-of-00002.gguf"),
        bytes: header_bytes + 1,
        header_bytes,
        header_sha256: Digest([1; 32]),
    }
}

#[test]
fn the_files_of_a_set_have_the_names_of_its_parts_and_one_file_has_any() {
    let renamed = |number: u32, name: &str| IndexedFile {
        name: name.to_owned(),
        ..file(number, 1)
    };
    check_files(&[file(1, 1), file(2, 1)]).unwrap();
    check_files(&[renamed(1, "m-00002-of-00007.gguf")]).unwrap();
    let error = check_files(&[file(1, 1), renamed(2, "other.gguf")]).unwrap_err();
    assert!(error.to_string().contains("file 2 is named \"other.gguf\""), "{error}");
    let error = check_files(&[file(1, 1), file(2, 1), file(2, 1)]).unwrap_err();
    assert!(error.to_string().contains("the first of 3 files"), "{error}");
}

#[test]
fn a_tensor_may_have_the_longest_name_and_lie_close_to_its_neighbours() {
    let tensor = |name: &str, offset_bytes: u64, size_bytes: u64| IndexedTensor {
        name: name.to_owned(),
        file: 0,
        offset_bytes,
        size_bytes,
        sha256: Digest([2; 32]),
    };
    let places = |tensors: Vec<IndexedTensor>| {
        let mut file = file(1, 10);
        file.bytes = 20;
        check_places(&Table {
            version: 1,
            sha256: Digest([3; 32]),
            files: vec![file],
            tensors,
        })
    };
    let longest = "n".repeat(63);
    places(vec![tensor(&longest, 10, 4), tensor("b", 14, 6)]).unwrap();
    for wrong in [
        tensor(&"n".repeat(64), 10, 4),
        tensor("", 10, 4),
        tensor("a\0", 10, 4),
        tensor("a", 10, 0),
        tensor("a", 9, 4),
        tensor("a", 16, 5),
    ] {
        assert!(places(vec![wrong.clone()]).is_err(), "{wrong:?}");
    }
    assert!(places(vec![tensor("a", 10, 4), tensor("b", 13, 6)]).is_err());
}

#[test]
fn headers_that_memory_is_not_to_hold_are_refused_one_by_one_and_together() {
    let limit = Limits::default().header_bytes;
    check_files(&[file(1, limit / 2), file(2, limit / 2)]).unwrap();
    for headers in [[limit, 1], [u64::MAX - 1, u64::MAX - 1]] {
        let error = check_files(&[file(1, headers[0]), file(2, headers[1])]).unwrap_err();
        assert!(
            matches!(
                error,
                WeightIndexError::TooLarge {
                    what: "bytes in all headers",
                    ..
                }
            ),
            "{error}"
        );
    }
}
