//! What an earlier life of this agent knew of its links, by what was written of them last. Pure.
//!
//! A restart takes nothing from a link: it is as it was until something else is found, is glanced at while its nodes compute, and is
//! told of as soon as ever when it carries far less than it did. What was known is believed for as long as it would have been without
//! the restart, and only of a link of the same kind.

use super::history::{FORGOTTEN_S, Figures, History, KNOWN_ROUNDS};
use super::plan::{Progress, ROUNDS_FIRST};
use crds::{LinkKind, LinkState, NodeLinkStateStatus, PeerLink};
use std::collections::BTreeMap;

/// By the peer's node.
pub type Earlier = BTreeMap<String, Known>;

/// What was known of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// What carried its bytes.
    pub kind: LinkKind,
    /// As written.
    pub figures: Figures,
    /// What it was before it became slow, while it is.
    pub before: Option<Figures>,
}

/// What was written of each link that was known.
pub fn of(status: &NodeLinkStateStatus) -> Earlier {
    let peers = status.peers.iter();
    peers
        .filter_map(|peer| Some((peer.node.clone(), known(peer)?)))
        .collect()
}

fn known(peer: &PeerLink) -> Option<Known> {
    let positive = |value: Option<i64>| u64::try_from(value?).ok().filter(|value| *value > 0);
    let samples = u32::try_from(peer.samples?).ok()?;
    if peer.state != LinkState::Measured || (samples as usize) < KNOWN_ROUNDS {
        return None;
    }
    let latency_p50_us = positive(peer.latency_p50_us)?;
    let figures = Figures {
        latency_p50_us,
        latency_p99_us: positive(peer.latency_p99_us).map_or(latency_p50_us, |p99_us| p99_us.max(latency_p50_us)),
        send_bytes_per_second: positive(peer.send_bytes_per_second)?,
        receive_bytes_per_second: positive(peer.receive_bytes_per_second)?,
        samples,
        unix_s: peer.measured_at.as_ref()?.0.as_second(),
    };
    let send_before = positive(peer.send_bytes_per_second_before);
    let receive_before = positive(peer.receive_bytes_per_second_before);
    let before = Figures {
        send_bytes_per_second: send_before.unwrap_or(figures.send_bytes_per_second),
        receive_bytes_per_second: receive_before.unwrap_or(figures.receive_bytes_per_second),
        ..figures
    };
    let was_slow = send_before.is_some() || receive_before.is_some();
    Some(Known {
        kind: peer.kind,
        figures,
        before: was_slow.then_some(before),
    })
}

