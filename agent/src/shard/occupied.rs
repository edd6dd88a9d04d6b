//! Which devices a shard is on: one, or all members of a group. Pure.

use super::Slice;
use super::drive::View;
use super::report::Holding;
use crds::names::{MAX_GROUP_DEVICES, members};

/// Whether a name is one that a stage may be on: of a device, or of different ones in ascending order, and not of too many.
pub fn is_well_formed(device: &str) -> bool {
    let members: Vec<&str> = members(device).take(MAX_GROUP_DEVICES + 1).collect();
    let is_ascending = members.iter().zip(members.iter().skip(1)).all(|(one, next)| one < next);
    members.len() <= MAX_GROUP_DEVICES && is_ascending
}

impl Slice {
    /// The devices that hold it, by name.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        members(&self.device)
    }

    /// Whether one device holds something of both.
    pub fn meets(&self, other: &Self) -> bool {
        self.devices()
            .any(|device| other.devices().any(|known| known == device))
    }
}

impl Holding {
    /// The devices that it is on, by name.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        members(&self.device)
    }

    /// What of it is on this device; each member of a group may use an equal part of its memory.
    pub fn on(&self, device: &str) -> Option<Self> {
        self.devices().any(|member| member == device).then(|| Self {
            device: device.to_owned(),
            memory_bytes: self.memory_bytes.div_ceil(self.devices().count() as u64),
            ..self.clone()
        })
    }
}

impl View {
    /// Whether a shard is on this device, or is about to be.
    pub fn uses(&self, device: &str) -> bool {
        let mut held = self.holdings.iter().flat_map(Holding::devices);
        self.loading.contains(device) || held.any(|member| member == device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(device: &str) -> Holding {
        Holding {
            device: device.to_owned(),
            namespace: "ns".to_owned(),
            model: "m".to_owned(),
            layers: "0-9".to_owned(),
            memory_bytes: 1001,
        }
    }

    #[test]
    fn a_stage_is_on_one_device_or_on_up_to_eight_different_ones_in_order() {
        for sound in ["n-cuda0", "n-cuda0+n-cuda1", "a+b+c+d+e+f+g+h"] {
            assert!(is_well_formed(sound), "{sound}");
        }
        for bad in ["n-cuda1+n-cuda0", "n-cuda0+n-cuda0", "a+b+c+d+e+f+g+h+i"] {
            assert!(!is_well_formed(bad), "{bad}");
        }
        assert!(!is_well_formed(&"+".repeat(100_000)));
    }

    #[test]
    fn every_member_of_a_group_has_an_equal_part_of_its_memory_and_no_other_device_has_any() {
        let group = holding("n-cuda0+n-cuda1");
        for member in ["n-cuda0", "n-cuda1"] {
            let part = group.on(member).unwrap();
            assert_eq!((part.device.as_str(), part.memory_bytes), (member, 501));
            assert_eq!(part.layers, "0-9");
        }
        assert_eq!(group.on("n-cuda2"), None);
        assert_eq!(group.on("n-cuda0+n-cuda1"), None, "a group is no device");
        assert_eq!(holding("n-cuda0").on("n-cuda0"), Some(holding("n-cuda0")));
        assert_eq!(holding("n-cuda0").on("n-cuda01"), None);
    }

    #[test]
    fn a_device_is_used_by_what_it_holds_what_its_group_holds_and_what_is_about_to_come() {
        let view = View {
            holdings: vec![holding("n-cuda0+n-cuda1"), holding("n-cpu0")],
            loading: ["n-cuda3".to_owned()].into(),
            ..View::default()
        };
        let used = ["n-cpu0", "n-cuda0", "n-cuda1", "n-cuda2", "n-cuda3"].map(|device| view.uses(device));
        assert_eq!(used, [true, true, true, false, true]);
    }
}
