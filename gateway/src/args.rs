//! Flags and environment, read once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lifecycle::log;
pub use lifecycle::usage::EXIT_BAD_CONFIGURATION;
use lifecycle::usage::tell;

use crate::context::{Limits, MAX_ANSWERS};

/// Name of the tokeniser's executable, looked for beside our own.
const TOKENIZER: &str = "shardwright-tokenizer";

/// Serves the OpenAI API for the models of a cluster.
#[derive(Debug, Parser)]
#[command(name = "shardwright-gateway", version)]
struct Flags {
    /// Name of this pod; a stored identity of another one is not used.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// Namespace of this pod, for the log.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: Option<String>,
    /// The operator's enrolment port, host:port.
    #[arg(long)]
    operator_enrol: Option<String>,
    /// The operator's control port, host:port.
    #[arg(long)]
    operator_control: String,
    /// PEM file of the authorities to trust when enrolling.
    #[arg(long)]
    trust_bundle: Option<PathBuf>,
    /// File of the service account token with audience shardwright-enrol.
    #[arg(long)]
    token: Option<PathBuf>,
    /// Directory with leaf.pem, key.pem, bundle.pem and placement.keys, instead of enrolment.
    #[arg(long, conflicts_with_all = ["operator_enrol", "trust_bundle", "token"])]
    identity_dir: Option<PathBuf>,
    /// File of accepted bearer keys, one a line.
    #[arg(long)]
    api_keys: PathBuf,
    /// The tokeniser; by default shardwright-tokenizer beside this executable.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Where vocabularies, the last routes and the identity are kept.
    #[arg(long, default_value = "/var/lib/shardwright-gateway")]
    state_dir: PathBuf,
    /// Address of the HTTPS port for users.
    #[arg(long, default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Certificate chain for the user port, PEM; by default this gateway's own leaf.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of --tls-cert, PEM.
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Address of the HTTPS port for probes and metrics.
    #[arg(long, default_value = "0.0.0.0:9443")]
    admin_listen: SocketAddr,
    /// Answers that one API key may have in progress at once; 429 above that.
    #[arg(long, default_value_t = Limits::default().streams_per_key, value_parser = streams)]
    max_streams_per_key: usize,
    /// Answers that one model may have in progress at once; 429 above that.
    #[arg(long, default_value_t = Limits::default().streams_per_model, value_parser = streams)]
    max_streams_per_model: usize,
    /// Seconds that an answer may take at most, waiting included.
    #[arg(long, default_value_t = Limits::default().request.as_secs(), value_parser = clap::value_parser!(u64).range(1..=86_400))]
    max_request_seconds: u64,
    /// How to write the log.
    #[arg(long, value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
}

fn streams(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MAX_ANSWERS).contains(&number) => Ok(number),
        _ => Err(format!("not a number from 1 to {MAX_ANSWERS}")),
    }
}

/// Where the identity comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// Files that someone else writes and renews.
    Directory(PathBuf),
    /// The operator, for a pod-bound token.
    Enrolment {
        /// `host:port` of the enrolment port.
        endpoint: String,
        /// PEM file of the authorities to trust.
        trust_bundle: PathBuf,
        /// The token's file.
        token: PathBuf,
    },
}

/// Certificate and key for the user port, PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserCertificate {
    /// Leaf first.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// Name of this pod.
    pub pod_name: Option<String>,
    /// Namespace of this pod.
    pub namespace: Option<String>,
    /// Where the identity comes from.
    pub identity: IdentitySource,
    /// `host:port` of the operator's control port.
    pub operator_control: String,
    /// File of accepted bearer keys.
    pub api_keys: PathBuf,
    /// The tokeniser's executable.
    pub tokenizer: PathBuf,
    /// The gateway's own executable, which renders chat templates in a process of its own.
    pub renderer: PathBuf,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Address of the user port.
    pub listen: SocketAddr,
    /// `None`: the gateway's own leaf.
    pub user_certificate: Option<UserCertificate>,
    /// Address of the admin port.
    pub admin_listen: SocketAddr,
    /// How many answers there may be.
    pub limits: Limits,
    /// How to write the log.
    pub log_format: log::Format,
}

