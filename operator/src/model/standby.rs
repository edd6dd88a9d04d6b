//! PURE: standing by for the loss of a node.
//!
//! For each node of a placement that serves, the placement without it is worked out ahead, and the agents of that one have its
//! layers on their disks before they are needed. Whether the loss of any one node is survived, and why not, is a condition.

use std::time::{Duration, Instant};

use crds::StagePhase;
use crds::conditions::{ConditionStatus, reason};

use super::in_force::InForce;
use super::stages::StageSight;
use super::status::Why;

/// Devices come and go: what was worked out is worked out again so often.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// Losses that are stood by for: agents prepare eight placements of a model beside the one in force, and one of them may be a move.
pub const LOSSES_MAX: usize = 7;

/// The loss of one node.
#[derive(Debug, Clone)]
pub struct Loss {
    /// Whose.
    pub node: String,
    /// What takes the placement's place then, if anything new is in it.
    pub next: Option<InForce>,
    /// What is missing of it; reads on after "the loss of the node". Absent where it is all that is asked for.
    pub lacks: Option<String>,
}

/// What is prepared for one placement.
#[derive(Debug, Default)]
pub struct Standby {
    /// Of the placement, and when it was looked at.
    looked: Option<(u64, Instant)>,
    losses: Vec<Loss>,
    /// Nodes of the placement whose loss is not looked at.
    others: usize,
}

impl Standby {
    /// Whether it is time to look at the placement of this epoch.
    #[must_use]
    pub fn is_due(&self, epoch: u64, now: Instant) -> bool {
        self.looked
            .is_none_or(|(known, at)| known != epoch || now.saturating_duration_since(at) >= LOOK_EVERY)
    }

    /// Takes over what was worked out; `others`: nodes whose loss was not looked at.
    pub fn look(&mut self, epoch: u64, losses: Vec<Loss>, others: usize, now: Instant) {
        (self.looked, self.losses, self.others) = (Some((epoch, now)), losses, others);
    }

    /// Nothing is stood by for: the placement does not serve, or is about to be another one.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Placements whose layers shall be on the disks of their nodes.
    pub fn placements(&self) -> impl Iterator<Item = &InForce> {
        self.losses.iter().filter_map(|loss| loss.next.as_ref())
    }

    /// What people are told. `look` says what the agents say of a placement's stages.
    #[must_use]
    pub fn judge(&self, look: impl Fn(&InForce) -> Vec<StageSight>) -> (ConditionStatus, Why) {
        if self.looked.is_none() {
            let why = Why::new(reason::NOT_SERVING, "it is looked at once every stage serves");
            return (ConditionStatus::Unknown, why);
        }
        for Loss { node, lacks, .. } in &self.losses {
            if let Some(lacks) = lacks {
                let message = format!("the loss of {node} {lacks}");
                return (ConditionStatus::False, Why::new(reason::NO_SPARE_CAPACITY, message));
            }
        }
        let mut missing = 0;
        for next in self.placements() {
            missing += look(next).iter().filter(|sight| !is_on_disk(sight)).count();
        }
        if missing > 0 {
            let message = format!("{missing} stages for the loss of a node are not on the disk yet");
            return (ConditionStatus::False, Why::new(reason::FETCHING, message));
        }
        let nodes: Vec<&str> = self.losses.iter().map(|loss| loss.node.as_str()).collect();
        let others = match self.others {
            0 => String::new(),
            others => format!("; {others} more nodes are not looked at"),
        };
        let message = format!(
            "the loss of any one of {} is survived, and the layers for it are on the disks{others}",
            nodes.join(", ")
        );
        (ConditionStatus::True, Why::new(reason::PREPARED, message))
    }
}

fn is_on_disk(sight: &StageSight) -> bool {
    matches!(
        sight.phase,
        StagePhase::Fetched | StagePhase::Loaded | StagePhase::Serving | StagePhase::Draining
    )
}

#[cfg(test)]
mod tests {
    use proto::control::v1::ShardPhase;

    use super::*;
    use crate::model::{fixture, stages};

    fn loss(node: &str, next: Option<InForce>, lacks: Option<&str>) -> Loss {
        Loss {
            node: node.to_owned(),
            next,
            lacks: lacks.map(str::to_owned),
        }
    }

    #[test]
    fn a_loss_is_survived_once_others_have_the_layers_on_their_disks() {
        let (mut standby, now) = (Standby::default(), Instant::now());
        let mut agents = fixture::agents(&["a", "b", "c"]);
        let judge = |standby: &Standby, agents: &_| standby.judge(|next| stages::look(next, agents));
        assert_eq!(judge(&standby, &agents).0, ConditionStatus::Unknown);
        let losses = vec![loss("b", Some(fixture::in_force(5, &["a", "c"])), None)];
        standby.look(4, losses, 0, now);
        let (status, why) = judge(&standby, &agents);
        assert_eq!(
            (status, why.reason.as_str()),
            (ConditionStatus::False, reason::FETCHING)
        );
        assert!(why.message.starts_with("2 stages"), "{}", why.message);
        fixture::report(&mut agents, "a", 5, 0, ShardPhase::Serving);
        fixture::report(&mut agents, "c", 5, 1, ShardPhase::Fetched);
        let (status, why) = judge(&standby, &agents);
        assert_eq!(status, ConditionStatus::True, "{why:?}");
        assert!(why.message.contains("any one of b is survived"), "{}", why.message);
    }

    #[test]
    fn a_loss_that_nothing_survives_says_what_is_missing() {
        let mut standby = Standby::default();
        standby.look(
            4,
            vec![loss("b", None, Some("is not survived: 1.2 GiB short"))],
            0,
            Instant::now(),
        );
        let (status, why) = standby.judge(|_| Vec::new());
        assert_eq!(
            (status, why.reason.as_str()),
            (ConditionStatus::False, reason::NO_SPARE_CAPACITY)
        );
        assert_eq!(why.message, "the loss of b is not survived: 1.2 GiB short");
        assert_eq!(standby.placements().count(), 0);
    }

    #[test]
    fn another_placement_is_looked_at_at_once_and_the_same_one_from_time_to_time() {
        let (mut standby, now) = (Standby::default(), Instant::now());
        assert!(standby.is_due(4, now));
        standby.look(4, Vec::new(), 0, now);
        assert!(!standby.is_due(4, now + LOOK_EVERY / 2));
        assert!(standby.is_due(4, now + LOOK_EVERY));
        assert!(standby.is_due(5, now));
    }
}
