use super::*;

fn parts(bytes: u64, max: u64) -> Parts<u64> {
    let mut number = 0;
    Parts::new(bytes, max, |_| {
        number += 1;
        Ok::<_, ()>(number - 1)
    })
    .map_err(|_| ())
    .unwrap()
}

fn seen(parts: &Parts<u64>, offset: u64, bytes: u64) -> Vec<(u64, u64, u64)> {
    parts
        .pieces(offset, bytes)
        .map(|piece| (*piece.part, piece.offset, piece.bytes))
        .collect()
}

#[test]
fn a_span_is_pieces_of_as_many_parts_as_it_crosses() {
    let block = parts(25, 10);
    assert_eq!(block.iter().count(), 3);
    assert_eq!(seen(&block, 0, 25), [(0, 0, 10), (1, 0, 10), (2, 0, 5)]);
    assert_eq!(seen(&block, 9, 2), [(0, 9, 1), (1, 0, 1)]);
    assert_eq!(seen(&block, 20, 5), [(2, 0, 5)]);
    assert_eq!(seen(&block, 25, 0), []);
}

#[test]
fn pairs_are_equally_long_whatever_the_offsets() {
    let (one, two) = (parts(25, 10), parts(40, 7));
    let mut next = (3, 15);
    for [from, to] in one.pairs(3, &two, 15, 20, 4) {
        assert!(from.bytes == to.bytes && from.bytes <= 4);
        assert_eq!(from.part * 10 + from.offset, next.0);
        assert_eq!(to.part * 7 + to.offset, next.1);
        next = (next.0 + from.bytes, next.1 + to.bytes);
    }
    assert_eq!(next, (23, 35));
}

#[test]
fn parts_that_were_made_come_back_when_the_next_is_refused() {
    let refused = Parts::new(30, 10, |bytes| if bytes == 10 { Ok(1) } else { Err("full") });
    assert!(refused.is_ok());
    let mut left = 2;
    let refused = Parts::new(30, 10, |_| {
        left -= 1;
        if left >= 0 { Ok(left) } else { Err("full") }
    });
    let Err((made, why)) = refused else { panic!("refused") };
    assert_eq!((made, why), (vec![1, 0], "full"));
}

#[test]
fn spans_that_only_meet_do_not_overlap() {
    assert!(overlap(0, 9, 10) && overlap(9, 0, 10) && overlap(5, 5, 1));
    assert!(!overlap(0, 10, 10) && !overlap(10, 0, 10));
}
