//! What an answer or a reading says of a device's health. Pure.

use device::health::Observation;
use device::telemetry::{DeviceEvent, KernelFault, KernelFaultKind, Sample};
use device::{Backend, PciAddress, Verification};

/// NVIDIA's number for memory errors that were not mended.
const UNCORRECTED_ECC_XID: u32 = 48;
/// Of a text that a driver wrote.
const TEXT_CHARACTERS: usize = 256;
/// Processes at one device of which a reading tells.
const PROCESSES_MAX: usize = 256;
/// What drivers say of a card that the bus does not reach any more, in lower case (`NVML_ERROR_GPU_IS_LOST`).
const OFF_THE_BUS: [&str; 3] = ["fallen off the bus", "gpu is lost", "gpu_is_lost"];

/// Of a verification.
pub(super) fn of_verification(verification: &Verification) -> Observation {
    match verification {
        Verification::Verified => Observation::Verified,
        Verification::Failed { reason } => Observation::VerificationFailed { reason: reason.clone() },
        Verification::CouldNotMeasure { reason } => Observation::CouldNotMeasure { reason: reason.clone() },
    }
}

/// Of a reading, and the one before it.
pub(super) fn of_sample(backend: Backend, sample: &Sample, before: Option<&Sample>) -> Vec<Observation> {
    if let Some(reason) = &sample.lost {
        let lower = reason.to_lowercase();
        let off_the_bus = OFF_THE_BUS.iter().any(|words| lower.contains(words));
        let reason = reason.clone();
        return vec![if off_the_bus {
            Observation::FellOffBus { reason }
        } else {
            Observation::Unread { reason }
        }];
    }
    let mut seen = vec![match &sample.sensor_fault {
        Some(reason) => Observation::SensorInvalid { reason: reason.clone() },
        None => Observation::SensorFine,
    }];
    if let Some(total) = sample.ecc_corrected {
        seen.push(Observation::EccCorrected { total });
    }
    // The kernel's log tells the same and more, where it can be read.
    let uncorrected = before
        .and_then(|before| before.ecc_uncorrected)
        .zip(sample.ecc_uncorrected);
    if let Some((before, now)) = uncorrected.filter(|(before, now)| backend == Backend::Cuda && now > before) {
        seen.push(Observation::Xid {
            xid: UNCORRECTED_ECC_XID,
            text: format!("memory errors that were not mended rose from {before} to {now}"),
        });
    }
    seen
}

/// Of an event that names a device, or of one that could be of any.
pub(super) fn of_event(event: &DeviceEvent) -> Observation {
    let text = cut(&event.text);
    match event.pci_address {
        Some(_) => Observation::Xid { xid: event.xid, text },
        None => Observation::UnplacedEvent { text },
    }
}

/// Of what a driver told without a number; several things may follow from it.
pub(super) fn of_kernel_fault(fault: &KernelFault) -> Vec<Observation> {
    let text = cut(&fault.text);
    match fault.kind {
        _ if fault.pci_address.is_none() => vec![Observation::UnplacedEvent { text }],
        // Whether the device goes on is seen when it is verified again.
        KernelFaultKind::Hang => vec![Observation::UnplacedEvent { text }],
        // What was on it is lost, and what waits for a reset has it.
        KernelFaultKind::Reset => vec![Observation::Reset, Observation::Lost { reason: text }],
        KernelFaultKind::Dead => vec![Observation::Lost { reason: text }],
        KernelFaultKind::UncorrectedMemory => vec![Observation::UncorrectedMemory { reason: text }],
    }
}

/// Whether two bus addresses are of one card. Drivers write the domain with four or eight digits, and the kernel's log
/// leaves the function out.
pub(in crate::devices) fn same_address(a: &str, b: &str) -> bool {
    let both = PciAddress::parse(a).zip(PciAddress::parse(b));
    both.is_some_and(|(a, b)| a.may_be(b))
}

/// A reading as it may be passed on: nothing that is no number, nothing without bound.
pub(super) fn tidy(mut sample: Sample) -> Sample {
    for number in [
        &mut sample.utilisation_ratio,
        &mut sample.memory_utilisation_ratio,
        &mut sample.temperature_celsius,
        &mut sample.memory_temperature_celsius,
        &mut sample.power_watts,
        &mut sample.power_limit_watts,
    ] {
        *number = number.filter(|number| number.is_finite());
    }
    sample.energy_joules = sample.energy_joules.filter(|number| number.is_finite());
    sample.processes.truncate(PROCESSES_MAX);
    sample.sensor_fault = sample.sensor_fault.as_deref().map(cut);
    sample.lost = sample.lost.as_deref().map(cut);
    sample
}

/// A driver's words as they may be shown.
pub(super) fn cut(text: &str) -> String {
    let printable = |character: char| if character.is_control() { ' ' } else { character };
    text.chars().map(printable).take(TEXT_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_compared_by_what_they_mean() {
        for (a, b, same) in [
            ("0000:03:00.0", "00000000:03:00.0", true),
            ("0000:03:00.0", "0000:03:00", true),
            ("0000:AF:00.0", "0000:af:00.0", true),
            ("0000:03:00.0", "0000:03:00.1", false),
            ("0000:03:00.0", "0001:03:00.0", false),
            ("", "", false),
            ("nonsense", "nonsense", false),
        ] {
            assert_eq!(same_address(a, b), same, "{a} and {b}");
        }
    }

    #[test]
    fn a_card_off_the_bus_is_told_from_one_that_cannot_be_read() {
        let lost = |reason: &str| Sample {
            lost: Some(reason.to_owned()),
            ..Sample::default()
        };
        let seen = |reason| of_sample(Backend::Cuda, &lost(reason), None);
        assert!(matches!(seen("GPU is lost")[..], [Observation::FellOffBus { .. }]));
        assert!(matches!(seen("Unknown Error")[..], [Observation::Unread { .. }]));
    }

    #[test]
    fn errors_that_were_not_mended_count_when_they_rise_and_only_for_the_driver_that_numbers_them() {
        let with = |count| Sample {
            ecc_uncorrected: Some(count),
            ..Sample::default()
        };
        let rose = |backend, from, to| {
            let seen = of_sample(backend, &with(to), Some(&with(from)));
            seen.iter().any(|seen| matches!(seen, Observation::Xid { xid: 48, .. }))
        };
        assert!(rose(Backend::Cuda, 1, 2));
        assert!(!rose(Backend::Cuda, 2, 2));
        assert!(!rose(Backend::Cuda, 2, 0), "the driver was loaded again");
        assert!(!rose(Backend::Rocm, 1, 2));
    }

    #[test]
    fn what_is_no_number_and_what_has_no_end_is_not_passed_on() {
        let sample = tidy(Sample {
            power_watts: Some(f32::INFINITY),
            temperature_celsius: Some(40.0),
            lost: Some(format!("a\u{1b}{}", "x".repeat(1000))),
            ..Sample::default()
        });
        assert_eq!((sample.power_watts, sample.temperature_celsius), (None, Some(40.0)));
        let lost = sample.lost.unwrap();
        assert!(lost.starts_with("a x") && lost.chars().count() == TEXT_CHARACTERS);
    }
}
