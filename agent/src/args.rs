//! The command line and the environment, read once and validated; nothing else reads either.

use crate::{models, neighbours, source};
use clap::{Parser, Subcommand};
use crds::names;
use device::{Backend, Platform, Selection};
use lifecycle::log;
pub use lifecycle::usage::EXIT_BAD_CONFIGURATION;
use lifecycle::usage::tell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// A Unix socket's path has at most 107 bytes; the names below the state directory need 26 of them.
const STATE_DIR_BYTES_MAX: usize = 80;
/// More compute threads than any machine has cores.
const THREADS_MAX: u32 = 1024;
/// An hour: within it the largest models are loaded, and no longer grace is given to a pod.
const LEAVE_WITHIN_SECONDS_MAX: u64 = 3600;
/// Between readings of a device: faster than that no driver averages, and slower a fault is seen too late.
const DEVICE_POLL_MS: std::ops::RangeInclusive<u64> = 100..=4000;

#[derive(Debug, Parser)]
#[command(
    name = "shardwright-agent",
    version,
    about = "Reports this node's devices and supervises the shards placed on them.",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Args {
    #[command(subcommand)]
    command: Option<SubCommand>,
    #[command(flatten)]
    run: Option<RunArgs>,
    // Not within `run`: clap does not see that `run` is there when it has parts of its own.
    #[command(flatten)]
    devices: DeviceArgs,
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    neighbours: neighbours::Flags,
}

#[derive(Debug, Subcommand)]
enum SubCommand {
    /// Shows the devices of this machine, verified and measured.
    Probe(ProbeArgs),
    /// Reads a backend's devices again and again, as JSON, until its input closes.
    #[command(hide = true)]
    Watch(WatchArgs),
}

