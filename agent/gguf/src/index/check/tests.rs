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
