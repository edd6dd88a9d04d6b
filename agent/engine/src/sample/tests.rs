use proptest::prelude::*;

use super::*;

const LOGITS: [f32; 6] = [1.0, 3.0, 2.0, 3.0, -1.0, 0.0];

fn drawing(temperature: f32) -> Sampling {
    Sampling {
        temperature,
        top_p: 1.0,
        top_k: 0,
        seed: 7,
    }
}

/// How often each of `size` tokens is drawn over positions `0..draws`.
fn shares(logits: &[f32], sampling: &Sampling, draws: u32) -> Vec<f64> {
    let mut counts = vec![0u32; logits.len()];
    for position in 0..draws {
        counts[sample(logits, sampling, position) as usize] += 1;
    }
    counts
        .into_iter()
        .map(|count| f64::from(count) / f64::from(draws))
        .collect()
}

fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let weights: Vec<_> = logits.iter().map(|l| (f64::from(*l) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

#[test]
fn greedy_takes_the_lowest_id_of_equal_logits() {
    assert_eq!(sample(&LOGITS, &Sampling::GREEDY, 0), 1);
    assert_eq!(sample(&[0.0; 4], &Sampling::GREEDY, 9), 0);
    assert_eq!(
        sample(
            &LOGITS,
            &Sampling {
                top_k: 1,
                ..drawing(5.0)
            },
            3
        ),
        1
    );
}

#[test]
fn values_that_are_not_numbers_never_win() {
    let logits = [f32::NAN, f32::NEG_INFINITY, -3.0, f32::NAN];
    assert_eq!(sample(&logits, &Sampling::GREEDY, 0), 2);
    assert_eq!(sample(&logits, &drawing(1.0), 0), 2);
    assert_eq!(sample(&[f32::NAN; 3], &drawing(1.0), 0), 0);
    assert_eq!(sample(&[], &drawing(1.0), 0), 0);
    assert_eq!(sample(&[0.0, f32::INFINITY, 1.0], &drawing(1.0), 0), 1);
}

#[test]
fn the_same_seed_and_position_draw_the_same_token_and_others_differ() {
    let logits = [0.0; 64];
    let tokens = |seed: u64| -> Vec<i32> {
        (0..64)
            .map(|p| sample(&logits, &Sampling { seed, ..drawing(1.0) }, p))
            .collect()
    };
    assert_eq!(tokens(1), tokens(1));
    assert_ne!(tokens(1), tokens(2));
    let distinct: std::collections::HashSet<_> = tokens(1).into_iter().collect();
    assert!(distinct.len() > 24, "64 uniform draws gave {} values", distinct.len());
}

#[test]
fn draws_are_distributed_as_the_softmax_says() {
    for temperature in [0.5f32, 1.0, 2.0] {
        let drawn = shares(&LOGITS, &drawing(temperature), 40_000);
        for (share, probability) in drawn.iter().zip(softmax(&LOGITS, f64::from(temperature))) {
            // Four standard deviations of a share over 40,000 draws are at most 0.01.
            assert!((share - probability).abs() < 0.01, "{share} for {probability}");
        }
    }
}

#[test]
fn draws_at_neighbouring_positions_are_independent() {
    let logits = [0.0f32, 0.0];
    let draws: Vec<_> = (0..20_001).map(|p| sample(&logits, &drawing(1.0), p)).collect();
    let repeats = draws.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(
        (repeats as f64 / 20_000.0 - 0.5).abs() < 0.015,
        "{repeats} repeats of 20000"
    );
}

#[test]
fn top_k_keeps_the_most_likely_and_breaks_ties_by_id() {
    let drawn = shares(
        &LOGITS,
        &Sampling {
            top_k: 2,
            ..drawing(1.0)
        },
        4_000,
    );
    assert!(drawn[1] > 0.4 && drawn[3] > 0.4, "{drawn:?}");
    assert!([0, 2, 4, 5].iter().all(|token| drawn[*token] == 0.0), "{drawn:?}");
    let drawn = shares(
        &[1.0; 5],
        &Sampling {
            top_k: 2,
            ..drawing(1.0)
        },
        1_000,
    );
    assert!(drawn[0] > 0.4 && drawn[1] > 0.4, "{drawn:?}");
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_it() {
    let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
    let kept = |top_p: f32| -> Vec<usize> {
        let drawn = shares(&logits, &Sampling { top_p, ..drawing(1.0) }, 4_000);
        (0..logits.len()).filter(|token| drawn[*token] > 0.0).collect()
    };
    assert_eq!(kept(0.0), [0]);
    assert_eq!(kept(0.49), [0]);
    assert_eq!(kept(0.6), [0, 1]);
    assert_eq!(kept(0.9), [0, 1, 2]);
    assert_eq!(kept(1.0), [0, 1, 2, 3]);
}

#[test]
fn a_nucleus_larger_than_the_first_look_is_found_whole() {
    let logits = vec![0.0f32; 4 * FIRST_NUCLEUS_LOOK];
    let sampling = Sampling {
        top_p: 0.5,
        ..drawing(1.0)
    };
    let half = logits.len() as i32 / 2;
    let tokens: Vec<_> = (0..4_000).map(|p| sample(&logits, &sampling, p)).collect();
    assert!(tokens.iter().all(|token| *token <= half));
    assert!(tokens.iter().any(|token| *token > half * 9 / 10));
}

proptest! {
    #[test]
    fn any_input_gives_a_token_of_the_vocabulary(
        logits in prop::collection::vec(prop::num::f32::ANY, 1..300),
        temperature in prop::num::f32::ANY,
        top_p in prop::num::f32::ANY,
        top_k in 0u32..400,
        seed in any::<u64>(),
        position in any::<u32>(),
    ) {
        let sampling = Sampling { temperature, top_p, top_k, seed };
        let token = sample(&logits, &sampling, position);
        prop_assert!((0..logits.len() as i32).contains(&token));
        prop_assert_eq!(token, sample(&logits, &sampling, position));
    }

    #[test]
    fn a_draw_never_leaves_the_k_most_likely(
        logits in prop::collection::vec(-20.0f32..20.0, 2..200),
        top_k in 1u32..20,
        position in any::<u32>(),
    ) {
        let token = sample(&logits, &Sampling { top_k, ..drawing(1.5) }, position) as usize;
        let better = logits.iter().filter(|logit| **logit > logits[token]).count();
        prop_assert!(better < top_k as usize);
    }
}

proptest! {
    #[test]
    fn the_largest_is_found_whatever_the_length_and_wherever_it_is(
        logits in prop::collection::vec(prop_oneof![8 => -4f32..4.0, 1 => Just(f32::NAN), 1 => Just(2.5f32)], 0..70),
    ) {
        let mut expected = (0, f32::NEG_INFINITY);
        for (token, logit) in (0i32..).zip(&logits) {
            if *logit > expected.1 {
                expected = (token, *logit);
            }
        }
        prop_assert_eq!(greedy(&logits), expected.0);
        prop_assert_eq!(any_nan(&logits), logits.iter().any(|logit| logit.is_nan()));
    }
}
