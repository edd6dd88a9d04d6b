//! The weaker sign: memory of a device that processes use which are not ours. Pure but for reading `/proc`.

use super::vendor::Vendor;
use super::{Claim, Seen, Sharing};
use device::telemetry::ProcessMemory;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// From here on a process is at work on the device, and not merely showing a desktop on it.
const AT_WORK_BYTES: u64 = 1 << 30;
/// So little less or more, or a tenth, is told as before: every reading differs.
const NEAR_BYTES: u64 = 64 << 20;
/// Deeper nesting than any container has.
const ANCESTORS_MAX: usize = 64;
/// The kernel's own name of the first PID namespace (`PROC_PID_INIT_INO`).
const HOST_NAMESPACE: &str = "pid:[4026531836]";

/// What others use of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strangers {
    /// How many processes.
    pub count: usize,
    /// What they use together, where the driver counts it.
    pub memory_bytes: u64,
    /// The number of the one that uses most.
    pub largest: u32,
}

/// Whether the numbers that drivers give to processes are the numbers that this process sees. In a container they are not, and no
/// process can be told from any other.
pub fn numbers_are_ours(root: &Path) -> bool {
    std::fs::read_link(root.join("proc/self/ns/pid")).is_ok_and(|name| name.as_os_str() == HOST_NAMESPACE)
}

/// What was seen before, which a look at one moment does not tell.
#[derive(Debug, Default)]
pub struct Lookout {
    /// Processes of ours in the last readings. One that has ended since has no parent any more, and is no stranger for that.
    ours: BTreeSet<u32>,
    /// By identity of the device.
    told: BTreeMap<String, Strangers>,
}

impl Lookout {
    /// Processes on each device, by its identity, that are neither among our `own` nor were started by one of them. `parent_of` gives a
    /// process's parent, if it is still there.
    pub fn look(
        &mut self,
        devices: &[Seen],
        own: &BTreeSet<u32>,
        parent_of: impl Fn(u32) -> Option<u32>,
    ) -> BTreeMap<String, Strangers> {
        let listed = devices.iter().flat_map(|seen| &seen.processes);
        let is_ours =
            |pid: &u32| descends(*pid, own, &parent_of) || (self.ours.contains(pid) && parent_of(*pid).is_none());
        let ours: BTreeSet<u32> = listed.map(|process| process.pid).filter(is_ours).collect();
        let found = devices.iter().filter_map(|seen| {
            let name = seen.device.identity();
            let found = strangers(&seen.processes, &ours, self.told.get(&name).copied())?;
            Some((name, found))
        });
        let told: BTreeMap<String, Strangers> = found.collect();
        self.ours = ours;
        self.told.clone_from(&told);
        told
    }
}

fn descends(pid: u32, own: &BTreeSet<u32>, parent_of: impl Fn(u32) -> Option<u32>) -> bool {
    let ancestors = std::iter::successors(Some(pid), |pid| parent_of(*pid));
    ancestors.take(ANCESTORS_MAX).any(|pid| own.contains(&pid))
}

/// Those of the processes that are not ours; as they were told `before` where they are nearly that.
fn strangers(processes: &[ProcessMemory], ours: &BTreeSet<u32>, before: Option<Strangers>) -> Option<Strangers> {
    let others = processes.iter().filter(|process| !ours.contains(&process.pid));
    let largest = others
        .clone()
        .max_by_key(|process| (process.memory_bytes, Reverse(process.pid)))?;
    let bytes = others.clone().filter_map(|process| process.memory_bytes);
    let found = Strangers {
        count: others.clone().count(),
        memory_bytes: bytes.fold(0, u64::saturating_add),
        largest: largest.pid,
    };
    let is_near = |before: &Strangers| {
        before.count == found.count
            && others.clone().any(|process| process.pid == before.largest)
            && before.memory_bytes.abs_diff(found.memory_bytes) < NEAR_BYTES.max(before.memory_bytes / 10)
    };
    Some(before.filter(is_near).unwrap_or(found))
}

