use std::time::Duration;

use super::{Difference, Verdict, Wrong, check};
use crate::history::{Attempt, End, Fault, History, Kind, Operation, Piece, Prompts, Reference, Request};

const WORDS: [&str; 8] = ["The", " sea", " is", " wide", " and", " it", " sings", "."];

fn pieces(words: &[&str]) -> Vec<Piece> {
    let piece = |(number, word): (usize, &&str)| Piece {
        at: Duration::from_millis(100 * number as u64),
        text: (*word).to_owned(),
    };
    words.iter().enumerate().map(piece).collect()
}

fn answered() -> End {
    End::Answered {
        finish_reason: "length".to_owned(),
        tokens: Some(8),
    }
}

fn attempt(words: &[&str], end: End) -> Attempt {
    Attempt {
        gateway: 0,
        from: 0,
        asked: Duration::ZERO,
        pieces: pieces(words),
        ended: Duration::from_secs(1),
        end,
    }
}

fn judged_with(attempts: Vec<Attempt>, faults: Vec<Fault>) -> Verdict {
    check(&History {
        requests: vec![Request {
            prompt: "the sea".to_owned(),
            max_tokens: 8,
            temperature: 0.0,
            seed: 1,
            streamed: true,
            choices: 1,
        }],
        prompts: Prompts::default(),
        references: vec![Reference {
            pieces: WORDS.map(str::to_owned).to_vec(),
            tokens: 8,
            finish_reason: "length".to_owned(),
        }],
        operations: vec![Operation {
            id: 7,
            request: 0,
            deadline: Duration::from_secs(2),
            attempts,
        }],
        faults,
    })
}

fn judged(attempt: Attempt) -> Verdict {
    judged_with(vec![attempt], Vec::new())
}

