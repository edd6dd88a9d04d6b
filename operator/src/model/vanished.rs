//! PURE: devices that hold stages, and whose `DeviceGPUState` is gone.
//!
//! An object can be deleted by mistake, and all of them at once together with their definition. That says nothing of the device: its
//! agent is attached, tells of its stages, and makes the object anew. So what was last reported of it counts for as long as its agent
//! is there and its stage has not failed; of a device that is gone itself the stage fails. Where nothing was reported yet, as to a
//! leader that has just begun, a stage that serves stays, and nothing new comes to its device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::StagePhase;
use crds::names::{INSTALL_KINDS, members};
use topology::DeviceReport;

use super::in_force::InForce;
use super::reports::Reports;
use super::stages;
use crate::agents::AgentView;

/// What is remembered of devices that hold stages.
#[derive(Debug, Default)]
pub struct Vanished {
    /// What each of them last reported.
    last: BTreeMap<String, Arc<DeviceReport>>,
    /// Those of them whose object is gone.
    gone: BTreeSet<String>,
}

impl Vanished {
    /// Takes over what there is, and returns what is missing in it.
    pub fn look<'p>(
        &mut self,
        reports: &Reports,
        placed: impl Iterator<Item = &'p InForce>,
        agents: &BTreeMap<String, AgentView>,
    ) -> Vec<Arc<DeviceReport>> {
        let (mut last, mut missing, mut untold) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for in_force in placed {
            let stages = in_force.stages().into_iter().zip(stages::look(in_force, agents));
            let devices = stages.flat_map(|(stage, sight)| {
                let is_over = !sight.attached || sight.phase == StagePhase::Failed;
                members(&stage.device).map(move |name| (name, is_over))
            });
            for (name, is_over) in devices {
                let report = match reports.get(name) {
                    Some(report) => report,
                    None if is_over || last.contains_key(name) => continue,
                    None => match self.last.get(name) {
                        Some(report) => {
                            missing.push(Arc::clone(report));
                            report
                        }
                        None => {
                            untold.insert(name.to_owned());
                            continue;
                        }
                    },
                };
                last.insert(name.to_owned(), Arc::clone(report));
            }
        }
        self.last = last;
        let gone: BTreeSet<String> = missing.iter().map(|report| report.name.clone()).chain(untold).collect();
        for device in gone.difference(&self.gone) {
            tracing::warn!(
                device,
                "its DeviceGPUState is gone while it holds a stage, which stays; where nobody makes the object anew within a minute: \
                 {INSTALL_KINDS}"
            );
        }
        self.gone = gone;
        missing
    }

    /// What people are told of a placement on such devices.
    #[must_use]
    pub fn note(&self, in_force: &InForce) -> Option<String> {
        let devices = in_force.members();
        let gone: Vec<&str> = devices
            .into_iter()
            .filter(|device| self.gone.contains(*device))
            .collect();
        (!gone.is_empty()).then(|| {
            let gone = gone.join(", ");
            format!("no DeviceGPUState tells of {gone} any more, and what is there stays; where none comes back: {INSTALL_KINDS}")
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::control::v1::ShardPhase;

    use super::*;
    use crate::model::fixture;

    #[test]
    fn what_was_last_reported_counts_until_the_stage_fails_or_its_agent_goes() {
        let in_force = fixture::in_force(1, &["a", "b"]);
        let mut agents = fixture::agents(&["a", "b"]);
        for (stage, node) in (0..).zip(["a", "b"]) {
            fixture::report(&mut agents, node, 1, stage, ShardPhase::Serving);
        }
        let (all, none) = (["a", "b"].map(|node| fixture::cpu(node, 1 << 30)), Reports::default());
        let all = Reports::of(&all);
        let mut vanished = Vanished::default();
        let mut missing = |reports: &Reports, agents: &BTreeMap<String, AgentView>| -> Vec<String> {
            let missing = vanished.look(reports, std::iter::once(&in_force), agents);
            missing.iter().map(|report| report.name.clone()).collect()
        };
        assert!(missing(&none, &agents).is_empty(), "nothing is known of them yet");
        assert!(missing(&all, &agents).is_empty());
        for _ in 0..2 {
            assert_eq!(missing(&none, &agents), ["a-cpu0", "b-cpu0"]);
        }
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Failed);
        assert_eq!(missing(&none, &agents), ["b-cpu0"]);
        agents.remove("b");
        assert!(missing(&none, &agents).is_empty());
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Serving);
        assert!(missing(&none, &agents).is_empty(), "it was given up");
        let told = vanished
            .note(&in_force)
            .expect("people are told of what serves all the same");
        assert!(told.contains("a-cpu0") && !told.contains("b-cpu0"), "{told}");
    }

    #[test]
    fn of_devices_that_work_as_one_each_has_an_object_that_may_be_gone() {
        let mut placement = fixture::in_force(1, &["a"]).placement;
        placement.pipelines[0].stages[0].device = "a-cuda0+a-cuda1".to_owned();
        let in_force = fixture::signed(placement);
        let mut agents = fixture::agents(&["a"]);
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Serving);
        let both = [0, 1].map(|index| fixture::card("a", index, 1 << 30));
        let mut vanished = Vanished::default();
        let mut missing = |objects: &[Arc<crds::DeviceGPUState>], agents: &BTreeMap<String, AgentView>| {
            vanished.look(&Reports::of(objects), std::iter::once(&in_force), agents)
        };
        assert!(missing(&both, &agents).is_empty());
        let names: Vec<String> = missing(&both[..1], &agents)
            .iter()
            .map(|report| report.name.clone())
            .collect();
        assert_eq!(names, ["a-cuda1"]);
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Failed);
        assert!(missing(&both[..1], &agents).is_empty());
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Serving);
        assert!(missing(&both[..1], &agents).is_empty(), "it was given up");
        let told = vanished.note(&in_force).expect("a note");
        assert!(told.contains("a-cuda1") && !told.contains("a-cuda0"), "{told}");
    }

    #[test]
    fn people_are_told_which_devices_nobody_tells_of_and_what_to_do() {
        let in_force = fixture::in_force(1, &["a", "b"]);
        let agents = fixture::agents(&["a", "b"]);
        let mut vanished = Vanished::default();
        let both = ["a", "b"].map(|node| fixture::cpu(node, 1 << 30));
        for objects in [&both[..], &both[..1]] {
            vanished.look(&Reports::of(objects), std::iter::once(&in_force), &agents);
        }
        let told = vanished.note(&in_force).expect("a note");
        assert!(
            told.contains("b-cpu0") && !told.contains("a-cpu0") && told.contains(INSTALL_KINDS),
            "{told}"
        );
    }
}
