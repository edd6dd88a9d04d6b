//! PURE: what devices report, translated once for each version of an object, and found by name and by memory.
//!
//! A large cluster has tens of thousands of devices, of which a pass sees a few that changed: the others are taken over as
//! they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::DeviceGPUState;
use crds::names::members;
use topology::DeviceReport;

/// All devices that report something.
#[derive(Debug, Default, Clone)]
pub struct Reports {
    /// In the order of names.
    devices: Vec<Arc<DeviceReport>>,
    /// Places in `devices`, by memory pool.
    pools: BTreeMap<String, Vec<usize>>,
    /// The objects in the order in which they came, each with its place in `devices`.
    objects: Vec<(Arc<DeviceGPUState>, Option<usize>)>,
}

impl Reports {
    /// Of these objects.
    #[must_use]
    pub fn of(objects: &[Arc<DeviceGPUState>]) -> Self {
        let mut translated: Vec<(usize, Arc<DeviceReport>)> = objects
            .iter()
            .enumerate()
            .filter_map(|(at, object)| Some((at, Arc::new(DeviceReport::from_state(object)?))))
            .collect();
        translated.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        let mut places = vec![None; objects.len()];
        for (place, (at, _)) in translated.iter().enumerate() {
            places[*at] = Some(place);
        }
        let devices: Vec<Arc<DeviceReport>> = translated.into_iter().map(|(_, report)| report).collect();
        Self {
            pools: pools(&devices),
            devices,
            objects: objects.iter().cloned().zip(places).collect(),
        }
    }

    /// Takes over what changed. The objects may come in any order, which costs least where it is the same as before.
    pub fn update(&mut self, objects: &[Arc<DeviceGPUState>]) {
        if self.replace(objects).is_none() {
            *self = Self::of(objects);
        }
    }

    /// New versions in the place of the old ones; `None` where other devices came or went, or their memory is another.
    fn replace(&mut self, objects: &[Arc<DeviceGPUState>]) -> Option<()> {
        if objects.len() != self.objects.len() {
            return None;
        }
        for ((known, place), object) in self.objects.iter_mut().zip(objects) {
            if Arc::ptr_eq(known, object) {
                continue;
            }
            let before = &mut self.devices[(*place)?];
            let report = DeviceReport::from_state(object)?;
            if (&before.name, &before.memory_pool) != (&report.name, &report.memory_pool) {
                return None;
            }
            (*before, *known) = (Arc::new(report), Arc::clone(object));
        }
        Some(())
    }

    /// The same with what is not among them: devices whose objects are gone.
    #[must_use]
    pub fn with(&self, missing: Vec<Arc<DeviceReport>>) -> Self {
        let mut devices = self.devices.clone();
        devices.extend(missing);
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            pools: pools(&devices),
            devices,
            objects: Vec::new(),
        }
    }

    /// What a device reports.
    #[must_use]
    pub fn get(&self, device: &str) -> Option<&Arc<DeviceReport>> {
        let found = self.devices.binary_search_by(|report| report.name.as_str().cmp(device));
        found.ok().map(|place| &self.devices[place])
    }

    /// All, in the order of their names.
    pub fn all(&self) -> impl Iterator<Item = &DeviceReport> {
        self.devices.iter().map(AsRef::as_ref)
    }

    /// Those with these names, single ones or groups, and those that share memory with one of them; in the order of their names, each
    /// once.
    #[must_use]
    pub fn around(&self, names: &[&str]) -> Vec<&DeviceReport> {
        let devices = names.iter().flat_map(|name| members(name));
        let pools = devices.filter_map(|device| self.pools.get(self.pool_of(device)?));
        let mut places: Vec<usize> = pools.flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().map(|place| self.devices[place].as_ref()).collect()
    }

    /// The memory pool of a device.
    #[must_use]
    pub fn pool_of(&self, device: &str) -> Option<&str> {
        self.get(device).map(|report| report.memory_pool.as_str())
    }
}

/// Places of devices by their memory pool.
fn pools(devices: &[Arc<DeviceReport>]) -> BTreeMap<String, Vec<usize>> {
    let mut pools: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (place, report) in devices.iter().enumerate() {
        match pools.get_mut(&report.memory_pool) {
            Some(members) => members.push(place),
            None => drop(pools.insert(report.memory_pool.clone(), vec![place])),
        }
    }
    pools
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    const GIB: i64 = 1 << 30;

    fn names<'r>(reports: impl IntoIterator<Item = &'r DeviceReport>) -> Vec<&'r str> {
        reports.into_iter().map(|report| report.name.as_str()).collect()
    }

    /// What is left after each of these was seen is what the last of them says.
    fn assert_follows(seen: &[Vec<Arc<DeviceGPUState>>]) {
        let mut reports = Reports::default();
        for objects in seen {
            reports.update(objects);
            let anew = Reports::of(objects);
            assert!(reports.all().eq(anew.all()));
            assert_eq!(reports.pools, anew.pools);
        }
    }

    #[test]
    fn devices_that_come_change_and_go_are_followed_in_whatever_order_they_come() {
        let [a, b, c] = ["a", "b", "c"].map(|node| fixture::cpu(node, GIB));
        let larger = fixture::cpu("b", 2 * GIB);
        let silent = Arc::new(DeviceGPUState {
            status: None,
            ..(*b).clone()
        });
        let mut elsewhere = (*b).clone();
        elsewhere.status.as_mut().expect("a status").memory_pool = "a-host".to_owned();
        assert_follows(&[
            vec![b.clone(), a.clone()],
            vec![larger.clone(), a.clone()],
            vec![silent, a.clone()],
            vec![Arc::new(elsewhere), a.clone()],
            vec![a.clone(), b.clone()],
            vec![c.clone(), a.clone(), b.clone()],
            vec![c],
            vec![],
        ]);
    }

    #[test]
    fn those_around_a_device_share_its_memory() {
        let objects = ["c", "a", "b"].map(|node| fixture::cpu(node, GIB));
        let mut beside = (*objects[1]).clone();
        beside.metadata.name = Some("a-vulkan0".to_owned());
        let objects = [objects.to_vec(), vec![Arc::new(beside)]].concat();
        let reports = Reports::of(&objects);
        assert_eq!(names(reports.all()), ["a-cpu0", "a-vulkan0", "b-cpu0", "c-cpu0"]);
        assert_eq!(names(reports.around(&["a-vulkan0"])), ["a-cpu0", "a-vulkan0"]);
        assert_eq!(names(reports.around(&["c-cpu0", "c-cpu0", "unknown"])), ["c-cpu0"]);
        assert_eq!(
            names(reports.around(&["a-vulkan0+c-cpu0"])),
            ["a-cpu0", "a-vulkan0", "c-cpu0"]
        );
        assert_eq!(
            reports.pool_of("b-cpu0"),
            reports.around(&["b-cpu0"]).first().map(|b| b.memory_pool.as_str())
        );
        let missing = Reports::of(&[fixture::cpu("aa", GIB)]);
        let with = reports.with(missing.devices.clone());
        assert_eq!(names(with.all())[1], "a-vulkan0");
        assert_eq!(
            names(with.around(&["aa-cpu0", "a-cpu0"])),
            ["a-cpu0", "a-vulkan0", "aa-cpu0"]
        );
    }
}
