//! The command line and the environment, read once and validated; nothing else reads either.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use crds::names::{MAX_LABEL_BYTES, MAX_NAME_BYTES, is_dns_name};
use identity::SubjectName;
use lifecycle::log;
pub use lifecycle::usage::EXIT_BAD_CONFIGURATION;
use lifecycle::usage::tell;

use crate::model::gain::Threshold;
use crate::model::quarantine::Limit;
use crate::reservation::{self, Count};

/// Shorter leases would be lost to an ordinary pause of the API server.
const LEASE_SECONDS_MIN: u64 = 3;
/// Longer leases would leave the cluster without a leader for minutes after a crash.
const LEASE_SECONDS_MAX: u64 = 300;
/// A week: whoever wants to wait for longer wants no moves at all.
const MOVE_AFTER_SECONDS_MAX: u64 = 7 * 24 * 3600;

#[derive(Debug, Parser)]
#[command(
    name = "shardwright-operator",
    version,
    about = "Decides where every layer of every model runs, and publishes it."
)]
struct Args {
    /// Namespace of the installation: Secrets, Leases, agents and gateways live here.
    #[arg(long, env = "POD_NAMESPACE", default_value = "shardwright-system")]
    namespace: String,
    /// Name of this pod: its identity in the lease and in its certificate.
    #[arg(long, env = "POD_NAME")]
    pod_name: String,
    /// Enrolment (TLS without a client certificate).
    #[arg(long, default_value = "0.0.0.0:9440")]
    enrol_listen: SocketAddr,
    /// Agents and gateways (mutual TLS).
    #[arg(long, default_value = "0.0.0.0:9441")]
    control_listen: SocketAddr,
    /// Health, readiness and metrics (HTTPS).
    #[arg(long, default_value = "0.0.0.0:9442")]
    admin_listen: SocketAddr,
    /// Trust domain of every SPIFFE id.
    #[arg(long, default_value = "shardwright")]
    trust_domain: String,
    /// DNS names and IP addresses in the operator's certificate; default: its Service's names and loopback.
    #[arg(long, value_delimiter = ',')]
    server_names: Vec<String>,
    /// DNS names and IP addresses in gateways' certificates; default: their Service's names and loopback.
    #[arg(long, value_delimiter = ',')]
    gateway_names: Vec<String>,
    /// Seconds after which a silent leader may be replaced.
    #[arg(long, default_value_t = 15)]
    lease_seconds: u64,
    /// A model that serves is moved to a better place only where a token takes this much less time there, in per cent.
    #[arg(long, default_value_t = 15)]
    move_gain_percent: u32,
    /// And only after the better place has been there for so many seconds.
    #[arg(long, default_value_t = 600)]
    move_after_seconds: u64,
    /// Of the devices in service, at most this part is left within five minutes on the word of agents alone, in per cent; where more
    /// are judged unfit, what serves on them stays until a person decides. 100 leaves all, 0 none.
    #[arg(long, default_value_t = 50)]
    quarantine_limit_percent: u32,
    #[command(flatten)]
    reservation: ReservationArgs,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text")]
    log_format: log::Format,
}

/// How devices are had on nodes where a device plugin gives them out.
#[derive(Debug, clap::Args)]
struct ReservationArgs {
    /// reserve: pods of ours hold devices for the agents. share: agents use what no pod was given, and no pod holds any.
    #[arg(long, value_enum, default_value = "reserve")]
    device_sharing: Sharing,
    /// Devices of each resource that are held on each node: all, or a number.
    #[arg(long, default_value = "all")]
    device_reserve: Count,
    /// Image of a process that does nothing, for the pods that hold devices.
    #[arg(long, default_value = "registry.k8s.io/pause:3.10.1")]
    reservation_image: String,
    /// PriorityClass of those pods, below every ordinary pod's.
    #[arg(long, default_value = "")]
    reservation_priority_class: String,
    /// The operator's own Deployment, which owns those pods.
    #[arg(long, default_value = "shardwright-operator")]
    deployment: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sharing {
    Reserve,
    Share,
}

/// Everything the operator was told, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Namespace of the installation.
    pub namespace: String,
    /// This pod's name.
    pub pod_name: String,
    /// Enrolment port.
    pub enrol_listen: SocketAddr,
    /// Agents' and gateways' port.
    pub control_listen: SocketAddr,
    /// Health and metrics port.
    pub admin_listen: SocketAddr,
    /// Trust domain of every SPIFFE id.
    pub trust_domain: String,
    /// What is worth moving a model that serves.
    pub threshold: Threshold,
    /// How many devices may be left within minutes.
    pub quarantine: Limit,
    /// Names in the operator's own certificate.
    pub server_names: Vec<SubjectName>,
    /// Names in gateways' certificates.
    pub gateway_names: Vec<SubjectName>,
    /// How long a lease holds without being renewed.
    pub lease: Duration,
    /// Pods that hold devices.
    pub reservation: reservation::Settings,
    /// How log lines look.
    pub log_format: log::Format,
}