/// What `probe` shall look at, and how it shall say it.
#[derive(Debug, Clone, clap::Args)]
pub struct ProbeArgs {
    /// Answers as JSON, asked in this very process.
    #[arg(long)]
    pub json: bool,
    /// Tells of backends that have nothing to say, too.
    #[arg(long)]
    pub all: bool,
    /// Backends to ask, comma separated: cuda, rocm, intel, vulkan, cpu; default: all of this platform.
    #[arg(long, value_delimiter = ',', default_values_t = default_backends())]
    pub backends: Vec<Backend>,
    /// Bytes of main memory that shards may take at most.
    #[arg(long)]
    pub memory_limit_bytes: Option<u64>,
    /// How long each backend may measure.
    #[arg(long, default_value_t = 10_000)]
    pub measure_budget_ms: u64,
    /// A registry file whose figures are not measured again.
    #[arg(long)]
    pub known: Option<PathBuf>,
    /// Folder that is looked at in the place of /, such as a recorded tree.
    #[arg(long, default_value = "/")]
    pub sysfs_root: PathBuf,
    /// Bus addresses of the cards to ask, comma separated; the others are left alone.
    #[arg(long, default_value_t)]
    pub only: Selection,
    /// Ends when the standard input closes.
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

/// What `watch` shall read.
#[derive(Debug, Clone, clap::Args)]
pub struct WatchArgs {
    /// Whose devices.
    #[arg(long)]
    pub backend: Backend,
    /// From one reading to the next.
    #[arg(long, default_value_t = 2000)]
    pub interval_ms: u64,
    /// Bus addresses of the cards to read, comma separated; the others are left alone.
    #[arg(long, default_value_t)]
    pub only: Selection,
    /// Folder that is looked at in the place of /, such as a recorded tree.
    #[arg(long, default_value = "/")]
    pub sysfs_root: PathBuf,
}

fn default_backends() -> Vec<Backend> {
    Platform::current().order().to_vec()
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Name of the Kubernetes Node this agent speaks for.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Name of this pod; its Lease says who holds it.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pod_name: String,
    /// Namespace of the installation.
    #[arg(long, env = "POD_NAMESPACE", default_value = "shardwright-system")]
    namespace: String,
    /// Enrolment port of the operator, host:port.
    #[arg(long, default_value = "shardwright-operator:9440")]
    operator_enrol: String,
    /// Control port of the operator, host:port.
    #[arg(long, default_value = "shardwright-operator:9441")]
    operator_control: String,
    /// PEM file of the authorities to trust.
    #[arg(long, default_value = "/etc/shardwright/trust/bundle.pem")]
    trust_bundle: PathBuf,
    /// File of the service account token with audience shardwright-enrol.
    #[arg(long, default_value = "/var/run/secrets/shardwright/token")]
    token: PathBuf,
    /// Trust domain of every SPIFFE id.
    #[arg(long, default_value = "shardwright")]
    trust_domain: String,
    /// Where weights, identities and accepted placements are kept.
    #[arg(long, default_value = "/var/lib/shardwright")]
    state_dir: PathBuf,
    /// The worker's executable; default: shardwright-worker beside this one.
    #[arg(long)]
    worker: Option<PathBuf>,
    /// Backends to use, comma separated: cuda, rocm, intel, vulkan, cpu; default: all of this platform.
    #[arg(long, value_delimiter = ',', default_values_t = default_backends())]
    backends: Vec<Backend>,
    /// Address the workers' data plane binds.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen_ip: IpAddr,
    /// Address at which other nodes reach this node's workers.
    #[arg(long, env = "POD_IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    advertise_ip: IpAddr,
    /// Bytes of main memory that shards may take at most; default: what is free at the start, less a reserve.
    #[arg(long)]
    memory_limit_bytes: Option<u64>,
    /// Compute threads of each CPU worker; default: every core.
    #[arg(long)]
    threads: Option<u32>,
    /// Health, readiness and metrics (HTTPS).
    #[arg(long, default_value = "0.0.0.0:9444")]
    admin_listen: SocketAddr,
    /// Tells of NVIDIA's cards once more under the names of NVIDIA's exporter (DCGM_FI_DEV_…), for dashboards that know those.
    #[arg(long)]
    dcgm_metrics: bool,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text")]
    log_format: log::Format,
}

/// Where devices are looked for, and how often.
#[derive(Debug, clap::Args)]
struct DeviceArgs {
    /// Folder in which devices are looked for in the place of /, such as a recorded tree.
    #[arg(long, env = "SYSFS_ROOT", default_value = "/")]
    sysfs_root: PathBuf,
    /// Milliseconds from one reading of the devices to the next.
    #[arg(long, default_value_t = 2000)]
    device_poll_ms: u64,
    /// Seconds that an agent which was told to end waits until what it serves is elsewhere; then it ends its workers.
    #[arg(long, default_value_t = 20)]
    leave_within_seconds: u64,
}

/// Where models come from, and what they may take.
#[derive(Debug, clap::Args)]
struct ModelArgs {
    /// Where other agents read the pieces of models that are here (mutual TLS); port 0 takes a free one.
    #[arg(long, default_value = "0.0.0.0:9445")]
    weights_listen: SocketAddr,
    /// Bytes a second that other agents may read, all together.
    #[arg(long, default_value_t = 128 << 20)]
    weights_bytes_per_second: u64,
    /// Folder with a subfolder for each mounted PersistentVolumeClaim, for pvc:// sources.
    #[arg(long)]
    pvc_root: Option<PathBuf>,
    /// Bytes that models may take on disk before unused ones are removed; default: the two used last are kept.
    #[arg(long)]
    model_cache_bytes: Option<u64>,
    /// Bytes of the disk that fetching leaves free.
    #[arg(long, default_value_t = 256 << 20)]
    disk_reserve_bytes: u64,
    /// Address of the Hugging Face hub, or of a mirror of it.
    #[arg(long, env = "HF_ENDPOINT", default_value = "https://huggingface.co")]
    hf_endpoint: String,
    /// Proxy for sources that are read by HTTPS.
    #[arg(long, env = "HTTPS_PROXY", hide_env_values = true)]
    https_proxy: Option<String>,
    /// Hosts that are reached without it, comma separated.
    #[arg(long, env = "NO_PROXY")]
    no_proxy: Option<String>,
}

/// What the process was asked to do.
#[derive(Debug)]
pub enum Command {
    /// Show devices and end.
    Probe(ProbeArgs),
    /// Read devices until the parent ends.
    Watch(WatchArgs),
    /// Be the node's agent.
    Run(Box<Settings>),
}

/// Everything the agent was told, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Node this agent speaks for.
    pub node: String,
    /// This pod's name, or the node's where there is none.
    pub pod: String,
    /// Namespace of the installation.
    pub namespace: String,
    /// Operator's enrolment port, host:port.
    pub operator_enrol: String,
    /// Operator's control port, host:port.
    pub operator_control: String,
    /// PEM of the authorities to trust.
    pub trust_bundle: PathBuf,
    /// Enrolment token.
    pub token: PathBuf,
    /// Trust domain of every SPIFFE id.
    pub trust_domain: String,
    /// Root of what is kept on disk.
    pub state_dir: PathBuf,
    /// Executable of the workers.
    pub worker: PathBuf,
    /// Backends to use, each once.
    pub backends: Vec<Backend>,
    /// "/" but in tests.
    pub sysfs_root: PathBuf,
    /// From one reading of the devices to the next.
    pub device_poll: Duration,
    /// How long an agent that was told to end waits until what it serves is elsewhere.
    pub leave_within: Duration,
    /// How devices are used that the cluster gives out, and who tells to whom it gave them.
    pub neighbours: neighbours::Flags,
    /// Address the workers bind.
    pub listen_ip: IpAddr,
    /// Address the workers are reached at.
    pub advertise_ip: IpAddr,
    /// Most of main memory that shards may take.
    pub memory_limit_bytes: Option<u64>,
    /// Compute threads of each CPU worker.
    pub threads: u32,
    /// Health and metrics port.
    pub admin_listen: SocketAddr,
    /// Whether metrics have NVIDIA's names, too.
    pub dcgm_metrics: bool,
    /// Where models come from, and what they may take.
    pub models: models::Setting,
    /// Where pieces are served to other agents.
    pub weights_listen: SocketAddr,
    /// How fast, over all callers.
    pub weights_bytes_per_second: u64,
    /// How log lines look.
    pub log_format: log::Format,
}

