//! PURE: links that carry far less than they did, as the agents at their ends tell, and which of them a placement uses.
//!
//! The figures themselves are in the graph. A model moves off such a link as to any better place: when that gains enough for long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::conditions::reason;
use crds::{NodeLinkState, PeerLink, SlowRate};
use topology::FORGOTTEN_S;

use crate::model::in_force::InForce;

/// Links that people are told of in one message.
const TOLD_MAX: usize = 3;

/// By the node that sends and the one that receives.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SlowLinks(BTreeMap<(String, String), SlowRate>);

impl SlowLinks {
    /// Those that agents tell of: of what both ends say the slower figure. What nobody measured for a day is not told of.
    #[must_use]
    pub fn of(objects: &[Arc<NodeLinkState>], now_unix_s: i64) -> Self {
        let mut links: BTreeMap<(String, String), SlowRate> = BTreeMap::new();
        for status in objects.iter().filter_map(|object| object.status.as_ref()) {
            for peer in status.peers.iter().filter(|peer| counts(peer, now_unix_s)) {
                let (own, other) = (&status.node, &peer.node);
                let ways = [
                    ((own, other), peer.slow_to_peer()),
                    ((other, own), peer.slow_from_peer()),
                ];
                for ((from, to), rate) in ways {
                    let Some(rate) = rate else { continue };
                    let held = links.entry((from.clone(), to.clone())).or_insert(rate);
                    *held = rate.min(*held);
                }
            }
        }
        Self(links)
    }

    /// What people are told of a placement whose stages are joined by such links.
    #[must_use]
    pub fn note(&self, in_force: &InForce) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let pipelines = in_force.pipelines().iter();
        let hops: BTreeSet<(String, String)> = pipelines
            .flat_map(|pipeline| pipeline.stages.windows(2))
            .filter_map(|hop| match hop {
                [from, to] => Some((from.node.clone(), to.node.clone())),
                _ => None,
            })
            .collect();
        let slow = hops.iter().filter_map(|hop| Some((hop, self.0.get(hop)?)));
        let told: Vec<String> = slow
            .map(|((from, to), rate)| format!("{} {rate} from {from} to {to}", reason::LINK_SLOW))
            .collect();
        let more = match told.len().saturating_sub(TOLD_MAX) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        (!told.is_empty()).then(|| format!("{}{more}", told[..told.len().min(TOLD_MAX)].join("; ")))
    }
}

fn counts(peer: &PeerLink, now_unix_s: i64) -> bool {
    let measured = peer.measured_at.as_ref().map(|at| at.0.as_second());
    measured.is_some_and(|at| now_unix_s.saturating_sub(at) <= i64::try_from(FORGOTTEN_S).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::fixture;

    /// What `node` measured of `peer` at the beginning: what it sends now, and what it sent before.
    fn object(node: &str, peer: &str, send: i64, before: Option<i64>) -> Arc<NodeLinkState> {
        let mut link = json!({
            "node": peer, "kind": "Ethernet", "state": "Measured", "latencyP50Us": 100, "latencyP99Us": 200,
            "sendBytesPerSecond": send, "receiveBytesPerSecond": 117_500_000, "samples": 3,
            "measuredAt": "1970-01-01T00:00:00Z",
        });
        if let Some(before) = before {
            link["sendBytesPerSecondBefore"] = json!(before);
        }
        let object = json!({
            "apiVersion": "shardwright.dev/v1alpha1", "kind": "NodeLinkState", "metadata": { "name": node }, "spec": {},
            "status": { "node": node, "peers": [link] },
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    /// The same as `peer` sees it, which receives so much.
    fn other_end(node: &str, peer: &str, receive: i64, before: i64) -> Arc<NodeLinkState> {
        let mut object = object(node, peer, 117_500_000, None);
        let status = Arc::make_mut(&mut object).status.as_mut().unwrap();
        let link = &mut status.peers[0];
        link.receive_bytes_per_second = Some(receive);
        link.receive_bytes_per_second_before = Some(before);
        object
    }

    #[test]
    fn a_model_whose_stages_are_joined_by_a_slow_link_is_told_of_both_figures_and_no_other_is() {
        let slow = SlowLinks::of(
            &[
                object("a", "b", 1_175_000, Some(117_500_000)),
                object("b", "c", 9_000_000, None),
            ],
            60,
        );
        let note = |nodes: &[&str]| slow.note(&fixture::in_force(1, nodes));
        assert_eq!(
            note(&["a", "b", "c"]).as_deref(),
            Some("LinkSlow 9.4 Mbit/s (was 940) from a to b")
        );
        assert_eq!(note(&["b", "a"]), None, "the way back is another link");
        assert_eq!(note(&["a", "c"]), None);
        assert_eq!(note(&["a"]), None);
    }

    #[test]
    fn of_what_both_ends_say_the_slower_figure_is_told_in_any_order() {
        let (ours, theirs) = (
            object("a", "b", 2_350_000, Some(117_500_000)),
            other_end("b", "a", 1_175_000, 120_000_000),
        );
        let there = SlowLinks::of(&[ours.clone(), theirs.clone()], 60);
        assert_eq!(there, SlowLinks::of(&[theirs, ours], 60));
        let note = there.note(&fixture::in_force(1, &["a", "b"])).unwrap();
        assert_eq!(note, "LinkSlow 9.4 Mbit/s (was 960) from a to b");
    }

    #[test]
    fn what_was_measured_long_ago_is_told_no_more() {
        let objects = [object("a", "b", 1_175_000, Some(117_500_000))];
        let day_s = i64::try_from(FORGOTTEN_S).unwrap();
        assert_ne!(SlowLinks::of(&objects, day_s), SlowLinks::default());
        assert_eq!(SlowLinks::of(&objects, day_s + 1), SlowLinks::default());
    }

    #[test]
    fn replicas_over_many_slow_links_are_told_of_three() {
        let nodes = ["a", "b", "c", "d", "e"];
        let objects: Vec<_> = nodes
            .windows(2)
            .map(|pair| object(pair[0], pair[1], 1_175_000, Some(117_500_000)))
            .collect();
        let slow = SlowLinks::of(&objects, 60);
        let note = slow.note(&fixture::replicas(1, &[&nodes, &["a", "b"]])).unwrap();
        assert!(note.ends_with("from c to d; and 1 more"), "{note}");
        assert_eq!(note.matches("from a to b").count(), 1, "{note}");
    }
}
