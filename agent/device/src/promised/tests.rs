use super::*;

#[test]
fn a_block_is_promised_until_it_is_written_piece_by_piece() {
    let mut promised = Promised::default();
    promised.enter(1, 3 * PIECE_BYTES + 10);
    assert_eq!(promised.untouched_bytes(), 3 * PIECE_BYTES + 10);
    promised.touch(1, PIECE_BYTES - 1, 2);
    assert_eq!(promised.untouched_bytes(), PIECE_BYTES + 10);
    promised.touch(1, PIECE_BYTES, 1);
    assert_eq!(promised.untouched_bytes(), PIECE_BYTES + 10, "what is touched stays so");
    promised.touch(1, 3 * PIECE_BYTES, 10);
    assert_eq!(promised.untouched_bytes(), PIECE_BYTES);
    promised.strike(1);
    assert_eq!(promised.untouched_bytes(), 0);
}

#[test]
fn blocks_that_nobody_knows_change_nothing() {
    let mut promised = Promised::default();
    promised.enter(1, 5);
    promised.touch(2, 0, 5);
    promised.strike(2);
    assert_eq!(promised.untouched_bytes(), 5);
    promised.clear();
    assert_eq!(promised.untouched_bytes(), 0);
}