/// Reads the process's arguments and environment. On bad configuration the reason is on stderr and the exit code is
/// [`EXIT_BAD_CONFIGURATION`]; `--help` and `--version` end with success.
///
/// # Errors
/// The exit code to end with.
pub fn from_process() -> Result<Command, ExitCode> {
    let args = Args::try_parse().map_err(|error| tell(&error))?;
    command(args).map_err(|reason| {
        eprintln!("shardwright-agent: {reason}");
        ExitCode::from(EXIT_BAD_CONFIGURATION)
    })
}

fn command(args: Args) -> Result<Command, String> {
    match (args.command, args.run) {
        (Some(SubCommand::Probe(probe)), _) => Ok(Command::Probe(probe)),
        (Some(SubCommand::Watch(watch)), _) => {
            device_poll("--interval-ms", watch.interval_ms)?;
            Ok(Command::Watch(watch))
        }
        (None, Some(run)) => {
            let settings = Settings::validate(run, args.devices, &args.models, args.neighbours)?;
            Ok(Command::Run(Box::new(settings)))
        }
        (None, None) => {
            Err("--node-name (or NODE_NAME) is missing; it names the Node this agent speaks for".to_owned())
        }
    }
}

impl Settings {
    fn validate(
        args: RunArgs,
        devices: DeviceArgs,
        models: &ModelArgs,
        neighbours: neighbours::Flags,
    ) -> Result<Self, String> {
        dns_name("--node-name", &args.node_name)?;
        dns_name("--namespace", &args.namespace)?;
        dns_name("--trust-domain", &args.trust_domain)?;
        let pod = if args.pod_name.is_empty() {
            args.node_name.clone()
        } else {
            args.pod_name
        };
        dns_name("--pod-name", &pod)?;
        host_port("--operator-enrol", &args.operator_enrol)?;
        host_port("--operator-control", &args.operator_control)?;
        let state_dir = std::path::absolute(&args.state_dir).map_err(|error| {
            format!(
                "--state-dir {} cannot be made absolute: {error}",
                args.state_dir.display()
            )
        })?;
        let length = state_dir.as_os_str().len();
        if length > STATE_DIR_BYTES_MAX {
            return Err(format!(
                "--state-dir {} has {length} bytes; use at most {STATE_DIR_BYTES_MAX}, because the workers' sockets live below it",
                state_dir.display()
            ));
        }
        let mut backends = args.backends;
        backends.sort();
        backends.dedup();
        if backends.is_empty() {
            return Err("--backends names none; cpu is always there".to_owned());
        }
        absolute("--sysfs-root", &devices.sysfs_root)?;
        let threads = args
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32));
        if threads == 0 || threads > THREADS_MAX {
            return Err(format!("--threads is {threads}; use 1 to {THREADS_MAX}"));
        }
        Ok(Self {
            node: args.node_name,
            pod,
            namespace: args.namespace,
            operator_enrol: args.operator_enrol,
            operator_control: args.operator_control,
            trust_bundle: args.trust_bundle,
            token: args.token,
            trust_domain: args.trust_domain,
            models: model_setting(models, state_dir.join("models"))?,
            weights_listen: models.weights_listen,
            weights_bytes_per_second: models.weights_bytes_per_second,
            state_dir,
            worker: args.worker.map_or_else(worker_beside_us, Ok)?,
            backends,
            sysfs_root: devices.sysfs_root,
            device_poll: device_poll("--device-poll-ms", devices.device_poll_ms)?,
            leave_within: leave_within("--leave-within-seconds", devices.leave_within_seconds)?,
            neighbours,
            listen_ip: args.listen_ip,
            advertise_ip: args.advertise_ip,
            memory_limit_bytes: args.memory_limit_bytes,
            threads,
            admin_listen: args.admin_listen,
            dcgm_metrics: args.dcgm_metrics,
            log_format: args.log_format,
        })
    }
}

