use proptest::prelude::*;

use super::*;

fn written(total: u32, sequences: u32, rows: &[(u32, usize)]) -> Cells {
    let mut cells = Cells::new(total, sequences);
    for (sequence, count) in rows {
        cells.write(std::iter::repeat_n(*sequence, *count));
    }
    cells
}

#[test]
fn compaction_is_wanted_when_room_is_short_or_too_much_is_retired() {
    let mut cells = written(4096, 2, &[(0, 2800), (1, 1200)]);
    assert!(!cells.wants_compaction(200), "nothing could be gained");
    cells.truncate(0, 2300);
    assert!(!cells.wants_compaction(96));
    assert!(cells.wants_compaction(97));
    let pieces = cells.plan(Packing::InPlace);
    cells.compacted(&pieces, true);
    assert!(!cells.wants_compaction(97));
    cells.truncate(0, 0);
    assert!(cells.wants_compaction(1), "2300 retired beside 1200 alive");
    assert!(!cells.needs_compaction(596) && cells.needs_compaction(597));
    cells.clear();
    assert_eq!(cells, Cells::new(4096, 2));
}

#[test]
fn a_shared_cell_counts_once_and_is_retired_with_the_last_that_holds_it() {
    let mut cells = written(64, 3, &[(0, 10)]);
    cells.share(0, 1, 8);
    cells.share(1, 2, 4);
    cells.write([1, 2, 1].into_iter());
    assert_eq!((cells.alive(), cells.free()), (13, 51));
    cells.truncate(0, 0);
    assert_eq!(cells.alive(), 11, "positions 8 and 9 were its own");
    cells.truncate(1, 3);
    assert_eq!(cells.alive(), 5, "4 positions of the last and its own one");
    cells.truncate(2, 0);
    assert_eq!(cells.alive(), 3);
    cells.truncate(1, 0);
    assert_eq!((cells.alive(), cells.free()), (0, 64));
}

#[test]
fn what_is_behind_all_others_is_freed_and_nothing_else() {
    let mut cells = written(64, 3, &[(0, 10), (1, 3), (0, 2)]);
    assert!(!cells.free_last(1, 1), "others are behind it");
    assert!(!cells.free_last(0, 12), "there is nothing to free");
    assert!(!cells.free_last(0, 9), "not all of it is behind the others");
    assert!(cells.free_last(0, 10));
    assert_eq!(cells, written(64, 3, &[(0, 10), (1, 3)]));
    cells.share(1, 2, 3);
    assert!(!cells.free_last(1, 2), "another sequence reads it");
    assert_eq!((cells.alive(), cells.taken()), (13, 13));
}

#[test]
fn what_is_in_its_place_does_not_move() {
    let mut cells = written(64, 3, &[(0, 5), (1, 5), (2, 5)]);
    cells.truncate(1, 0);
    let pieces = cells.plan(Packing::InPlace);
    let moving: Vec<_> = pieces.iter().map(|piece| (piece.sequences[0], piece.moves)).collect();
    assert_eq!(moving, [(0, false), (2, true)]);
    assert_eq!(pieces[1].cells, [5, 6, 7, 8, 9]);
}

#[test]
fn pieces_of_a_windowed_cache_end_at_the_windows_multiples() {
    let mut cells = written(64, 2, &[(0, 10)]);
    cells.share(0, 1, 6);
    let pieces = cells.plan(Packing::Anew { piece: 4 });
    let spans: Vec<_> = pieces
        .iter()
        .map(|piece| (piece.from, piece.end, piece.sequences.len()))
        .collect();
    assert_eq!(spans, [(0, 4, 2), (4, 6, 2), (6, 8, 1), (8, 10, 1)]);
}

/// What may happen to a cache of a few sequences.
#[derive(Debug, Clone)]
enum Deed {
    Write(u32, usize),
    Truncate(u32, u32),
    FreeLast(u32, u32),
    Share(u32, u32, u32),
    Compact,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        (0u32..4, 1usize..9).prop_map(|(sequence, rows)| Deed::Write(sequence, rows)),
        (0u32..4, 0u32..12).prop_map(|(sequence, from)| Deed::Truncate(sequence, from)),
        (0u32..4, 0u32..12).prop_map(|(sequence, from)| Deed::FreeLast(sequence, from)),
        (0u32..4, 0u32..4, 0u32..12).prop_map(|(from, to, end)| Deed::Share(from, to, end)),
        Just(Deed::Compact),
    ]
}

/// Checks that a plan leaves no hole, keeps every sequence's order and gives sharers one cell.
fn check_plan(cells: &mut Cells) {
    let alive = cells.alive();
    let pieces = cells.plan(Packing::InPlace);
    let before: Vec<Vec<u32>> = cells.held.clone();
    cells.compacted(&pieces, true);
    assert_eq!((cells.alive(), cells.taken()), (alive, alive));
    let mut all: Vec<u32> = cells.held.iter().flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..alive).collect::<Vec<_>>());
    for (old, new) in before.iter().zip(&cells.held) {
        assert!(new.is_sorted(), "{new:?}");
        assert_eq!(old.len(), new.len());
        for (position, (was, is)) in old.iter().zip(new).enumerate() {
            assert!(is <= was);
            for (other_old, other_new) in before.iter().zip(&cells.held) {
                let shared = other_old.get(position) == Some(was);
                assert_eq!(shared, other_new.get(position) == Some(is));
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_cells_are_counted_exactly_and_compaction_keeps_order(
        deeds in prop::collection::vec(deed(), 1..60),
    ) {
        let mut cells = Cells::new(10_000, 4);
        for deed in deeds {
            match deed {
                Deed::Write(sequence, rows) => cells.write(std::iter::repeat_n(sequence, rows)),
                Deed::Truncate(sequence, from) => cells.truncate(sequence, from),
                Deed::FreeLast(sequence, from) => {
                    let (alive, retired) = (cells.alive(), cells.retired);
                    let freed = cells.free_last(sequence, from);
                    prop_assert_eq!(freed, cells.alive() < alive);
                    prop_assert_eq!(cells.retired, retired);
                }
                Deed::Share(from, to, end) => {
                    let length = cells.held[from as usize].len() as u32;
                    if from != to && cells.held[to as usize].is_empty() {
                        cells.share(from, to, end.min(length));
                    }
                }
                Deed::Compact => check_plan(&mut cells),
            }
            let mut all: Vec<u32> = cells.held.iter().flatten().copied().collect();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(cells.alive() as usize, all.len());
        }
        check_plan(&mut cells);
    }
}
