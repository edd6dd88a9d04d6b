//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// `EX_USAGE`.
const EXIT_USAGE: u8 = 64;

/// Looks at models and pins their weights for Shardwright, shows the cluster as placement sees it, and asks for another authority.
#[derive(Debug, Parser)]
#[command(name = "kubectl-shardwright", version, arg_required_else_help = true)]
pub struct Args {
    /// How to write the result.
    #[arg(short = 'O', long, global = true, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// What the tool works on.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// GGUF models: make and check weight indexes, show what a model is.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Shows devices, memory and measured links as placement sees them: totals, what is left out and why, the slowest links, devices that
    /// may work as one.
    ///
    /// Asks kubectl for the objects that agents write.
    Topology(TopologyArgs),
    /// Shows where the layers of models run: each stage's predicted time for a token beside the measured one, and what a prompt takes.
    ///
    /// Asks kubectl for the InferenceModels.
    Plan(PlanArgs),
    /// The authority whose certificates all parts of the installation know each other by: how far another one has come in taking its
    /// place, and asking for that.
    #[command(subcommand)]
    Authority(AuthorityCommand),
}

/// What can be done with the authority.
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Asks for another authority, and returns. Nothing is disconnected while it takes the place of the present one, which takes some
    /// minutes.
    ///
    /// Has kubectl set an annotation of the ConfigMap shardwright-trust.
    Rotate(InstallationArgs),
    /// Shows in which phase the authority is, since when, and for whom the next phase waits.
    ///
    /// Asks kubectl for the ConfigMap shardwright-trust.
    Status(InstallationArgs),
}

/// Of `authority`.
#[derive(Debug, ClapArgs)]
pub struct InstallationArgs {
    /// The installation's namespace.
    #[arg(short = 'n', long, default_value = "shardwright-system")]
    pub namespace: String,
}

/// Of `plan`.
#[derive(Debug, ClapArgs)]
pub struct PlanArgs {
    /// Name of an InferenceModel. Default: all.
    pub model: Option<String>,
    /// Its namespace. Default: all.
    #[arg(short = 'n', long)]
    pub namespace: Option<String>,
    /// A List in JSON instead of kubectl's answer, as `kubectl get im -A -o json` prints it; `-` for standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Of `topology`.
#[derive(Debug, ClapArgs)]
pub struct TopologyArgs {
    /// A List in JSON instead of kubectl's answer, as `kubectl get gpu,links -o json` prints it; `-` for standard input.
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// What can be done with a model.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Makes the weight index that lets each node fetch and check only its own layers.
    ///
    /// Reads the whole model once and writes `<first file>.index.json`, to lie beside the model. Prints the lines that pin
    /// the model in an InferenceModel.
    Index(IndexArgs),
    /// Checks every tensor of a model on disk against its weight index, and names those that are wrong.
    Verify(VerifyArgs),
    /// Shows architecture, layers and sizes of a model on disk, and where it may be cut.
    Show(ShowArgs),
}

/// Of `model index`.
#[derive(Debug, ClapArgs)]
pub struct IndexArgs {
    /// The model's first or only .gguf file: a path, file:///…, https://… or hf://<org>/<repo>/<file>[@revision].
    pub model: String,
    /// Where to write the index; `-` for standard output. Default: beside a local model, else in the current folder.
    #[arg(short = 'o', long = "to", value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// How to reach a model on a server.
    #[command(flatten)]
    pub access: AccessArgs,
}

/// How to reach a server.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct AccessArgs {
    /// Bearer token, sent to the host of the URI alone.
    #[arg(long, env = "SHARDWRIGHT_SOURCE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// PEM file of authorities to trust beside the system's.
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Where hf:// models are.
    #[arg(
        long,
        env = "HF_ENDPOINT",
        default_value = "https://huggingface.co",
        value_name = "URL"
    )]
    pub hf_endpoint: String,
}

/// Of `model verify`.
#[derive(Debug, ClapArgs)]
pub struct VerifyArgs {
    /// The model's first or only .gguf file.
    pub model: PathBuf,
    /// The weight index. Default: `<first file>.index.json` beside the model.
    #[arg(long, value_name = "FILE")]
    pub index: Option<PathBuf>,
    /// The SHA-256 that the index must have, as in spec.source.indexSha256.
    #[arg(long, value_name = "SHA256")]
    pub index_sha256: Option<gguf::Digest>,
}

/// Of `model show`.
#[derive(Debug, ClapArgs)]
pub struct ShowArgs {
    /// The model's first or only .gguf file.
    pub model: PathBuf,
}

/// Reads the command line.
///
/// # Errors
/// The exit code, after telling the user: 64 for what is wrong, 0 for help.
pub fn read() -> Result<Args, ExitCode> {
    Args::try_parse().map_err(|error| {
        // Nothing to be done if not even that can be written.
        let _ = error.print();
        if error.use_stderr() {
            ExitCode::from(EXIT_USAGE)
        } else {
            ExitCode::SUCCESS
        }
    })
}