fn model_setting(args: &ModelArgs, root: PathBuf) -> Result<models::Setting, String> {
    if !args.hf_endpoint.starts_with("https://") {
        return Err(format!("--hf-endpoint is {:?}; use https://host", args.hf_endpoint));
    }
    if args.weights_bytes_per_second == 0 {
        return Err("--weights-bytes-per-second is 0; use 1 or more".to_owned());
    }
    if let Some(root) = &args.pvc_root {
        absolute("--pvc-root", root)?;
    }
    let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Ok(models::Setting {
        root,
        sources: source::Setting {
            pvc_root: args.pvc_root.clone(),
            hf_endpoint: args.hf_endpoint.clone(),
            https_proxy: some(&args.https_proxy),
            no_proxy: some(&args.no_proxy),
            patience: source::Patience::default(),
        },
        cache_bytes: args.model_cache_bytes,
        disk_reserve_bytes: args.disk_reserve_bytes,
    })
}

fn absolute(flag: &str, path: &Path) -> Result<(), String> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(format!("{flag} is {}; use an absolute path", path.display()))
}

fn worker_beside_us() -> Result<PathBuf, String> {
    std::env::current_exe()
        .map(|own| own.with_file_name("shardwright-worker"))
        .map_err(|error| format!("--worker is not given and our own path is unknown: {error}"))
}

fn device_poll(flag: &str, milliseconds: u64) -> Result<Duration, String> {
    if DEVICE_POLL_MS.contains(&milliseconds) {
        Ok(Duration::from_millis(milliseconds))
    } else {
        let (least, most) = (DEVICE_POLL_MS.start(), DEVICE_POLL_MS.end());
        Err(format!("{flag} is {milliseconds}; use {least} to {most}"))
    }
}

fn leave_within(flag: &str, seconds: u64) -> Result<Duration, String> {
    if seconds <= LEAVE_WITHIN_SECONDS_MAX {
        Ok(Duration::from_secs(seconds))
    } else {
        Err(format!("{flag} is {seconds}; use at most {LEAVE_WITHIN_SECONDS_MAX}"))
    }
}

fn host_port(flag: &str, text: &str) -> Result<(), String> {
    let sound = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    if sound {
        Ok(())
    } else {
        Err(format!("{flag} is {text:?}; use host:port"))
    }
}

fn dns_name(flag: &str, name: &str) -> Result<(), String> {
    if names::is_dns_name(name, names::MAX_NAME_BYTES) {
        return Ok(());
    }
    Err(format!(
        "{flag} is {name:?}; use lower-case letters, digits, '-' and '.', at most {} characters",
        names::MAX_NAME_BYTES
    ))
}

#[cfg(test)]
mod tests;
