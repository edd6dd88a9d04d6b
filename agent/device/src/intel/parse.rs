//! What the files of i915 and xe mean. Pure.
//!
//! Formats: the kernel's Documentation/ABI/testing/sysfs-driver-intel-{i915,xe}-hwmon, sysfs-driver-intel-xe-sriov and
//! `xe_gt_freq.c`, `xe_gt_throttle.c`, `i915/gt/intel_gt_sysfs_pm.c`.

use crate::telemetry::Throttle;
use std::time::Duration;

/// Where the card opens its memory to the host: the third line of `resource`, first and last address.
pub fn window_bytes(resource: &str) -> Option<u64> {
    let line = resource.lines().nth(2)?;
    let mut numbers = line.split_whitespace().map(|number| {
        let digits = number.strip_prefix("0x")?;
        u64::from_str_radix(digits, 16).ok()
    });
    let (first, last) = (numbers.next()??, numbers.next()??);
    (last > first).then(|| (last - first).saturating_add(1))
}

/// Watts between two readings of an energy counter in microjoules; nothing when it began anew or no time went by.
pub fn watts(before_microjoules: u64, now_microjoules: u64, elapsed: Duration) -> Option<f32> {
    let joules = now_microjoules.checked_sub(before_microjoules)? as f64 / 1e6;
    let watts = joules / elapsed.as_secs_f64();
    // Above the power of any socket the counter was another's.
    (watts.is_finite() && watts < 5000.0).then_some(watts as f32)
}

/// What a reason's name stands for, as both drivers name their files after the prefix.
pub fn throttle(reason: &str) -> Throttle {
    match reason {
        "thermal" | "soc_thermal" | "mem_thermal" | "soc_avg_thermal" => Throttle::Thermal,
        "prochot" | "vr_thermalert" | "vr_thermal" => Throttle::ThermalHardware,
        "pl1" | "pl2" | "pl4" | "ratl" | "power" => Throttle::Power,
        "vr_tdc" | "iccmax" | "psys_pl1" | "psys_pl2" | "fastvmode" => Throttle::PowerBrake,
        _ => Throttle::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_the_third_region() {
        let resource = "0x0000000081000000 0x0000000081ffffff 0x0000000000140204\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x0000004000000000 0x00000043ffffffff 0x000000000014220c\n";
        assert_eq!(window_bytes(resource), Some(16 << 30));
        for nothing in [
            "",
            "a\nb\nc\n",
            "0x1 0x2\n\n0x5 0x5\n",
            "x\ny\n0x0 0x0 0x0\n",
            "x\ny\n0x5\n",
        ] {
            assert_eq!(window_bytes(nothing), None, "{nothing:?}");
        }
        assert_eq!(window_bytes("a\nb\n0x0 0xffffffffffffffff 0\n"), Some(u64::MAX));
    }

    #[test]
    fn power_is_energy_by_time_and_a_counter_that_began_anew_says_nothing() {
        assert_eq!(watts(1_000_000, 91_000_000, Duration::from_secs(1)), Some(90.0));
        assert_eq!(watts(2, 1, Duration::from_secs(1)), None);
        assert_eq!(watts(0, 1_000_000, Duration::ZERO), None);
        assert_eq!(watts(0, u64::MAX, Duration::from_secs(1)), None);
    }

    #[test]
    fn reasons_are_told_apart() {
        assert_eq!(throttle("thermal"), Throttle::Thermal);
        assert_eq!(throttle("prochot"), Throttle::ThermalHardware);
        assert_eq!(throttle("pl1"), Throttle::Power);
        assert_eq!(throttle("vr_tdc"), Throttle::PowerBrake);
        assert_eq!(throttle("something_new"), Throttle::Other);
    }
}
