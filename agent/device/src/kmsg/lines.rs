//! The lines of each driver.

use super::tidy;
use crate::pci::PciAddress;
use crate::telemetry::{DeviceEvent, KernelFault, KernelFaultKind};

/// The Xid of a card that left the bus, which newer drivers also tell in words alone.
const FELL_OFF_BUS: u32 = 79;

/// `NVRM: Xid (PCI:0000:65:00): 79, pid=…`; old drivers wrote the address without `PCI:`.
pub(super) fn xid(message: &str) -> Option<DeviceEvent> {
    let words = message.trim_start().strip_prefix("NVRM: ")?;
    let Some(rest) = words.strip_prefix("Xid (") else {
        return words.contains("fallen off the bus").then(|| DeviceEvent {
            pci_address: words.split([' ', '\\', '(', ')']).find_map(nvidia_address),
            xid: FELL_OFF_BUS,
            text: tidy(message),
        });
    };
    let (place, rest) = rest.split_once("): ")?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, words) = rest.split_at(digits);
    let words = words.trim_start_matches([',', ' ']);
    Some(DeviceEvent {
        pci_address: nvidia_address(place),
        xid: number.parse().ok()?,
        text: match place.split_once(' ') {
            Some((_, slice)) => tidy(&format!("{slice}: {words}")),
            None => tidy(words),
        },
    })
}

/// The card of `PCI:0000:65:00`, or of a slice of it: `PCI:0000:65:00 GPU-I:05`.
fn nvidia_address(place: &str) -> Option<String> {
    let card = place.split(' ').next()?;
    address(card.strip_prefix("PCI:").unwrap_or(card).trim_end_matches(':'))
}

/// Lines of AMD's and Intel's drivers, which start with the driver's name and, mostly, the bus address.
pub(super) fn driver(message: &str, device: Option<&str>) -> Option<KernelFault> {
    let message = message.trim_start();
    let (name, rest) = message.split_once(' ')?;
    let trouble = match name {
        "amdgpu" => amd(rest),
        "[drm:amdgpu_job_timedout" => amd(rest),
        "i915" | "xe" => intel(rest),
        _ => None,
    }?;
    let (place, _) = rest.split_once(": ").unwrap_or_default();
    Some(KernelFault {
        pci_address: address(place).or_else(|| device.map(str::to_owned)),
        kind: trouble,
        text: tidy(message),
    })
}

/// The words of amdgpu_device.c, amdgpu_job.c and amdgpu_ras.c.
fn amd(text: &str) -> Option<KernelFaultKind> {
    let says = |words: &str| text.contains(words);
    if says("GPU reset end with ret = -") || says("GPU Recovery Failed") {
        return Some(KernelFaultKind::Dead);
    }
    if lost_memory(text) {
        return Some(KernelFaultKind::UncorrectedMemory);
    }
    if says("GPU reset begin!") {
        return Some(KernelFaultKind::Reset);
    }
    (says("ring ") && says(" timeout, signaled seq=")).then_some(KernelFaultKind::Hang)
}

/// `<count> uncorrectable hardware errors detected in <block> block`, or `<count> new uncorrectable …`. The driver also
/// says `no uncorrectable …`, and repeats the total whenever somebody asks for it.
fn lost_memory(text: &str) -> bool {
    let Some((before, after)) = text.split_once("uncorrectable hardware errors detected in ") else {
        return false;
    };
    let before = before.trim_end();
    let count = before.strip_suffix(" new").unwrap_or(before).rsplit(' ').next();
    let some = count
        .and_then(|count| count.parse::<u64>().ok())
        .is_some_and(|count| count > 0);
    some && !after.starts_with("total ")
}

/// The words of i915_gpu_error.c, intel_reset.c, xe_device.c and xe_guc_submit.c.
fn intel(text: &str) -> Option<KernelFaultKind> {
    let says = |words: &str| text.contains(words);
    if says("declared device") && says("as wedged") || says("GPU recovery failed") || says("declaring it wedged") {
        return Some(KernelFaultKind::Dead);
    }
    if says("Resetting chip for") {
        return Some(KernelFaultKind::Reset);
    }
    (says("GPU HANG: ecode") || says("Timedout job: seqno=")).then_some(KernelFaultKind::Hang)
}

/// `0000:65:00.0` of `0000:65:00`, `0000:65:00.0` or `00000000:65:00.0`: lower case, a domain of four digits where that
/// is enough, function 0 where none is named.
pub(super) fn address(text: &str) -> Option<String> {
    let address = PciAddress::parse(text.trim())?;
    // Without a domain, two of a message's numbers could pass for a place.
    address.domain.is_some().then(|| address.to_string())
}
