use super::{Detokeniser, Pieces};

#[test]
fn a_character_split_over_tokens_appears_once_and_whole() {
    let mut detokeniser = Detokeniser::default();
    let smile = "🙂".as_bytes();
    assert_eq!(detokeniser.push(b"a"), "a");
    assert_eq!(detokeniser.push(&smile[..1]), "");
    assert_eq!(detokeniser.push(&smile[1..3]), "");
    assert_eq!(detokeniser.push(&[smile[3], b'b']), "🙂b");
    assert_eq!(detokeniser.finish(), "");
}

#[test]
fn every_cut_of_a_text_gives_the_same_text() {
    let text = "naïve 日本語 🙂 end";
    for size in 1..6 {
        let mut detokeniser = Detokeniser::default();
        let mut joined: String = text
            .as_bytes()
            .chunks(size)
            .map(|bytes| detokeniser.push(bytes))
            .collect();
        joined.push_str(&detokeniser.finish());
        assert_eq!(joined, text, "pieces of {size} bytes");
    }
}

#[test]
fn bytes_that_are_no_text_are_replaced_and_do_not_stay() {
    let mut detokeniser = Detokeniser::default();
    assert_eq!(detokeniser.push(&[0xff, b'x', 0xc3]), "\u{fffd}x");
    assert_eq!(detokeniser.push(b"y"), "\u{fffd}y");
    assert_eq!(detokeniser.push(&[0xe2, 0x82]), "");
    assert_eq!(detokeniser.finish(), "\u{fffd}");
}

#[test]
fn pieces_know_only_their_own_tokens() {
    let mut pieces = Pieces::default();
    pieces.push(b"ab");
    pieces.push(b"");
    pieces.push(b"cde");
    assert_eq!(pieces.get(0), Some(&b"ab"[..]));
    assert_eq!(pieces.get(1), Some(&b""[..]));
    assert_eq!(pieces.get(2), Some(&b"cde"[..]));
    assert_eq!((pieces.get(3), pieces.get(-1)), (None, None));
    assert_eq!((pieces.len(), pieces.longest_bytes()), (3, 3));
}
