//! The agent's life with devices: how soon they are ready, what reading them costs, what the agent weighs. The cards are
//! fake vendor libraries ([`fakegpu`]) behind the real loader, probe and watch processes; no operator and no API server.

pub mod process;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use fakegpu::{Library, SCRIPT_VARIABLE, Script};
use serde_json::json;

use crate::error::{Result, failed, trying};
use crate::report::{Report, ratio};
use process::{cpu_seconds, rss_mib};

/// What the agent says once every device has been verified.
const READY: &str = "devices are ready";
/// Longer than any bar; then something is wrong.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Long enough for ten readings of each card, and for the clock ticks in which the kernel counts.
const POLL_FOR: Duration = Duration::from_secs(20);
/// Between two measurements the agent pauses for less.
const SETTLED_AFTER: Duration = Duration::from_secs(8);
/// The measurements that follow readiness are over by then.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
const CARDS: [u32; 3] = [1, 8, 16];
/// Of which the cost of reading is told.
const POLLED_CARDS: u32 = 8;

/// Measures all of it, `rounds` times; the best counts.
///
/// # Errors
/// The fakes cannot be built, or an agent does not become ready.
pub fn measure(agent: &Path, rounds: usize, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir().map_err(trying("a temporary directory"))?;
    let libraries = directory.path().join("libraries");
    std::fs::create_dir(&libraries).map_err(trying("a folder for libraries"))?;
    fakegpu::build(&libraries, &[Library::Nvml, Library::Cuda]).map_err(trying("the fake libraries"))?;
    for cards in CARDS {
        let mut all_ms = Vec::new();
        for round in 0..rounds.max(1) {
            let place = directory.path().join(format!("{cards}-{round}"));
            let mut node = Node::start(agent, &libraries, &place, cards)?;
            all_ms.push(node.ready()?.as_secs_f64() * 1000.0);
            if cards == POLLED_CARDS && round == 0 {
                polling(&mut node, report)?;
            }
        }
        println!("{cards} cards: ready after {all_ms:.0?} ms");
        let best = all_ms.iter().copied().fold(f64::INFINITY, f64::min);
        report.set(&format!("ready_ms.{cards}"), Some(best.round()));
        report.figures(&format!("ready_ms_{cards}"), json!(all_ms));
    }
    let (ours, memcpy) = device::cpu::copy_vs_memcpy(Path::new("/")).map_err(trying("copies on the CPU"))?;
    let (ours, memcpy) = (ours as f64, memcpy as f64);
    println!(
        "copies on the CPU: {:.1} GB/s, memcpy {:.1} GB/s",
        ours / 1e9,
        memcpy / 1e9
    );
    report.set("cpu_copy_vs_memcpy", ratio(ours, memcpy));
    Ok(())
}

/// What an agent costs that only watches its cards.
fn polling(node: &mut Node, report: &mut Report) -> Result<()> {
    node.settle()?;
    let pid = node.child.id();
    let (start, before) = (Instant::now(), cpu_seconds(pid)?);
    std::thread::sleep(POLL_FOR);
    let fraction = (cpu_seconds(pid)? - before) / start.elapsed().as_secs_f64();
    let rss = rss_mib(pid)?;
    println!(
        "reading {POLLED_CARDS} cards: {:.2} % of a core, the agent has {rss:.0} MiB",
        fraction * 100.0
    );
    report.set("poll_cpu_fraction_8", Some(fraction));
    report.set("agent_rss_mib", Some(rss));
    Ok(())
}

/// An agent on a node of fake cards. It ends when this is dropped.
struct Node {
    child: Child,
    log: Receiver<String>,
    started: Instant,
    log_file: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    fn start(agent: &Path, libraries: &Path, place: &Path, cards: u32) -> Result<Self> {
        std::fs::create_dir(place).map_err(trying(place.display().to_string()))?;
        let mut script = Script::create(place.join("script")).map_err(trying("a script"))?;
        script.set([("cards", cards.to_string())]).map_err(trying("a script"))?;
        let started = Instant::now();
        let mut child = Command::new(agent)
            .args([
                "--node-name",
                "bench",
                "--backends",
                "cuda",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .args(["--weights-listen", "127.0.0.1:0"])
            .args(["--operator-enrol", "127.0.0.1:1", "--operator-control", "127.0.0.1:1"])
            .args(["--trust-bundle", "/nonexistent", "--token", "/nonexistent"])
            .arg("--state-dir")
            .arg(place.join("state"))
            .env("KUBECONFIG", "/nonexistent")
            .env("LD_LIBRARY_PATH", libraries)
            .env(SCRIPT_VARIABLE, script.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(trying(format!("starting {}", agent.display())))?;
        let stderr = child
            .stderr
            .take()
            .ok_or_else(|| failed("the agent", "started without pipes"))?;
        let (lines, log) = channel();
        let log_file = place.join("agent.log");
        // Ends with the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            log,
            started,
            log_file,
        })
    }

    /// From the start until every device was verified.
    fn ready(&mut self) -> Result<Duration> {
        let mut said = Vec::new();
        loop {
            let left = READY_LIMIT.saturating_sub(self.started.elapsed());
            match self.log.recv_timeout(left) {
                Ok(line) if line.contains(READY) => return Ok(self.started.elapsed()),
                Ok(line) => said.push(line),
                Err(error) => {
                    // The log is for the reader of the error; without it the error still stands.
                    let _ = std::fs::write(&self.log_file, said.join("\n"));
                    let what = match error {
                        RecvTimeoutError::Timeout => "is not ready in time",
                        RecvTimeoutError::Disconnected => "ended",
                    };
                    return Err(failed("the agent", format!("{what}; it said:\n{}", said.join("\n"))));
                }
            }
        }
    }

    /// Until nothing is measured any more: for a while, no probe has run beside the watcher.
    fn settle(&mut self) -> Result<()> {
        let start = Instant::now();
        let mut quiet_since = start;
        while quiet_since.elapsed() < SETTLED_AFTER {
            let probing = process::children(self.child.id())?
                .iter()
                .any(|pid| process::arguments(*pid).iter().any(|argument| argument == "probe"));
            if probing {
                quiet_since = Instant::now();
            }
            if start.elapsed() > SETTLE_LIMIT {
                return Err(failed("the agent", "still measures after a minute"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}