fn difference(verdict: &Verdict) -> &Difference {
    match verdict.violations.as_slice() {
        [violation] => match &violation.wrong {
            Wrong::Text(difference) => difference,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_reference_itself_is_right_in_whatever_pieces_it_comes() {
    for words in [&WORDS[..], &["The sea is", " wide and it sings."][..]] {
        let verdict = judged(attempt(words, answered()));
        assert!(verdict.violations.is_empty(), "{:?}", verdict.violations);
        assert_eq!(
            (verdict.streams_verified, verdict.requests_right, verdict.tokens_wrong()),
            (1, 1, 0)
        );
    }
}

#[test]
fn a_token_that_is_left_out_is_lost() {
    let verdict = judged(attempt(
        &["The", " sea", " wide", " and", " it", " sings", "."],
        answered(),
    ));
    let found = difference(&verdict);
    assert_eq!((found.lost, found.repeated, found.changed, found.at_byte), (1, 0, 0, 8));
    assert_eq!((verdict.streams_broken, verdict.requests_right), (1, 0));
}

#[test]
fn tokens_that_come_again_are_repeated() {
    let verdict = judged(attempt(
        &[
            "The", " sea", " is", " sea", " is", " wide", " and", " it", " sings", ".",
        ],
        answered(),
    ));
    let found = difference(&verdict);
    assert_eq!((found.lost, found.repeated, found.changed), (0, 2, 0));
}

#[test]
fn another_token_is_a_change_and_counts_as_often_as_it_is_another() {
    let verdict = judged(attempt(
        &["The", " sea", " is", " deep", " and", " it", " sings", "."],
        answered(),
    ));
    let found = difference(&verdict);
    assert_eq!((found.lost, found.repeated, found.changed), (0, 0, 1));
    let verdict = judged(attempt(&["A", " lake", " sleeps"], End::Silent));
    assert_eq!(difference(&verdict).changed, 3);
}

#[test]
fn an_answer_that_goes_on_behind_its_end_is_wrong() {
    let verdict = judged(attempt(&[&WORDS[..], &[" Amen"]].concat(), answered()));
    assert_eq!(verdict.tokens_wrong(), 1);
}

#[test]
fn an_answer_that_ends_early_or_counts_otherwise_is_incomplete() {
    let incomplete = |verdict: Verdict| matches!(verdict.violations[0].wrong, Wrong::Incomplete { .. });
    assert!(incomplete(judged(attempt(&WORDS[..5], answered()))));
    let other = End::Answered {
        finish_reason: "stop".to_owned(),
        tokens: Some(8),
    };
    assert!(incomplete(judged(attempt(&WORDS, other))));
    let other = End::Answered {
        finish_reason: "length".to_owned(),
        tokens: Some(9),
    };
    assert!(incomplete(judged(attempt(&WORDS, other))));
    let uncounted = End::Answered {
        finish_reason: "length".to_owned(),
        tokens: None,
    };
    assert!(judged(attempt(&WORDS, uncounted)).violations.is_empty());
}

#[test]
fn a_stream_that_ends_with_an_error_is_broken_and_one_that_was_refused_is_not() {
    let error = End::Interrupted {
        code: "workers_lost".to_owned(),
        message: "ask again".to_owned(),
    };
    let verdict = judged(attempt(&WORDS[..3], error));
    assert!(matches!(verdict.violations[0].wrong, Wrong::Interrupted(_)));
    assert_eq!((verdict.streams, verdict.streams_broken), (1, 1));

    let refused = End::Refused {
        status: 503,
        code: "not_ready".to_owned(),
        message: "later".to_owned(),
    };
    let verdict = judged_with(vec![attempt(&[], refused), attempt(&WORDS, answered())], Vec::new());
    assert!(verdict.violations.is_empty());
    assert_eq!((verdict.refusals, verdict.requests_right, verdict.streams), (1, 1, 1));
}

#[test]
fn a_refusal_that_does_not_say_not_now_is_a_violation() {
    let refused = |status| End::Refused {
        status,
        code: "server_error".to_owned(),
        message: "m".to_owned(),
    };
    for (status, violations) in [(429, 0), (503, 0), (500, 1), (504, 1)] {
        let attempts = vec![attempt(&[], refused(status)), attempt(&WORDS, answered())];
        assert_eq!(
            judged_with(attempts, Vec::new()).violations.len(),
            violations,
            "{status}"
        );
    }
}

#[test]
fn silence_is_a_violation_and_an_answer_after_the_deadline_is_not_right() {
    let verdict = judged(attempt(&WORDS[..3], End::Silent));
    assert_eq!(verdict.violations[0].wrong, Wrong::Silent);
    let late = Attempt {
        ended: Duration::from_secs(3),
        ..attempt(&WORDS, answered())
    };
    let verdict = judged(late);
    assert_eq!((verdict.violations.len(), verdict.requests_right), (0, 0));
}

fn gateway_killed(gateway: usize, at_ms: u64, whole_ms: Option<u64>) -> Fault {
    Fault {
        kind: Kind::GatewayKilled,
        target: format!("gateway {gateway}"),
        gateway: Some(gateway),
        at: Duration::from_millis(at_ms),
        whole: whole_ms.map(Duration::from_millis),
    }
}

#[test]
fn a_connection_that_ends_without_a_word_is_excused_only_by_the_loss_of_that_very_gateway() {
    let cut = || {
        let cut = End::Cut {
            cause: "connection reset".to_owned(),
        };
        vec![attempt(&WORDS[..3], cut), attempt(&WORDS, answered())]
    };
    assert!(matches!(
        judged_with(cut(), Vec::new()).violations[0].wrong,
        Wrong::Cut(_)
    ));
    for (fault, violations) in [
        (gateway_killed(0, 900, Some(2000)), 0),
        (gateway_killed(0, 900, None), 0),
        (gateway_killed(1, 900, Some(2000)), 1),
        (gateway_killed(0, 1500, Some(2000)), 1),
    ] {
        let verdict = judged_with(cut(), vec![fault.clone()]);
        assert_eq!(verdict.violations.len(), violations, "{fault:?}");
        assert_eq!(verdict.requests_right, u64::from(violations == 0));
    }
    // What was sent before must be right nevertheless.
    let wrong = Attempt {
        pieces: pieces(&["The", " lake"]),
        ..cut().remove(0)
    };
    assert_eq!(
        judged_with(vec![wrong], vec![gateway_killed(0, 900, None)]).tokens_changed,
        1
    );
}

#[test]
fn what_follows_the_last_event_that_was_seen_is_held_against_the_rest() {
    let resumed = |from: usize, words: &[&str]| Attempt {
        from,
        ..attempt(words, answered())
    };
    let verdict = judged(resumed("The sea is".len(), &WORDS[3..]));
    assert_eq!((verdict.violations.len(), verdict.requests_right), (0, 1));
    assert!(
        judged(resumed("The sea is wide and it sings.".len(), &[]))
            .violations
            .is_empty()
    );
    let verdict = judged(resumed("The sea is".len(), &WORDS[2..]));
    let found = difference(&verdict);
    assert_eq!(
        (found.repeated, found.lost, found.changed),
        (1, 0, 0),
        "what the client had already"
    );
    let verdict = judged(resumed("The sea is".len(), &WORDS[4..]));
    assert_eq!(difference(&verdict).lost, 1);
    assert_eq!(difference(&verdict).at_byte, "The sea is ".len());
}
