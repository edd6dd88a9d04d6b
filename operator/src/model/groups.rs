//! PURE: devices that work as one, as their agents tell of them, found by node and name.
//!
//! An agent is believed in what it says of the devices of its own node, and in nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::NodeLinkState;
use crds::names::{group_name, members};
use topology::GroupReport;

use super::reports::Reports;

/// By node, and then by the group's name: what was measured of it, or that it cannot be.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Groups(BTreeMap<String, BTreeMap<String, Option<GroupReport>>>);

impl Groups {
    /// Those that these objects tell of. One that was not measured yet is none.
    #[must_use]
    pub fn of(objects: &[Arc<NodeLinkState>]) -> Self {
        let mut by_node: BTreeMap<String, BTreeMap<String, Option<GroupReport>>> = BTreeMap::new();
        let name = |devices: &[String]| group_name(devices.iter().map(String::as_str));
        for object in objects {
            let Some(status) = object.status.as_ref().filter(|status| !status.groups.is_empty()) else {
                continue;
            };
            let failed = status.groups.iter().filter(|group| group.error.is_some());
            let failed = failed.map(|group| (name(&group.devices), None));
            let measured = GroupReport::from_state(object).into_iter();
            let measured = measured.map(|report| (name(&report.devices), Some(report)));
            by_node
                .entry(status.node.clone())
                .or_default()
                .extend(failed.chain(measured));
        }
        Self(by_node)
    }

    /// Whether nobody tells of any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What its agent says of a group; `None` where it says nothing.
    fn told(&self, name: &str, reports: &Reports) -> Option<&Option<GroupReport>> {
        let node = &reports.get(members(name).next()?)?.node;
        self.0.get(node)?.get(name)
    }

    /// Whether its agent says anything of a group: how fast it is, or that it is none.
    #[must_use]
    pub fn is_told_of(&self, name: &str, reports: &Reports) -> bool {
        self.told(name, reports).is_some()
    }

    /// Those of these names that were measured, each once. Names of single devices are passed over.
    #[must_use]
    pub fn named<'g>(&'g self, names: &[&str], reports: &Reports) -> Vec<&'g GroupReport> {
        let names: BTreeSet<&str> = names.iter().copied().collect();
        let found = names.into_iter().filter_map(|name| self.told(name, reports)?.as_ref());
        found.collect()
    }

    /// All that were measured, by node.
    #[must_use]
    pub fn all(&self, reports: &Reports) -> Vec<&GroupReport> {
        let mut all = Vec::new();
        for (node, groups) in &self.0 {
            let is_here = |group: &&GroupReport| {
                let first = group.devices.first().and_then(|device| reports.get(device));
                first.is_some_and(|device| device.node == *node)
            };
            all.extend(groups.values().flatten().filter(is_here));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    const PAIR: &str = "a-cuda0+a-cuda1";

    /// Four cards of node a and one of node b.
    fn reports() -> Reports {
        let cards = [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0)];
        Reports::of(&cards.map(|(node, index)| fixture::card(node, index, 1 << 30)))
    }

    /// The name of each.
    fn names(groups: &[&GroupReport]) -> Vec<String> {
        let name = |group: &&GroupReport| group_name(group.devices.iter().map(String::as_str));
        groups.iter().map(name).collect()
    }

    #[test]
    fn a_group_is_found_by_its_name_as_its_agent_measured_it() {
        let reports = reports();
        let groups = Groups::of(&[fixture::groups("a", &[&[0, 1], &[2, 3], &[3, 2, 1, 0]])]);
        let all = ["a-cuda0+a-cuda1", "a-cuda0+a-cuda1+a-cuda2+a-cuda3", "a-cuda2+a-cuda3"];
        assert_eq!(names(&groups.all(&reports)), all);
        let asked = [
            "a-cuda2+a-cuda3",
            "a-cuda0",
            "a-cuda2+a-cuda3",
            "a-cuda1+a-cuda2",
            "c-cuda0+c-cuda1",
        ];
        assert_eq!(names(&groups.named(&asked, &reports)), ["a-cuda2+a-cuda3"]);
        assert!(groups.is_told_of(PAIR, &reports) && !groups.is_told_of("a-cuda1+a-cuda2", &reports));
        assert!(Groups::of(&[]).all(&reports).is_empty());
    }

    #[test]
    fn one_that_cannot_work_is_told_of_and_none_and_one_that_was_not_measured_is_not_told_of() {
        let reports = reports();
        let said = |change: fn(&mut crds::DeviceGroup)| {
            let mut object = fixture::groups("a", &[&[0, 1]]);
            let status = Arc::make_mut(&mut object).status.as_mut().expect("a status");
            status.groups[0].step_rates = None;
            change(&mut status.groups[0]);
            let groups = Groups::of(&[object]);
            (groups.is_told_of(PAIR, &reports), groups.all(&reports).len())
        };
        assert_eq!(said(|group| group.error = Some("no memory".to_owned())), (true, 0));
        assert_eq!(said(|_| {}), (false, 0));
    }

    #[test]
    fn what_an_agent_says_of_the_devices_of_another_node_counts_for_nothing() {
        let reports = reports();
        let mut lie = fixture::groups("a", &[&[0, 1]]);
        let status = Arc::make_mut(&mut lie).status.as_mut().expect("a status");
        status.node = "b".to_owned();
        let groups = Groups::of(&[Arc::clone(&lie)]);
        assert!(groups.all(&reports).is_empty() && groups.named(&[PAIR], &reports).is_empty());
        // Nor does it hide what the right one says.
        let both = Groups::of(&[fixture::groups("a", &[&[0, 1]]), lie]);
        assert_eq!(names(&both.named(&[PAIR], &reports)), [PAIR]);
    }
}