impl Strangers {
    /// For a person.
    pub fn describe(self) -> String {
        let (amount, largest) = (self.amount(), self.largest);
        match (self.count, self.memory_bytes) {
            (1, _) => format!("process {largest}, which is not ours, uses {amount}"),
            (count, 0) => format!("{count} processes that are not ours use {amount}, process {largest} among them"),
            (count, _) => format!("{count} processes that are not ours use {amount}, most of it process {largest}"),
        }
    }

    /// What they use, without a number where the driver counts nothing.
    fn amount(self) -> String {
        match self.memory_bytes {
            0 => "it".to_owned(),
            bytes if bytes < 1 << 20 => "less than 1 MiB of its memory".to_owned(),
            bytes => format!("{} MiB of its memory", bytes >> 20),
        }
    }
}

/// What a claim becomes in the light of strangers: only where nobody keeps books, and only where they are at work.
pub fn weigh(claim: Claim, seen: &Seen, strangers: Option<Strangers>, sharing: Sharing) -> Claim {
    match strangers {
        Some(found)
            if sharing == Sharing::Share
                && claim.allows_layers()
                && found.memory_bytes >= AT_WORK_BYTES
                && Vendor::of_device(&seen.device).is_some() =>
        {
            Claim::Foreign { by: found.describe() }
        }
        _ => claim,
    }
}