impl Known {
    /// Takes up what was known of a link of which this life does not know enough yet. `kind`: what carries its bytes now.
    pub fn take_up(&self, kind: LinkKind, progress: &mut Progress, history: &mut History, now_unix_s: i64) {
        let is_old = now_unix_s.saturating_sub(self.figures.unix_s) > FORGOTTEN_S;
        if progress.rounds >= ROUNDS_FIRST || is_old || kind != self.kind {
            return;
        }
        // What a clock that was ahead wrote is not believed for longer than anything else.
        let dated = |figures: Figures| Figures {
            unix_s: figures.unix_s.min(now_unix_s),
            ..figures
        };
        history.begin_with(&dated(self.figures), self.before.map(dated).as_ref());
        progress.rounds += ROUNDS_FIRST;
        progress.doubt(history, false);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Wishes;
    use super::super::history::{ECHO_BYTES, Round};
    use super::super::plan::{Next, Situation, decide};
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    const NOW_S: i64 = 1_700_000_000;
    const GIGABIT: u64 = 117_500_000;
    const TEN_MEGABIT: u64 = 1_175_000;

    /// A link of a gigabit as it was written ten minutes ago.
    fn written() -> PeerLink {
        PeerLink {
            node: "b".to_owned(),
            kind: LinkKind::Ethernet,
            state: LinkState::Measured,
            latency_p50_us: Some(100),
            latency_p99_us: Some(250),
            send_bytes_per_second: Some(117_500_000),
            receive_bytes_per_second: Some(110_000_000),
            send_bytes_per_second_before: None,
            receive_bytes_per_second_before: None,
            samples: Some(8),
            measured_at: Some(Time(Timestamp::from_second(NOW_S - 600).unwrap())),
            message: None,
        }
    }

    /// What this life knows at its start of a link of which that was written.
    fn taken_up(link: &PeerLink) -> (Progress, History) {
        let status = NodeLinkStateStatus {
            node: "a".to_owned(),
            peers: vec![link.clone()],
            ..NodeLinkStateStatus::default()
        };
        let (mut progress, mut history) = (Progress::default(), History::default());
        if let Some(known) = of(&status).get("b") {
            known.take_up(LinkKind::Ethernet, &mut progress, &mut history, NOW_S);
        }
        (progress, history)
    }

    /// What a round or a glance finds of a link that carries so much in both directions.
    fn found(unix_s: i64, is_glance: bool, bytes_per_second: u64) -> Round {
        Round {
            unix_s,
            is_glance,
            echo_bytes: ECHO_BYTES,
            round_trips_us: vec![300],
            send_bytes_per_second: bytes_per_second,
            receive_bytes_per_second: bytes_per_second,
        }
    }

    #[test]
    fn a_link_is_known_after_a_restart_as_it_was_written_with_its_age() {
        let (progress, history) = taken_up(&written());
        let expected = Figures {
            latency_p50_us: 100,
            latency_p99_us: 250,
            send_bytes_per_second: GIGABIT,
            receive_bytes_per_second: 110_000_000,
            samples: 3,
            unix_s: NOW_S - 600,
        };
        assert_eq!(history.figures(), Some(expected));
        assert_eq!((progress.rounds, progress.is_in_doubt), (ROUNDS_FIRST, false));
    }

    #[test]
    fn what_is_too_old_of_too_few_rounds_of_another_kind_or_not_measured_is_not_believed() {
        let at = |unix_s| Some(Time(Timestamp::from_second(unix_s).unwrap()));
        type Change = fn(&mut PeerLink);
        let changes: [(&str, Change); 4] = [
            ("two rounds", |link| link.samples = Some(2)),
            ("another kind", |link| link.kind = LinkKind::Wireless),
            ("unreachable", |link| link.state = LinkState::Unreachable),
            ("one rate", |link| link.receive_bytes_per_second = None),
        ];
        for (what, change) in changes {
            let mut link = written();
            change(&mut link);
            let (progress, history) = taken_up(&link);
            assert!(history.is_empty() && progress == Progress::default(), "{what}");
        }
        for (age_s, is_believed) in [(FORGOTTEN_S, true), (FORGOTTEN_S + 1, false)] {
            let mut link = written();
            link.measured_at = at(NOW_S - age_s);
            assert_eq!(!taken_up(&link).1.is_empty(), is_believed, "{age_s} s");
        }
        let mut ahead = written();
        ahead.measured_at = at(NOW_S + 3600);
        assert_eq!(taken_up(&ahead).1.figures().unwrap().unix_s, NOW_S);
    }

    #[test]
    fn rounds_that_were_made_before_what_was_written_was_read_count_and_a_link_that_is_known_stays_as_it_is() {
        let known = known(&written()).unwrap();
        let (mut progress, mut history) = (Progress::default(), History::default());
        progress.found(false, ("b", 7), 10);
        history.add(found(NOW_S - 1, false, TEN_MEGABIT));
        known.take_up(LinkKind::Ethernet, &mut progress, &mut history, NOW_S);
        assert_eq!(history.figures().unwrap().send_bytes_per_second, GIGABIT);
        assert!(
            history.is_in_doubt() && progress.is_in_doubt,
            "its own round found another link"
        );
        let (progress_before, figures) = (progress, history.figures());
        known.take_up(LinkKind::Ethernet, &mut progress, &mut history, NOW_S);
        assert_eq!((progress, history.figures()), (progress_before, figures));
    }

    #[test]
    fn a_link_that_was_slow_before_the_restart_and_is_well_again_is_known_as_it_was_though_a_processor_computes() {
        let mut link = written();
        link.send_bytes_per_second = Some(1_175_000);
        link.send_bytes_per_second_before = Some(117_500_000);
        let (_, mut history) = taken_up(&link);
        assert_eq!(history.figures().unwrap().send_bytes_per_second, TEN_MEGABIT);
        // A glance beside a shard finds what the processor leaves.
        (0..3).for_each(|number| history.add(found(NOW_S + number * 10, true, 30_000_000)));
        assert_eq!(history.figures().unwrap().send_bytes_per_second, GIGABIT);
    }

    /// How long after the start it is known that a link between two nodes that compute all the time carries a hundredth.
    fn known_as_slow_after_ms(mut progress: Progress, mut history: History) -> Option<u64> {
        progress.is_neighbour = true;
        let (mut now_ms, wishes) = (0, Wishes::default());
        while history
            .figures()
            .is_none_or(|figures| figures.send_bytes_per_second != TEN_MEGABIT)
        {
            let peers = BTreeMap::from([("b".to_owned(), progress)]);
            let next = decide(&Situation {
                now_ms,
                seed: 7,
                peers: &peers,
                wishes: &wishes,
                serves: true,
                allowed_ms: 0,
            });
            match next {
                Next::Wait { until_ms: u64::MAX } => return None,
                Next::Wait { until_ms } => now_ms = until_ms,
                Next::Measure(_) => panic!("a round beside a shard that computes"),
                Next::Glance(_) => {
                    let unix_s = NOW_S + i64::try_from(now_ms / 1000).unwrap();
                    history.add(found(unix_s, true, TEN_MEGABIT));
                    progress.found(true, ("b", 7), now_ms);
                    progress.doubt(&history, true);
                    now_ms += 10;
                }
            }
        }
        Some(now_ms)
    }

    #[test]
    fn a_link_that_became_slow_while_its_agent_was_started_again_is_known_within_a_minute_though_its_nodes_compute() {
        let (progress, history) = taken_up(&written());
        let took_ms = known_as_slow_after_ms(progress, history);
        assert!(took_ms.is_some_and(|took_ms| took_ms < 60_000), "{took_ms:?} ms");
        let nothing = known_as_slow_after_ms(Progress::default(), History::default());
        assert_eq!(
            nothing, None,
            "without what was written it waits for the computing's end"
        );
    }
}
