//! Temperature, power and clock of the processors, from hwmon, powercap and cpufreq.

use super::{names, read};
use crate::telemetry::believable_celsius;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// hwmon drivers of processors (Documentation/hwmon/{k10temp,coretemp}.rst, and the generic thermal zone of Arm boards).
const DRIVERS: [&str; 5] = ["k10temp", "zenpower", "coretemp", "cpu_thermal", "cpu-thermal"];
/// A counter is read at shorter intervals only by two readers; the difference then says nothing.
const INTERVAL_MIN_S: f64 = 0.01;

/// Readers of the machine below a root, and what power was read from last.
pub struct Sensors {
    root: PathBuf,
    packages: HashMap<String, (Instant, u64)>,
    joules: f64,
}

/// What the energy counters say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Power {
    /// Since the last reading; nothing the first time.
    pub watts: Option<f32>,
    /// Since the first reading.
    pub joules: Option<f64>,
}

impl Sensors {
    /// Reads nothing yet.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            packages: HashMap::new(),
            joules: 0.0,
        }
    }

    /// Of the hottest part, or why the sensors are not believed; nothing where there is none.
    pub fn celsius(&self) -> Option<Result<f32, String>> {
        let folder = Path::new("sys/class/hwmon");
        let mut readings = Vec::new();
        for chip in names(&self.root, folder) {
            let chip = folder.join(chip);
            let driver = read(&self.root, chip.join("name")).unwrap_or_default();
            if !DRIVERS.contains(&driver.trim()) {
                continue;
            }
            for name in names(&self.root, &chip) {
                let Some(sensor) = name.strip_suffix("_input").filter(|name| name.starts_with("temp")) else {
                    continue;
                };
                let label = read(&self.root, chip.join(format!("{sensor}_label"))).unwrap_or_default();
                let value = read(&self.root, chip.join(&name)).unwrap_or_default();
                readings.push((label.trim().to_owned(), value.trim().to_owned()));
            }
        }
        hottest(&readings)
    }

    /// Draws and their sum over all packages. Reading the counters needs root.
    pub fn power(&mut self, now: Instant) -> Power {
        let mut power = Power::default();
        for package in self.packages() {
            let number = |file: &str| number(&self.root, &package, file);
            let (Some(energy_uj), range_uj) = (number("energy_uj"), number("max_energy_range_uj")) else {
                continue;
            };
            let key = package.to_string_lossy().into_owned();
            power.joules.get_or_insert(0.0);
            if let Some((then, before_uj)) = self.packages.get(&key).copied() {
                let seconds = now.saturating_duration_since(then).as_secs_f64();
                let used = joules(before_uj, energy_uj, range_uj);
                if seconds < INTERVAL_MIN_S {
                    continue;
                }
                if let Some(used) = used {
                    self.joules += used;
                    *power.watts.get_or_insert(0.0) += (used / seconds) as f32;
                }
            }
            self.packages.insert(key, (now, energy_uj));
        }
        power.joules = power.joules.map(|_| self.joules);
        power
    }

    /// What the packages may draw for long, all together.
    pub fn power_limit_watts(&self) -> Option<u32> {
        let limits: Vec<u64> = self
            .packages()
            .iter()
            .filter_map(|package| number(&self.root, package, "constraint_0_power_limit_uw"))
            .collect();
        let watts = limits.iter().fold(0_u64, |sum, limit| sum.saturating_add(*limit)) / 1_000_000;
        u32::try_from(watts).ok().filter(|watts| *watts > 0)
    }

    /// Of the fastest processor now.
    pub fn clock_mhz(&self) -> Option<u32> {
        self.fastest("scaling_cur_freq").or_else(|| {
            let text = read(&self.root, "proc/cpuinfo")?;
            let clocks = text
                .lines()
                .filter_map(|line| line.split_once(':'))
                .filter(|(key, _)| key.trim() == "cpu MHz")
                .filter_map(|(_, value)| value.trim().parse::<f32>().ok());
            clocks
                .filter(|mhz| mhz.is_finite() && *mhz >= 1.0)
                .reduce(f32::max)
                .map(|mhz| mhz as u32)
        })
    }

    /// The highest that a processor reaches.
    pub fn highest_clock_mhz(&self) -> Option<u32> {
        self.fastest("cpuinfo_max_freq")
    }

    /// How often the processors were slowed by heat since they were started; nothing where the kernel does not count.
    pub fn slowed_by_heat(&self) -> Option<u64> {
        self.processors()
            .filter_map(|processor| number(&self.root, &processor, "thermal_throttle/core_throttle_count"))
            .reduce(u64::saturating_add)
    }

    fn fastest(&self, file: &str) -> Option<u32> {
        self.processors()
            .filter_map(|processor| number(&self.root, &processor.join("cpufreq"), file))
            .max()
            .and_then(|kilohertz| u32::try_from(kilohertz / 1000).ok())
            .filter(|mhz| *mhz > 0)
    }

    fn processors(&self) -> impl Iterator<Item = PathBuf> {
        let folder = Path::new("sys/devices/system/cpu");
        names(&self.root, folder)
            .into_iter()
            .filter(|name| name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<u32>().is_ok()))
            .map(move |name| folder.join(name))
    }

    /// Folders of the packages' energy counters; what is below a package is a part of it.
    fn packages(&self) -> Vec<PathBuf> {
        let folder = Path::new("sys/class/powercap");
        names(&self.root, folder)
            .into_iter()
            .filter(|name| {
                name.strip_prefix("intel-rapl:")
                    .is_some_and(|rest| rest.parse::<u32>().is_ok())
            })
            .map(|name| folder.join(name))
            .filter(|package| {
                read(&self.root, package.join("name")).is_some_and(|name| name.trim().starts_with("package"))
            })
            .collect()
    }
}

fn number(root: &Path, folder: &Path, file: &str) -> Option<u64> {
    read(root, folder.join(file))?.trim().parse().ok()
}

/// The highest of the believable readings (label, thousandths of a degree); where none is, why not. Pure.
/// AMD's Tctl is what fans are steered by, up to 27 °C above the die; Tdie is the die, where the driver has both.
fn hottest(readings: &[(String, String)]) -> Option<Result<f32, String>> {
    let has_die = readings.iter().any(|(label, _)| label == "Tdie");
    let mut best: Option<Result<f32, String>> = None;
    for (_, value) in readings.iter().filter(|(label, _)| !has_die || label != "Tctl") {
        let celsius = value
            .parse::<i64>()
            .map_err(|_| "the sensor says nothing that is a number".to_owned())
            .and_then(|thousandths| believable_celsius(thousandths as f32 / 1000.0));
        best = Some(match (best, celsius) {
            (Some(Ok(known)), Ok(new)) => Ok(known.max(new)),
            (Some(Ok(known)), Err(_)) => Ok(known),
            (_, new) => new,
        });
    }
    best
}

/// Energy between two readings of a counter of microjoules that begins anew after `range_uj`. Pure.
fn joules(before_uj: u64, now_uj: u64, range_uj: Option<u64>) -> Option<f64> {
    let used = match now_uj.checked_sub(before_uj) {
        Some(used) => used,
        None => range_uj?.checked_sub(before_uj)?.checked_add(now_uj)?,
    };
    Some(used as f64 / 1e6)
}

#[cfg(test)]
mod tests;
