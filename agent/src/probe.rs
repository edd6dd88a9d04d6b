//! Asking for devices: the `probe` subcommand, and the agent's own question at its start.

use crate::args::ProbeArgs;
use device::{Answer, Backend, GpuDevice, Pool, ProbeRequest, Verification, child, merge};
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Carries out `probe`: as JSON it asks in this process, else in children, one per backend.
pub fn run(args: &ProbeArgs) -> ExitCode {
    let outcome = if args.json { json(args) } else { table_of(args) };
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("shardwright-agent: {message}");
            ExitCode::FAILURE
        }
    }
}

fn json(args: &ProbeArgs) -> Result<String, String> {
    let now_unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let request = ProbeRequest {
        measure_budget: Duration::from_secs(1),
        known: Vec::new(),
    };
    let answers: Vec<Answer> = args
        .backends
        .iter()
        .map(|backend| device::probe(*backend, Path::new("/"), &request, now_unix_s))
        .collect();
    serde_json::to_string_pretty(&answers).map_err(|error| error.to_string())
}

fn table_of(args: &ProbeArgs) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let answers = runtime.block_on(ask(&own_executable()?, &args.backends));
    Ok(table(&answers, &merge::merge(&answers, args.memory_limit_bytes)))
}

/// This very executable, for children.
///
/// # Errors
/// The system does not tell.
pub fn own_executable() -> Result<std::path::PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("our own path is unknown: {error}"))
}

/// Asks each backend in a child process, one after the other: measurements must not disturb each other.
pub async fn ask(executable: &Path, backends: &[Backend]) -> Vec<Answer> {
    let mut answers = Vec::new();
    for backend in backends {
        answers.push(child::probe_in_child(executable, *backend, child::PROBE_LIMIT).await);
    }
    answers
}

/// Devices and notes as people like to read them.
pub fn table(answers: &[Answer], devices: &[GpuDevice]) -> String {
    let mut rows = vec![
        [
            "DEVICE",
            "KIND",
            "MODEL",
            "MEMORY",
            "USABLE",
            "BANDWIDTH",
            "LAUNCH",
            "VERIFIED",
        ]
        .map(str::to_owned),
    ];
    for device in devices {
        let shared = if device.pool == Pool::Host && device.backend != Backend::Cpu {
            " (host)"
        } else {
            ""
        };
        rows.push([
            device.short_name(),
            format!("{:?}", device.kind).to_lowercase(),
            device.model.clone(),
            format!("{}{shared}", gibibytes(device.memory_total_bytes)),
            gibibytes(device.memory_usable_bytes),
            device.measured.bandwidth_bytes_per_second.map_or_else(
                || "unknown".to_owned(),
                |measured| format!("{:.1} GB/s", measured.value as f64 / 1e9),
            ),
            device.measured.launch_ns.map_or_else(
                || "-".to_owned(),
                |launch| format!("{} µs", launch.value.div_ceil(1000)),
            ),
            match &device.verification {
                Verification::Verified => "yes",
                Verification::Failed { .. } => "FAILED",
                Verification::CouldNotMeasure { .. } => "unknown",
            }
            .to_owned(),
        ]);
    }
    let mut text = aligned(&rows);
    for device in devices {
        detail(&mut text, device);
    }
    for answer in answers {
        if let Some(note) = &answer.note {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}: {note}", answer.backend.name());
        }
    }
    text.trim_end().to_owned()
}

fn detail(text: &mut String, device: &GpuDevice) {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: Option<String>| facts.extend(value.map(|value| format!("{name} {value}")));
    fact("cores", device.compute_units.map(|count| count.to_string()));
    fact("architecture", device.architecture.clone());
    fact("driver", device.driver.clone());
    fact("PCI", device.pci_address.clone());
    fact("UUID", device.uuid.clone());
    match &device.verification {
        Verification::Verified => {}
        Verification::Failed { reason } | Verification::CouldNotMeasure { reason } => facts.push(reason.clone()),
    }
    if !facts.is_empty() {
        let _ = writeln!(text, "{}: {}", device.short_name(), facts.join(", "));
    }
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