impl Settings {
    /// Reads the process's arguments and environment. On bad configuration the reason is on stderr and the exit code
    /// is [`EXIT_BAD_CONFIGURATION`]; `--help` and `--version` end with success.
    pub fn from_process() -> Result<Self, ExitCode> {
        let args = Args::try_parse().map_err(|error| tell(&error))?;
        Self::validate(args).map_err(|reason| {
            eprintln!("shardwright-operator: {reason}");
            ExitCode::from(EXIT_BAD_CONFIGURATION)
        })
    }

    fn validate(args: Args) -> Result<Self, String> {
        let Args {
            namespace,
            pod_name,
            enrol_listen,
            control_listen,
            admin_listen,
            trust_domain,
            server_names,
            gateway_names,
            lease_seconds,
            move_gain_percent,
            move_after_seconds,
            quarantine_limit_percent,
            reservation,
            log_format,
        } = args;
        dns_name("--namespace", &namespace, MAX_LABEL_BYTES)?;
        dns_name("--pod-name", &pod_name, MAX_NAME_BYTES)?;
        dns_name("--trust-domain", &trust_domain, MAX_NAME_BYTES)?;
        if !(LEASE_SECONDS_MIN..=LEASE_SECONDS_MAX).contains(&lease_seconds) {
            return Err(format!(
                "--lease-seconds is {lease_seconds}; use {LEASE_SECONDS_MIN} to {LEASE_SECONDS_MAX} seconds"
            ));
        }
        if !(1..=99).contains(&move_gain_percent) || move_after_seconds > MOVE_AFTER_SECONDS_MAX {
            return Err(format!(
                "--move-gain-percent is {move_gain_percent} and --move-after-seconds {move_after_seconds}; use 1 to 99 per cent and \
                 at most {MOVE_AFTER_SECONDS_MAX} seconds"
            ));
        }
        if quarantine_limit_percent > 100 {
            return Err(format!(
                "--quarantine-limit-percent is {quarantine_limit_percent}; use 0 to 100 per cent of the devices"
            ));
        }
        Ok(Self {
            quarantine: Limit {
                percent: quarantine_limit_percent,
            },
            threshold: Threshold {
                percent: move_gain_percent,
                lasting: Duration::from_secs(move_after_seconds),
            },
            server_names: names("--server-names", server_names, "shardwright-operator", &namespace)?,
            gateway_names: names("--gateway-names", gateway_names, "shardwright-gateway", &namespace)?,
            lease: Duration::from_secs(lease_seconds),
            reservation: reserving(reservation, &namespace)?,
            namespace,
            pod_name,
            enrol_listen,
            control_listen,
            admin_listen,
            trust_domain,
            log_format,
        })
    }
}

#[cfg(test)]
impl Settings {
    /// Of these arguments, beside the ones that have to be there.
    pub(crate) fn of(arguments: &[&str]) -> Result<Self, String> {
        let full = ["shardwright-operator", "--pod-name", "operator-0"]
            .iter()
            .chain(arguments);
        Self::validate(Args::try_parse_from(full).map_err(|error| error.to_string())?)
    }
}

fn reserving(args: ReservationArgs, namespace: &str) -> Result<reservation::Settings, String> {
    dns_name("--deployment", &args.deployment, MAX_NAME_BYTES)?;
    if !args.reservation_priority_class.is_empty() {
        dns_name(
            "--reservation-priority-class",
            &args.reservation_priority_class,
            MAX_NAME_BYTES,
        )?;
    }
    if args.reservation_image.is_empty() {
        return Err("--reservation-image is empty; name an image of a process that does nothing".to_owned());
    }
    Ok(reservation::Settings {
        enabled: args.device_sharing == Sharing::Reserve,
        count: args.device_reserve,
        namespace: namespace.to_owned(),
        image: args.reservation_image,
        priority_class: args.reservation_priority_class,
        deployment: args.deployment,
    })
}

fn names(flag: &str, given: Vec<String>, service: &str, namespace: &str) -> Result<Vec<SubjectName>, String> {
    let given = if given.is_empty() {
        vec![
            service.to_owned(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
        ]
    } else {
        given
    };
    given
        .into_iter()
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => Ok(SubjectName::Ip(address)),
            Err(_) => dns_name(flag, &name, MAX_NAME_BYTES).map(|()| SubjectName::Dns(name)),
        })
        .collect()
}

fn dns_name(flag: &str, name: &str, longest: usize) -> Result<(), String> {
    if is_dns_name(name, longest) {
        return Ok(());
    }
    Err(format!(
        "{flag} is {name:?}, which is no DNS name; use lower-case letters, digits, '-' and '.', at most {longest} characters"
    ))
}

#[cfg(test)]
mod tests;
