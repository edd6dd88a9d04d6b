use super::*;
use crate::cpu::sampler::{Processors, Times};
use crate::telemetry::Throttle;
use std::fs;
use std::time::Duration;

/// A tree of the kernel's files, in the forms that Documentation/hwmon/k10temp.rst, Documentation/power/powercap and
/// Documentation/admin-guide/pm/cpufreq.rst describe.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(path, content)| tree.set(path, content));
        tree
    }

    fn set(&self, path: &str, content: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{content}\n")).unwrap();
    }

    fn sensors(&self) -> Sensors {
        Sensors::new(self.0.path())
    }
}

fn readings(readings: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(label, value): &(&str, &str)| ((*label).to_owned(), (*value).to_owned());
    readings.iter().map(owned).collect()
}

#[test]
fn the_hottest_believable_sensor_counts_and_the_fans_own_only_without_the_dies() {
    assert_eq!(
        hottest(&readings(&[("Core 0", "41000"), ("Core 1", "47500")])),
        Some(Ok(47.5))
    );
    assert_eq!(
        hottest(&readings(&[("Tctl", "90000"), ("Tdie", "63000")])),
        Some(Ok(63.0))
    );
    assert_eq!(
        hottest(&readings(&[("Tctl", "61250"), ("Tccd1", "50000")])),
        Some(Ok(61.25))
    );
    assert_eq!(hottest(&readings(&[("", "255000"), ("", "40000")])), Some(Ok(40.0)));
    assert_eq!(hottest(&[]), None);
}

#[test]
fn sensors_that_fail_are_faults_and_no_temperatures() {
    for value in ["0", "-40000", "255000", "hot", "", "99999999999999999999"] {
        let fault = hottest(&readings(&[("Tctl", value)]));
        assert!(matches!(fault, Some(Err(_))), "{value}: {fault:?}");
    }
}

#[test]
fn only_processors_chips_are_read() {
    let tree = Tree::new(&[
        ("sys/class/hwmon/hwmon0/name", "nvme"),
        ("sys/class/hwmon/hwmon0/temp1_input", "80000"),
        ("sys/class/hwmon/hwmon1/name", "k10temp"),
        ("sys/class/hwmon/hwmon1/temp1_input", "52125"),
        ("sys/class/hwmon/hwmon1/temp1_label", "Tctl"),
        ("sys/class/hwmon/hwmon1/temp1_max", "70000"),
    ]);
    assert_eq!(tree.sensors().celsius(), Some(Ok(52.125)));
    assert_eq!(Tree::new(&[]).sensors().celsius(), None);
}

#[test]
fn power_is_energy_over_time_over_all_packages_and_survives_the_counters_end() {
    let zone = |number: u32, file: &str| format!("sys/class/powercap/intel-rapl:{number}/{file}");
    let tree = Tree::new(&[
        (&zone(0, "name"), "package-0"),
        (&zone(0, "energy_uj"), "262143000000"),
        (&zone(0, "max_energy_range_uj"), "262143328850"),
        (&zone(0, "constraint_0_power_limit_uw"), "125000000"),
        (&zone(1, "name"), "package-1"),
        (&zone(1, "energy_uj"), "1000000"),
        (&zone(1, "max_energy_range_uj"), "262143328850"),
        (&zone(1, "constraint_0_power_limit_uw"), "125000000"),
        // A part of package 0, and a zone that is no package: neither is counted.
        ("sys/class/powercap/intel-rapl:0:0/name", "core"),
        ("sys/class/powercap/intel-rapl:0:0/energy_uj", "5"),
        (&zone(2, "name"), "psys"),
        (&zone(2, "energy_uj"), "7"),
    ]);
    let mut sensors = tree.sensors();
    let start = Instant::now();
    let first = sensors.power(start);
    assert_eq!((first.watts, first.joules), (None, Some(0.0)));
    tree.set(&zone(0, "energy_uj"), "99671150");
    tree.set(&zone(1, "energy_uj"), "51000000");
    let second = sensors.power(start + Duration::from_secs(2));
    assert_eq!((second.watts, second.joules), (Some(75.0), Some(150.0)));
    assert_eq!(sensors.power_limit_watts(), Some(250));
}

#[test]
fn counters_that_may_not_be_read_are_absent() {
    let tree = Tree::new(&[("sys/class/powercap/intel-rapl:0/name", "package-0")]);
    assert_eq!(tree.sensors().power(Instant::now()), Power::default());
    assert_eq!(tree.sensors().power_limit_watts(), None);
    assert_eq!(joules(10, 5, None), None);
    assert_eq!(
        joules(10, 5, Some(7)),
        None,
        "a range that the counter has left is no range"
    );
}

#[test]
fn the_clock_is_the_fastest_processors_or_what_cpuinfo_says() {
    let tree = Tree::new(&[("proc/cpuinfo", "processor : 0\ncpu MHz\t\t: 2596.121")]);
    assert_eq!(tree.sensors().clock_mhz(), Some(2596));
    tree.set("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1800000");
    tree.set("sys/devices/system/cpu/cpu11/cpufreq/scaling_cur_freq", "4425000");
    tree.set("sys/devices/system/cpu/cpu11/cpufreq/cpuinfo_max_freq", "5050000");
    tree.set("sys/devices/system/cpu/cpufreq/scaling_cur_freq", "9999999");
    assert_eq!(tree.sensors().clock_mhz(), Some(4425));
    assert_eq!(tree.sensors().highest_clock_mhz(), Some(5050));
}

#[test]
fn utilisation_is_what_was_not_idle_between_two_readings() {
    let before = Times::read("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3 4\n").unwrap();
    let now = Times::read("cpu  130 0 120 740 110 0 0 0 0 0\n").unwrap();
    assert_eq!(Times::utilisation(before, now), Some(0.5));
    assert_eq!(Times::utilisation(now, now), None);
    assert_eq!(Times::utilisation(now, before), None, "a clock that went back");
    assert_eq!(Times::read("cpu  1 2 3\n"), None);
    assert_eq!(Times::read("intr 1\n"), None);
}

#[test]
fn a_sample_has_what_the_machine_has_and_throttling_shows_once() {
    let count = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count";
    let tree = Tree::new(&[
        ("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 400 kB"),
        ("sys/class/hwmon/hwmon0/name", "coretemp"),
        ("sys/class/hwmon/hwmon0/temp1_input", "0"),
        (count, "3"),
    ]);
    let mut processors = Processors::new(tree.0.path());
    let now = Instant::now();
    let first = processors.sample_at(now);
    assert_eq!(first.device, "cpu:0");
    assert_eq!(
        (first.memory_total_bytes, first.memory_used_bytes),
        (Some(1_024_000), Some(614_400))
    );
    assert_eq!(first.temperature_celsius, None);
    assert!(first.sensor_fault.is_some());
    assert_eq!(
        (first.power_watts, first.clock_mhz, first.utilisation_ratio),
        (None, None, None)
    );
    assert_eq!(first.throttled_by, Some(vec![]));
    tree.set(count, "4");
    assert_eq!(processors.sample_at(now).throttled_by, Some(vec![Throttle::Thermal]));
    assert_eq!(processors.sample_at(now).throttled_by, Some(vec![]));
}