impl Args {
    /// Reads flags and environment.
    ///
    /// # Errors
    /// The exit code, after telling the user: 64 for what is wrong, 0 for help.
    pub fn from_environment() -> Result<Self, ExitCode> {
        Flags::try_parse()
            .and_then(Self::validate)
            .map_err(|error| tell(&error))
    }

    fn validate(flags: Flags) -> Result<Self, clap::Error> {
        let Flags {
            pod_name,
            namespace,
            operator_enrol,
            operator_control,
            trust_bundle,
            token,
            identity_dir,
            api_keys,
            tokenizer,
            state_dir,
            listen,
            tls_cert,
            tls_key,
            admin_listen,
            max_streams_per_key,
            max_streams_per_model,
            max_request_seconds,
            log_format,
        } = flags;
        let identity = match (identity_dir, operator_enrol, trust_bundle, token) {
            (Some(directory), ..) => IdentitySource::Directory(directory),
            (None, Some(endpoint), Some(trust_bundle), Some(token)) => IdentitySource::Enrolment {
                endpoint,
                trust_bundle,
                token,
            },
            _ => {
                return Err(wrong(
                    "--operator-enrol, --trust-bundle and --token are needed together, or else --identity-dir",
                ));
            }
        };
        let renderer = std::env::current_exe()
            .map_err(|error| wrong(&format!("the path of this executable is unknown: {error}")))?;
        let tokenizer = tokenizer.unwrap_or_else(|| renderer.with_file_name(TOKENIZER));
        let user_certificate = tls_cert.zip(tls_key).map(|(chain, key)| UserCertificate { chain, key });
        Ok(Self {
            pod_name,
            namespace,
            identity,
            operator_control,
            api_keys,
            tokenizer,
            renderer,
            state_dir,
            listen,
            user_certificate,
            admin_listen,
            limits: Limits {
                streams_per_key: max_streams_per_key,
                streams_per_model: max_streams_per_model,
                request: Duration::from_secs(max_request_seconds),
            },
            log_format,
        })
    }
}

fn wrong(message: &str) -> clap::Error {
    clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, format!("{message}\n"))
}

#[cfg(test)]
mod tests {
    use super::{Args, Flags, IdentitySource, Limits};
    use clap::Parser;

    fn parse(flags: &[&str]) -> Result<Args, clap::Error> {
        let always = [
            "shardwright-gateway",
            "--operator-control",
            "op:9441",
            "--api-keys",
            "/keys",
        ];
        Flags::try_parse_from(always.iter().chain(flags)).and_then(Args::validate)
    }

    #[test]
    fn an_identity_comes_from_a_directory_or_from_enrolment() {
        let args = parse(&["--identity-dir", "/id"]).unwrap();
        assert_eq!(args.identity, IdentitySource::Directory("/id".into()));
        assert!(args.tokenizer.ends_with("shardwright-tokenizer"));
        let args = parse(&["--operator-enrol", "op:9440", "--trust-bundle", "/b", "--token", "/t"]).unwrap();
        assert!(matches!(args.identity, IdentitySource::Enrolment { endpoint, .. } if endpoint == "op:9440"));
    }

    #[test]
    fn limits_are_flags_within_bounds() {
        let parse = |flags: &[&str]| parse(&[&["--identity-dir", "/id"], flags].concat());
        assert_eq!(parse(&[]).unwrap().limits, Limits::default());
        let limits = parse(&["--max-streams-per-key", "3", "--max-streams-per-model", "1024"])
            .unwrap()
            .limits;
        assert_eq!((limits.streams_per_key, limits.streams_per_model), (3, 1024));
        for wrong in [
            ["--max-streams-per-key", "0"],
            ["--max-streams-per-model", "1025"],
            ["--max-request-seconds", "0"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn half_an_identity_is_refused() {
        for flags in [
            &[][..],
            &["--operator-enrol", "op:9440"],
            &["--identity-dir", "/id", "--token", "/t"],
            &["--identity-dir", "/id", "--tls-cert", "/c"],
        ] {
            assert!(parse(flags).is_err(), "{flags:?}");
        }
    }
}
