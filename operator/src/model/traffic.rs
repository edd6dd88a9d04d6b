//! PURE: what pipelines put on links, as far as it is known: of one hop the activations of a token, so many times a second.
//!
//! Of another model it is the rate that it is asked for, or that of one stream at the predicted pace, whichever is more: streams that
//! share a step put more there, and nobody knows how many there will be. Of the other replicas of a model it is the rate asked for,
//! as in a plan for all of them at once. Of a model that waits for its place it is what the search for it counts with.

use std::collections::BTreeMap;

use placement::{Plan, Problem, activation_bytes, reserved_bytes_per_second, text};
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

/// What a model puts on one link, in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The node that sends.
    pub from_node: String,
    /// The node that receives.
    pub to_node: String,
    /// At the rate asked for; nothing without one.
    pub asked_bytes_per_second: u64,
    /// As others see it: at the rate asked for, or the pace of one stream, whichever is more.
    pub bytes_per_second: u64,
}

impl Load {
    /// As that of another replica, beside which further ones of the same model are decided; and what others see of it above that.
    #[must_use]
    pub fn of_replica(&self) -> (Traffic, u64) {
        let traffic = Traffic {
            from_node: self.from_node.clone(),
            to_node: self.to_node.clone(),
            bytes_per_second: self.asked_bytes_per_second,
            by: "another replica".to_owned(),
            leaves_bytes_per_second: None,
        };
        (
            traffic,
            self.bytes_per_second.saturating_sub(self.asked_bytes_per_second),
        )
    }

    /// What of it is beyond what is there at `present`; `None` if nothing is.
    #[must_use]
    pub fn beyond(self, present: &[Self]) -> Option<Self> {
        let is_here = |other: &&Self| other.from_node == self.from_node && other.to_node == self.to_node;
        let there = present.iter().find(is_here);
        let (asked, all) = there.map_or((0, 0), |there| (there.asked_bytes_per_second, there.bytes_per_second));
        let further = Self {
            asked_bytes_per_second: self.asked_bytes_per_second.saturating_sub(asked),
            bytes_per_second: self.bytes_per_second.saturating_sub(all),
            ..self
        };
        (further.asked_bytes_per_second > 0 || further.bytes_per_second > 0).then_some(further)
    }
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

    /// What all pipelines of a placement put on links.
    #[must_use]
    pub fn loads(self, in_force: &InForce) -> Vec<Load> {
        let numbers: Vec<usize> = (0..in_force.pipelines().len()).collect();
        self.loads_of(in_force, &numbers)
    }

    /// What these pipelines of a placement put on links.
    #[must_use]
    pub fn loads_of(self, in_force: &InForce, numbers: &[usize]) -> Vec<Load> {
        let there = numbers
            .iter()
            .filter_map(|number| Some((*number, in_force.pipelines().get(*number)?)));
        let pipelines = there.map(|(number, pipeline)| {
            let nodes: Vec<&str> = pipeline.stages.iter().map(|stage| stage.node.as_str()).collect();
            (nodes, one_stream(predicted_us(in_force, number)))
        });
        self.over_hops(pipelines, |_, _| 0)
    }

    /// What must be left on links for plans of a problem that wait. They are searched for again, and the search counts a hop with more
    /// than the plan will put there: whoever took the rest would have to yield it, and could have it again, without end.
    #[must_use]
    pub fn loads_of_plans(self, problem: &Problem, plans: &[Plan]) -> Vec<Load> {
        let pipelines = plans.iter().map(|plan| {
            let nodes: Vec<&str> = plan.stages.iter().map(|stage| stage.node.as_str()).collect();
            let stages_us = plan.stages.iter().map(|stage| text::us(stage.time_ns));
            let hops_us = plan.stages.iter().filter_map(|stage| stage.hop_ns.map(text::us));
            (nodes, one_stream(stages_us.chain(hops_us).fold(0, u64::saturating_add)))
        });
        self.over_hops(pipelines, |from, to| {
            reserved_bytes_per_second(problem, from, to).unwrap_or(0)
        })
    }

    /// `pipelines`: the nodes of their stages, and their tokens per second. `least`: what a hop counts with at least as others see it.
    fn over_hops<'n>(
        self,
        pipelines: impl Iterator<Item = (Vec<&'n str>, u64)>,
        least: impl Fn(&str, &str) -> u64,
    ) -> Vec<Load> {
        let asked = u64::from(self.tokens_per_second.unwrap_or(0));
        let mut over: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
        for (nodes, pace) in pipelines {
            for (&from, &to) in nodes.iter().zip(nodes.iter().skip(1)) {
                let (at_rate, at_most) = over.entry((from, to)).or_default();
                let bytes = |tokens: u64| self.activation_bytes.saturating_mul(tokens);
                *at_rate = at_rate.saturating_add(bytes(asked));
                *at_most = at_most.saturating_add(bytes(asked.max(pace)).max(least(from, to)));
            }
        }
        let load = |((from, to), (asked_bytes_per_second, bytes_per_second)): ((&str, &str), (u64, u64))| Load {
            from_node: from.to_owned(),
            to_node: to.to_owned(),
            asked_bytes_per_second,
            bytes_per_second,
        };
        over.into_iter()
            .map(load)
            .filter(|load| load.bytes_per_second > 0)
            .collect()
    }
}

