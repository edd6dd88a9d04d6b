use proptest::prelude::*;

use super::*;

fn row(sequence: u32, position: u32) -> Row {
    Row {
        sequence,
        position,
        token: 0,
    }
}

#[test]
fn rows_of_several_sequences_may_be_mixed_as_long_as_each_follows() {
    let mut positions = Positions::new(2, 16);
    let rows = [row(0, 0), row(1, 0), row(0, 1), row(1, 1), row(1, 2)];
    assert_eq!(positions.admit(&rows).unwrap(), vec![(0, 0), (1, 0)]);
    positions.commit(&rows);
    assert_eq!((positions.length(0), positions.length(1)), (2, 3));
    assert_eq!(positions.admit(&[row(1, 3)]).unwrap(), vec![(1, 3)]);
}

#[test]
fn a_row_that_repeats_or_skips_a_position_is_refused() {
    let mut positions = Positions::new(1, 16);
    positions.commit(&[row(0, 0), row(0, 1)]);
    for position in [0, 1, 3] {
        let error = positions.admit(&[row(0, position)]).unwrap_err();
        assert!(
            matches!(error, EngineError::DoesNotFollow { expected: 2, .. }),
            "{error}"
        );
    }
    let error = positions.admit(&[row(0, 2), row(0, 2)]).unwrap_err();
    assert!(
        matches!(error, EngineError::DoesNotFollow { expected: 3, .. }),
        "{error}"
    );
}

#[test]
fn an_unknown_sequence_and_a_full_context_are_refused() {
    let mut positions = Positions::new(2, 3);
    let error = positions.admit(&[row(2, 0)]).unwrap_err();
    assert!(
        matches!(error, EngineError::UnknownSequence { sequence: 2, limit: 2 }),
        "{error}"
    );
    positions.commit(&[row(1, 0), row(1, 1), row(1, 2)]);
    let error = positions.admit(&[row(1, 3)]).unwrap_err();
    assert!(
        matches!(error, EngineError::ContextFull { context_length: 3, .. }),
        "{error}"
    );
}

#[test]
fn only_a_suffix_can_be_removed_and_removing_nothing_is_no_error() {
    let mut positions = Positions::new(1, 16);
    positions.commit(&[row(0, 0), row(0, 1), row(0, 2), row(0, 3)]);
    assert!(!positions.check_removal(0, 4, u32::MAX).unwrap());
    assert!(!positions.check_removal(0, 2, 2).unwrap());
    assert!(positions.check_removal(0, 2, u32::MAX).unwrap());
    assert!(positions.check_removal(0, 2, 4).unwrap());
    let error = positions.check_removal(0, 1, 3).unwrap_err();
    assert!(matches!(error, EngineError::NotASuffix { length: 4, .. }), "{error}");
    positions.truncate(0, 2);
    assert_eq!(positions.length(0), 2);
    assert_eq!(positions.admit(&[row(0, 2)]).unwrap(), vec![(0, 2)]);
}

proptest! {
    #[test]
    fn what_is_admitted_is_exactly_what_a_counter_per_sequence_allows(
        rows in prop::collection::vec((0u32..4, 0u32..6), 1..12),
        lengths in prop::collection::vec(0u32..5, 3),
    ) {
        let mut positions = Positions::new(3, 5);
        for (sequence, length) in lengths.iter().enumerate() {
            let held: Vec<_> = (0..*length).map(|position| row(sequence as u32, position)).collect();
            positions.commit(&held);
        }
        let mut counters = lengths.clone();
        let allowed = rows.iter().all(|(sequence, position)| {
            let Some(counter) = counters.get_mut(*sequence as usize) else { return false };
            let follows = counter == position && *position < 5;
            *counter += u32::from(follows);
            follows
        });
        let rows: Vec<_> = rows.iter().map(|(sequence, position)| row(*sequence, *position)).collect();
        prop_assert_eq!(positions.admit(&rows).is_ok(), allowed);
    }
}
