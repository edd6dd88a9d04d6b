//! PURE: what pipelines that are placed put on links, as far as it is known: of one hop the activations of a token, so many times a
//! second.
//!
//! Of another model it is the rate that it is asked for, or that of one stream at the predicted pace, whichever is more: streams that
//! share a step put more there, and nobody knows how many there will be. Of the other replicas of a model it is the rate asked for,
//! as in a plan for all of them at once.

use std::collections::BTreeMap;

use placement::activation_bytes;
use topology::Traffic;

use super::facts::Facts;
use super::in_force::InForce;

/// What one model sends over each of its hops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sends {
    /// Of one token.
    pub activation_bytes: u64,
    /// That the model is asked for.
    pub tokens_per_second: Option<u32>,
}

impl Sends {
    /// A model of these facts.
    #[must_use]
    pub fn of(facts: &Facts, tokens_per_second: Option<u32>) -> Self {
        Self {
            activation_bytes: activation_bytes(facts.embedding_length.into()),
            tokens_per_second,
        }
    }

    /// What a placement puts on links, for other models. `name`: its model's.
    #[must_use]
    pub fn traffic(self, in_force: &InForce, name: &str) -> Vec<Traffic> {
        let asked = u64::from(self.tokens_per_second.unwrap_or(0));
        let pace = |number: usize| asked.max(one_stream(in_force, number));
        self.over_hops(
            in_force,
            (0..in_force.pipelines().len()).map(|number| (number, pace(number))),
            name,
        )
    }

    /// What these pipelines of a placement put on links, for further ones of the same model.
    #[must_use]
    pub fn beside(self, in_force: &InForce, numbers: &[usize]) -> Vec<Traffic> {
        let asked = u64::from(self.tokens_per_second.unwrap_or(0));
        self.over_hops(
            in_force,
            numbers.iter().map(|number| (*number, asked)),
            "another replica",
        )
    }

    /// `paces`: numbers of pipelines, and their tokens per second.
    fn over_hops(self, in_force: &InForce, paces: impl Iterator<Item = (usize, u64)>, by: &str) -> Vec<Traffic> {
        let mut over: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (number, tokens) in paces {
            let stages = in_force
                .pipelines()
                .get(number)
                .map_or(&[][..], |pipeline| &pipeline.stages);
            for (from, to) in stages.iter().zip(stages.iter().skip(1)) {
                let bytes = over.entry((&from.node, &to.node)).or_default();
                *bytes = bytes.saturating_add(self.activation_bytes.saturating_mul(tokens));
            }
        }
        let traffic = |((from, to), bytes_per_second): ((&str, &str), u64)| Traffic {
            from_node: from.to_owned(),
            to_node: to.to_owned(),
            bytes_per_second,
            by: by.to_owned(),
        };
        over.into_iter()
            .map(traffic)
            .filter(|traffic| traffic.bytes_per_second > 0)
            .collect()
    }
}

/// Tokens per second of one stream, rounded up, as a pipeline was predicted; nothing where it was not.
fn one_stream(in_force: &InForce, number: usize) -> u64 {
    let stages = in_force.view.stages.iter();
    let own = stages.filter(|stage| usize::try_from(stage.pipeline) == Ok(number));
    let us: i64 = own
        .map(|stage| stage.predicted_us_per_token + stage.hop_us.unwrap_or(0))
        .sum();
    u64::try_from(us)
        .ok()
        .filter(|us| *us > 0)
        .map_or(0, |us| 1_000_000_u64.div_ceil(us))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    /// 256 bytes a token; 200 µs a token in two stages.
    fn sends(tokens_per_second: Option<u32>) -> Sends {
        Sends::of(&fixture::facts(), tokens_per_second)
    }

    fn told(traffic: &[Traffic]) -> Vec<(&str, &str, u64)> {
        fn one(traffic: &Traffic) -> (&str, &str, u64) {
            (&traffic.from_node, &traffic.to_node, traffic.bytes_per_second)
        }
        traffic.iter().map(one).collect()
    }

    #[test]
    fn a_model_sends_as_fast_as_it_is_asked_to_or_as_one_stream_is_predicted_to_go() {
        let in_force = fixture::in_force(1, &["a", "b"]);
        assert_eq!(told(&sends(None).traffic(&in_force, "m")), [("a", "b", 256 * 5000)]);
        assert_eq!(told(&sends(Some(70)).traffic(&in_force, "m")), [("a", "b", 256 * 5000)]);
        assert_eq!(
            told(&sends(Some(7000)).traffic(&in_force, "m")),
            [("a", "b", 256 * 7000)]
        );
        assert_eq!(told(&sends(None).traffic(&fixture::in_force(1, &["a"]), "m")), []);
    }

    #[test]
    fn hops_over_one_link_add_up_and_the_way_back_is_another_link() {
        let in_force = fixture::in_force(1, &["a", "b", "a", "b"]);
        assert_eq!(
            told(&sends(None).traffic(&in_force, "m")),
            [("a", "b", 2 * 256 * 2500), ("b", "a", 256 * 2500)]
        );
    }

    #[test]
    fn replicas_that_go_on_send_as_fast_as_they_are_asked_to() {
        let in_force = fixture::replicas(1, &[&["a", "b"], &["a", "b"], &["b", "a"]]);
        assert_eq!(
            told(&sends(Some(10)).beside(&in_force, &[0, 1])),
            [("a", "b", 2 * 2560)]
        );
        assert_eq!(told(&sends(Some(10)).beside(&in_force, &[2])), [("b", "a", 2560)]);
        assert_eq!(told(&sends(None).beside(&in_force, &[0, 1, 2])), []);
    }
}