/// The parent of a process, by `/proc/<pid>/stat`.
pub fn parent(root: &Path, pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(root.join(format!("proc/{pid}/stat"))).ok()?;
    // The name stands in parentheses and may hold any character, parentheses too.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::{Backend, GpuDevice, Kind};

    fn process(pid: u32, mebibytes: u64) -> ProcessMemory {
        ProcessMemory {
            pid,
            memory_bytes: Some(mebibytes << 20),
        }
    }

    fn card() -> Seen {
        Seen {
            device: GpuDevice {
                vendor: "nvidia".to_owned(),
                ..GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)
            },
            processes: Vec::new(),
        }
    }

    fn used_by(processes: &[ProcessMemory]) -> Vec<Seen> {
        vec![Seen {
            processes: processes.to_vec(),
            ..card()
        }]
    }

    fn own() -> BTreeSet<u32> {
        [10].into()
    }

    /// What is found on a card that nobody looked at before.
    fn found(processes: &[ProcessMemory]) -> Option<Strangers> {
        let found = Lookout::default().look(&used_by(processes), &own(), parent_of);
        found.into_values().next()
    }

    /// 10 is the agent, 11 its worker, 12 the worker's child.
    fn parent_of(pid: u32) -> Option<u32> {
        match pid {
            12 => Some(11),
            11 => Some(10),
            10 | 20 => Some(1),
            _ => None,
        }
    }

    #[test]
    fn workers_and_what_they_start_are_not_strangers() {
        assert_eq!(found(&[process(11, 500), process(12, 500)]), None);
        let found = found(&[process(11, 500), process(20, 300), process(99, 200)]).unwrap();
        assert_eq!((found.count, found.memory_bytes >> 20), (2, 500));
    }

    #[test]
    fn a_worker_of_an_earlier_life_that_init_took_over_is_no_stranger_nor_is_what_it_started() {
        let parent_of = |pid: u32| match pid {
            20 | 30 => Some(1),
            21 => Some(20),
            _ => None,
        };
        let on_the_card = used_by(&[process(20, 500), process(21, 500), process(30, 300)]);
        let noted = BTreeSet::from([10, 20]);
        let found = Lookout::default().look(&on_the_card, &noted, parent_of);
        let found = found.into_values().next().unwrap();
        assert_eq!((found.count, found.largest), (1, 30));
        let unknown = Lookout::default().look(&on_the_card, &own(), parent_of);
        assert_eq!(
            unknown.into_values().next().unwrap().count,
            3,
            "the note tells it, and nothing else"
        );
    }

    #[test]
    fn a_worker_that_has_ended_since_its_device_was_read_is_no_stranger_and_whoever_has_its_number_then_is() {
        let mut lookout = Lookout::default();
        let read = used_by(&[process(11, 60_000)]);
        assert!(lookout.look(&read, &own(), parent_of).is_empty());
        assert!(
            lookout.look(&read, &own(), |_| None).is_empty(),
            "it is gone, and was ours"
        );
        let another = lookout.look(&read, &own(), |pid| (pid == 11).then_some(1));
        assert_eq!(another.into_values().next().map(|found| found.largest), Some(11));
        assert!(lookout.look(&used_by(&[]), &own(), parent_of).is_empty());
        assert!(
            !lookout.look(&read, &own(), |_| None).is_empty(),
            "nobody knows it any more"
        );
    }

    #[test]
    fn readings_that_differ_a_little_are_told_alike_and_what_changed_is_told() {
        let mut lookout = Lookout::default();
        let mut told = |processes: &[ProcessMemory]| {
            let found = lookout.look(&used_by(processes), &own(), parent_of);
            let found = found.into_values().next().unwrap();
            (found.count, found.memory_bytes >> 20, found.largest)
        };
        assert_eq!(told(&[process(20, 1000), process(99, 1000)]), (2, 2000, 20));
        assert_eq!(told(&[process(99, 1001), process(20, 990)]), (2, 2000, 20));
        assert_eq!(told(&[process(20, 800), process(99, 1001)]), (2, 2000, 20));
        assert_eq!(told(&[process(20, 799), process(99, 1001)]), (2, 1800, 99));
        assert_eq!(
            told(&[process(20, 799), process(98, 1001)]),
            (2, 1800, 98),
            "another one"
        );
        assert_eq!(told(&[process(98, 1001)]), (1, 1001, 98));
    }

    #[test]
    fn strangers_are_told_by_the_number_of_the_one_that_uses_most() {
        let told = |processes: &[ProcessMemory]| found(processes).unwrap().describe();
        assert_eq!(
            told(&[process(20, 300)]),
            "process 20, which is not ours, uses 300 MiB of its memory"
        );
        let uncounted = ProcessMemory {
            pid: 7,
            memory_bytes: None,
        };
        assert_eq!(
            told(&[process(20, 300), process(99, 200), uncounted]),
            "3 processes that are not ours use 500 MiB of its memory, most of it process 20"
        );
    }

    #[test]
    fn memory_that_is_not_counted_or_is_next_to_nothing_has_no_number() {
        let uses = |pid, memory_bytes| ProcessMemory { pid, memory_bytes };
        let told = |processes: &[ProcessMemory]| found(processes).unwrap().describe();
        assert_eq!(told(&[uses(7, None)]), "process 7, which is not ours, uses it");
        assert_eq!(told(&[uses(7, Some(0))]), "process 7, which is not ours, uses it");
        assert_eq!(
            told(&[uses(7, None), uses(20, None)]),
            "2 processes that are not ours use it, process 7 among them"
        );
        assert_eq!(
            told(&[uses(7, Some((1 << 20) - 1))]),
            "process 7, which is not ours, uses less than 1 MiB of its memory"
        );
        assert_eq!(
            told(&[uses(7, Some(1 << 20))]),
            "process 7, which is not ours, uses 1 MiB of its memory"
        );
    }

    #[test]
    fn a_loop_of_parents_ends() {
        let mut lookout = Lookout::default();
        assert!(!lookout.look(&used_by(&[process(5, 1)]), &own(), Some).is_empty());
    }

    #[test]
    fn a_desktop_takes_no_device_away_and_a_job_does_where_devices_are_shared() {
        let weigh = |mebibytes, sharing| weigh(Claim::Shared, &card(), found(&[process(20, mebibytes)]), sharing);
        assert_eq!(weigh(200, Sharing::Share), Claim::Shared);
        assert!(matches!(weigh(8192, Sharing::Share), Claim::Foreign { .. }));
        assert_eq!(
            weigh(8192, Sharing::Reserve),
            Claim::Shared,
            "the kubelet's word is the better one"
        );
    }

    #[test]
    fn a_process_whose_name_looks_like_its_status_still_has_its_parent() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/7")).unwrap();
        std::fs::write(root.path().join("proc/7/stat"), "7 (a) S 1 (b) R 42 7 7").unwrap();
        assert_eq!(parent(root.path(), 7), Some(42));
        assert_eq!(parent(root.path(), 8), None);
    }
}
