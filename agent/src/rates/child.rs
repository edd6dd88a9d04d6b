//! One measurement: a worker that holds no shard, and what it prints.

use super::turn::Unit;
use super::{Rates, Setting, unix_s};
use crate::worker::process::show_vulkan;
use device::Backend;
use serde::Deserialize;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Some drivers compile for many seconds; one that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(90);
/// An answer has a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// What a worker prints.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    #[serde(flatten)]
    pub(super) rates: Rates,
    pub(super) times: serde_json::Value,
    /// Anything is better than before.
    pub(super) improved: bool,
}

/// Runs a worker that measures a device, or several that work as one; its process ends when this is dropped.
pub(super) async fn measure(
    setting: &Setting,
    unit: &Unit<'_>,
    before: Option<&serde_json::Value>,
) -> Result<Answer, String> {
    let folder = setting.state_dir.join("run").join("rates");
    tokio::fs::create_dir_all(&folder)
        .await
        .map_err(|error| error.to_string())?;
    let mut devices = unit.members.iter().map(|member| &member.state.device);
    let first = devices.next().ok_or("there is nothing to measure")?;
    let mut indices = vec![first.index];
    let mut command = Command::new(&setting.worker);
    command
        .args(["--measure", first.backend.engine_name()])
        .args(["--device-index", &first.index.to_string()])
        .args(["--threads", &setting.threads.to_string()])
        .arg("--folder")
        .arg(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for other in devices {
        command.args(["--group-index", &other.index.to_string()]);
        indices.push(other.index);
    }
    if let Some(before) = before {
        command.arg("--before").arg(before.to_string());
    }
    let is_vulkan = first.backend == Backend::Vulkan;
    show_vulkan(&mut command, if is_vulkan { &indices } else { &[] });
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output.map_err(|_| format!("no answer within {} s", LIMIT.as_secs()))?;
    let output = output.map_err(|error| format!("{}: {error}", setting.worker.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim_end().lines().next_back().unwrap_or_default();
        return Err(format!("{}: {last}", output.status));
    }
    let text = output.stdout.get(..ANSWER_BYTES_MAX).unwrap_or(&output.stdout);
    parse(text, unix_s())
}

pub(super) fn parse(text: &[u8], now_unix_s: u64) -> Result<Answer, String> {
    let mut answer: Answer =
        serde_json::from_slice(text).map_err(|error| format!("its answer cannot be read: {error}"))?;
    if !answer.rates.is_sound() {
        return Err("its answer has no figures".to_owned());
    }
    answer.rates.measured_unix_s = now_unix_s;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_figures_is_refused_and_a_sound_one_is_dated() {
        let text = br#"{"step_ns":5,"layer_ns":7,"reading":[{"bits":5,"bytes_per_second":9}],"flops_per_second":null,"missing_operators":["SSM_SCAN_MAMBA1"],"samples":4,"times":{"narrow":3},"improved":true}"#;
        let answer = parse(text, 77).expect("sound");
        let read = &answer.rates;
        assert_eq!(
            (read.layer_ns, read.flops_per_second, read.measured_unix_s),
            (7, None, 77)
        );
        assert_eq!(answer.times["narrow"], 3, "is given back as it came");
        assert_eq!(
            read.missing_operators.as_deref(),
            Some(&["SSM_SCAN_MAMBA1".to_owned()][..])
        );
        for unsound in [
            &b"nonsense"[..],
            br#"{"step_ns":5,"layer_ns":7,"reading":[],"samples":4,"times":{},"improved":false}"#,
            br#"{"step_ns":5,"layer_ns":7,"reading":[{"bits":5,"bytes_per_second":0}],"samples":4,"times":{},"improved":false}"#,
        ] {
            assert!(parse(unsound, 1).is_err());
        }
    }
}