/// Of one token of one stream, as a pipeline was predicted; nothing where it was not.
fn predicted_us(in_force: &InForce, number: usize) -> u64 {
    let stages = in_force.view.stages.iter();
    let own = stages.filter(|stage| usize::try_from(stage.pipeline) == Ok(number));
    let us: i64 = own
        .map(|stage| stage.predicted_us_per_token + stage.hop_us.unwrap_or(0))
        .sum();
    u64::try_from(us).unwrap_or(0)
}

/// Tokens per second, rounded up.
fn one_stream(token_us: u64) -> u64 {
    match token_us {
        0 => 0,
        us => 1_000_000_u64.div_ceil(us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    /// 256 bytes a token; 200 µs a token in two stages.
    fn sends(tokens_per_second: Option<u32>) -> Sends {
        Sends::of(&fixture::facts(), tokens_per_second)
    }

    /// From where, to where, at the rate asked for, as others see it.
    fn told(loads: &[Load]) -> Vec<(&str, &str, u64, u64)> {
        fn one(load: &Load) -> (&str, &str, u64, u64) {
            let Load {
                from_node,
                to_node,
                asked_bytes_per_second,
                bytes_per_second,
            } = load;
            (from_node, to_node, *asked_bytes_per_second, *bytes_per_second)
        }
        loads.iter().map(one).collect()
    }

    #[test]
    fn a_model_sends_as_fast_as_it_is_asked_to_or_as_one_stream_is_predicted_to_go() {
        let in_force = fixture::in_force(1, &["a", "b"]);
        let stream = 256 * 5000;
        assert_eq!(told(&sends(None).loads(&in_force)), [("a", "b", 0, stream)]);
        assert_eq!(told(&sends(Some(70)).loads(&in_force)), [("a", "b", 256 * 70, stream)]);
        assert_eq!(
            told(&sends(Some(7000)).loads(&in_force)),
            [("a", "b", 256 * 7000, 256 * 7000)]
        );
        assert_eq!(told(&sends(None).loads(&fixture::in_force(1, &["a"]))), []);
    }

    #[test]
    fn hops_over_one_link_add_up_and_the_way_back_is_another_link() {
        let in_force = fixture::in_force(1, &["a", "b", "a", "b"]);
        assert_eq!(
            told(&sends(None).loads(&in_force)),
            [("a", "b", 0, 2 * 256 * 2500), ("b", "a", 0, 256 * 2500)]
        );
    }

    #[test]
    fn replicas_that_go_on_stand_beside_further_ones_with_the_rate_that_is_asked_for() {
        let in_force = fixture::replicas(1, &[&["a", "b"], &["a", "b"], &["b", "a"]]);
        let beside = |tokens_per_second, numbers: &[usize]| {
            let loads = sends(tokens_per_second).loads_of(&in_force, numbers);
            let beside = loads.iter().map(Load::of_replica);
            let told = beside.map(|(own, beyond)| (own.from_node, own.to_node, own.bytes_per_second, beyond));
            told.collect::<Vec<_>>()
        };
        let way = |from: &str, to: &str, asked, beyond| (from.to_owned(), to.to_owned(), asked, beyond);
        assert_eq!(
            beside(Some(10), &[0, 1]),
            [way("a", "b", 2 * 2560, 2 * (256 * 5000 - 2560))]
        );
        assert_eq!(beside(Some(6000), &[2]), [way("b", "a", 256 * 6000, 0)]);
        assert_eq!(beside(None, &[2]), [way("b", "a", 0, 256 * 5000)]);
    }

    #[test]
    fn of_a_placement_to_come_counts_what_is_beyond_the_one_at_present() {
        let model = sends(Some(70));
        let present = model.loads(&fixture::in_force(1, &["a", "b"]));
        let beyond = |nodes: &[&str]| -> Vec<Load> {
            let next = model.loads(&fixture::in_force(2, nodes)).into_iter();
            next.filter_map(|load| load.beyond(&present)).collect()
        };
        assert_eq!(beyond(&["a", "b"]), []);
        assert_eq!(told(&beyond(&["b", "a"])), [("b", "a", 256 * 70, 256 * 5000)]);
        // Twice over it at half the pace: it is asked for more, and no more is there.
        assert_eq!(
            told(&beyond(&["a", "b", "a", "b"])),
            [("a", "b", 256 * 70, 0), ("b", "a", 256 * 70, 256 * 2500)]
        );
    }
}
