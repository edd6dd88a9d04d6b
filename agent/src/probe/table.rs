//! Devices and notes as people like to read them. Pure.

use device::telemetry::Sample;
use device::{Answer, Backend, Figure, GpuDevice, Kind, Measured, Pool, SupportLevel, Verification};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A model's name is cut there; it stands in full below the table.
const MODEL_CHARACTERS: usize = 40;

/// What is shown.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// One per backend, in the order in which they were asked.
    pub answers: &'a [Answer],
    /// The backends whose notes are worth reading.
    pub useful: &'a BTreeSet<Backend>,
    /// Merged.
    pub devices: &'a [GpuDevice],
    /// Readings of some of them.
    pub samples: &'a [Sample],
    /// Whether the notes of the other backends are shown, too.
    pub all: bool,
}

/// The table, a line of details for each device, and notes.
pub fn table(shown: &Shown<'_>) -> String {
    let titles = [
        "DEVICE",
        "KIND",
        "MODEL",
        "MEMORY",
        "USABLE",
        "BANDWIDTH",
        "F32",
        "F16",
        "LAUNCH",
        "TEMP",
        "VERIFIED",
    ];
    let mut rows = vec![titles.map(str::to_owned)];
    rows.extend(shown.devices.iter().map(|device| row(device, sample_of(shown, device))));
    let mut text = aligned(&rows);
    let details: Vec<String> = shown.devices.iter().filter_map(detail).collect();
    let (notes, silent) = notes(shown);
    for part in [details, notes] {
        if !part.is_empty() {
            text.push('\n');
            text.push_str(&part.join("\n"));
            text.push('\n');
        }
    }
    if !silent.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\nNothing from {} (--all says why).", silent.join(", "));
    }
    text.trim_end().to_owned()
}

fn row(device: &GpuDevice, sample: Option<&Sample>) -> [String; 11] {
    let shared = if device.pool == Pool::Host && device.backend != Backend::Cpu {
        " (host)"
    } else {
        ""
    };
    let Measured {
        f32_flops_per_second,
        f16_flops_per_second,
        launch_ns,
        ..
    } = device.measured;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let flops = |figure: Option<Figure>| or_dash(figure.map(|figure| flops(figure.value)));
    [
        device.short_name(),
        format!("{:?}", device.kind).to_lowercase(),
        cut(&device.model),
        format!("{}{shared}", gibibytes(device.memory_total_bytes)),
        gibibytes(device.memory_usable_bytes),
        bandwidth(device),
        flops(f32_flops_per_second),
        flops(f16_flops_per_second),
        or_dash(launch_ns.map(|launch| format!("{} µs", launch.value.div_ceil(1000)))),
        or_dash(sample.and_then(|sample| Some(format!("{:.0} °C", sample.temperature_celsius?)))),
        match &device.verification {
            Verification::Verified => "yes",
            Verification::Failed { .. } => "FAILED",
            Verification::CouldNotMeasure { .. } => "unknown",
        }
        .to_owned(),
    ]
}

/// Measured, else the maker's with a tilde.
fn bandwidth(device: &GpuDevice) -> String {
    let gigabytes = |value: u64| format!("{:.1} GB/s", value as f64 / 1e9);
    match (&device.measured.bandwidth_bytes_per_second, &device.prior) {
        (Some(measured), _) => gigabytes(measured.value),
        (None, Some(prior)) => format!("~{}", gigabytes(prior.bandwidth_bytes_per_second)),
        (None, None) => "unknown".to_owned(),
    }
}

fn flops(value: u64) -> String {
    let value = value as f64;
    if value < 1e12 {
        format!("{:.0} GFLOP/s", value / 1e9)
    } else {
        format!("{:.1} TFLOP/s", value / 1e12)
    }
}

/// The reading of a device, by its identity or by where it is plugged in.
fn sample_of<'a>(shown: &Shown<'a>, device: &GpuDevice) -> Option<&'a Sample> {
    let raw = shown.answers.iter().flat_map(|answer| &answer.devices);
    let same = |raw: &&GpuDevice| {
        (raw.backend, raw.index) == (device.backend, device.index)
            || (raw.pci_address.is_some() && raw.pci_address == device.pci_address)
    };
    let names: BTreeSet<String> = raw.filter(same).map(GpuDevice::identity).collect();
    shown.samples.iter().find(|sample| names.contains(&sample.device))
}

fn detail(device: &GpuDevice) -> Option<String> {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: Option<String>| facts.extend(value.map(|value| format!("{name} {value}")));
    fact(
        "model",
        (cut(&device.model) != device.model).then(|| device.model.clone()),
    );
    fact("cores", device.compute_units.map(|count| count.to_string()));
    fact("architecture", device.architecture.clone());
    fact("driver", device.driver.clone());
    fact("PCI", device.pci_address.clone());
    fact("UUID", device.uuid.clone());
    let also: Vec<&str> = device.also.iter().map(|reach| reach.backend.name()).collect();
    fact("also reached by", (!also.is_empty()).then(|| also.join(" and ")));
    if device.measured.bandwidth_bytes_per_second.is_none() {
        fact("~ by", device.prior.as_ref().map(|prior| prior.source.clone()));
    }
    match &device.verification {
        Verification::Verified if device.support == SupportLevel::Unsupported => {
            facts.push("known not to work".to_owned());
        }
        Verification::Verified => {}
        Verification::Failed { reason } | Verification::CouldNotMeasure { reason } => facts.push(reason.clone()),
    }
    for other in &device.unverified {
        if let Verification::Failed { reason } | Verification::CouldNotMeasure { reason } = &other.verification {
            facts.push(format!("not by way of {}: {reason}", other.backend.name()));
        }
    }
    if device.kind == Kind::Software {
        facts.push("computes on the processors, and is used only where a model allows it".to_owned());
    }
    (!facts.is_empty()).then(|| format!("{}: {}", device.short_name(), facts.join(", ")))
}

/// The notes to show, and the backends that are passed over.
fn notes(shown: &Shown<'_>) -> (Vec<String>, Vec<&'static str>) {
    let (mut notes, mut silent) = (Vec::new(), Vec::new());
    for answer in shown.answers {
        let name = answer.backend.name();
        match &answer.note {
            Some(note) if shown.all || shown.useful.contains(&answer.backend) => notes.push(format!("{name}: {note}")),
            Some(_) => silent.push(name),
            None => {}
        }
    }
    (notes, silent)
}

fn cut(model: &str) -> String {
    if model.chars().count() <= MODEL_CHARACTERS {
        return model.to_owned();
    }
    let kept: String = model.chars().take(MODEL_CHARACTERS - 1).collect();
    format!("{}…", kept.trim_end())
}

fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// One decimal place is what people compare.
pub fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1_u32 << 30))
}

#[cfg(test)]
mod tests;
