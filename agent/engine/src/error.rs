//! What can go wrong with a runtime or a stage.

use std::path::PathBuf;

/// The static category of an [`EngineError`]: metric label, event reason and exit code follow from
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The processor lacks an instruction set that the build needs.
    Cpu,
    /// A backend module or device is not there, or not usable.
    Device,
    /// The configuration contradicts itself or the model.
    Config,
    /// llama.cpp refused the files or could not hold them.
    Weights,
    /// The caller's step or removal does not fit the stage; the stage is as it was.
    Request,
    /// A decode failed; the stage is as it was.
    Compute,
    /// A decode failed and could not be undone; only a new stage helps.
    Broken,
}

/// An error of the runtime or of a stage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The processor is older than x86-64-v3.
    #[error("this processor lacks {missing}: the engine needs x86-64-v3; use a node that has it")]
    UnsupportedCpu {
        /// Names of the missing instruction sets.
        missing: String,
    },
    /// A backend module is not beside the executable, or does not start.
    #[error(
        "backend {backend}: {cause}; its driver must be on the node, and its module, which hack/build-backend.sh {backend} builds, beside the executable or in the folder that {} names",
        crate::runtime::BACKEND_DIR_VARIABLE
    )]
    BackendUnavailable {
        /// Backend name in lower case.
        backend: String,
        /// Why.
        cause: String,
    },
    /// No such device on the loaded backends.
    #[error("{backend} device {index} is not there; found: {found}")]
    DeviceUnavailable {
        /// Backend name in lower case.
        backend: String,
        /// The index that was asked for.
        index: u32,
        /// The devices there are.
        found: String,
    },
    /// The Vulkan device, or one of several, was not named before the backend was loaded.
    #[error(
        "Vulkan device {wanted} was not selected (it is \"{selected}\"): call select_device first thing in main, or start the process with {variable}={wanted}"
    )]
    DeviceNotSelected {
        /// The indices that were asked for, separated by commas.
        wanted: String,
        /// What the environment says.
        selected: String,
        /// Name of the environment variable.
        variable: &'static str,
    },
    /// The configuration contradicts itself or the model.
    #[error("bad stage configuration: {cause}")]
    BadConfig {
        /// What contradicts what.
        cause: String,
    },
    /// llama.cpp refused the slice.
    #[error("cannot load {}: {cause}", file.display())]
    LoadRefused {
        /// The first file of the slice.
        file: PathBuf,
        /// llama.cpp's account.
        cause: String,
    },
    /// No context could be made, as a rule for lack of memory.
    #[error("cannot make a context of {cells} cells: {cause}; lower contextLength or parallelSequences")]
    ContextRefused {
        /// Cells of the KV cache that were asked for.
        cells: u64,
        /// llama.cpp's account.
        cause: String,
    },
    /// The step has no row, or more than one decode takes.
    #[error("a step of {rows} rows: it must have 1 to {limit}")]
    StepSize {
        /// Rows of the step.
        rows: usize,
        /// Most rows of a step.
        limit: usize,
    },
    /// A buffer of the step has the wrong length.
    #[error("{what} of the step has {actual} entries, not {expected}")]
    StepShape {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        actual: usize,
        /// The length that the rows ask for.
        expected: usize,
    },
    /// A sequence id beyond the number of parallel sequences.
    #[error("sequence {sequence} is not below {limit}")]
    UnknownSequence {
        /// The sequence id.
        sequence: u32,
        /// Number of parallel sequences.
        limit: u32,
    },
    /// A row is not the next one of its sequence.
    #[error("position {position} of sequence {sequence} does not follow: the next is {expected}")]
    DoesNotFollow {
        /// The sequence id.
        sequence: u32,
        /// The position that was sent.
        position: u32,
        /// The position that follows.
        expected: u32,
    },
    /// The sequence has reached its context length.
    #[error("sequence {sequence} has reached its context length of {context_length}")]
    ContextFull {
        /// The sequence id.
        sequence: u32,
        /// Positions per sequence.
        context_length: u32,
    },
    /// The cache has no cell left for the rows; the stage is as it was.
    #[error(
        "{rows} rows do not fit into {free} free cells of the KV cache: {cause}; end sequences, evict prefixes, or raise kvCacheTokens"
    )]
    KvFull {
        /// Rows of the step.
        rows: u32,
        /// Cells that no sequence holds.
        free: u32,
        /// Why there are no more.
        cause: String,
    },
    /// A prefix that cannot be shared; the stage is as it was.
    #[error("cannot give sequence {to} the first {end} positions of sequence {from}: {cause}")]
    PrefixRefused {
        /// The sequence that has them.
        from: u32,
        /// The sequence that should.
        to: u32,
        /// How many.
        end: u32,
        /// Why not.
        cause: String,
    },
    /// A removal that is not a suffix of the sequence.
    #[error("cannot remove {from}..{end} of sequence {sequence} ({length} long): only a suffix can go")]
    NotASuffix {
        /// The sequence id.
        sequence: u32,
        /// First position to remove.
        from: u32,
        /// First position to keep again.
        end: u32,
        /// Positions held.
        length: u32,
    },
    /// llama.cpp failed to decode; the rows were taken back.
    #[error("decode of {rows} rows failed and was rolled back: {cause}")]
    DecodeFailed {
        /// Rows of the step.
        rows: usize,
        /// llama.cpp's account.
        cause: String,
    },
    /// The stage's cache no longer matches its bookkeeping.
    #[error("the stage is broken ({cause}): unload it and load it again")]
    Broken {
        /// What could not be undone.
        cause: String,
    },
}

impl EngineError {
    /// Whether it is for lack of memory, on the host or the device, that a stage could not be loaded. Told by llama.cpp's
    /// words, which name what it "failed to allocate" or was "unable to allocate".
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::LoadRefused { cause, .. } | Self::ContextRefused { cause, .. } => {
                cause.contains("allocate") || cause.contains("bad_alloc")
            }
            _ => false,
        }
    }

    /// The static category.
    pub fn fault(&self) -> Fault {
        match self {
            Self::UnsupportedCpu { .. } => Fault::Cpu,
            Self::BackendUnavailable { .. } | Self::DeviceUnavailable { .. } | Self::DeviceNotSelected { .. } => {
                Fault::Device
            }
            Self::BadConfig { .. } => Fault::Config,
            Self::LoadRefused { .. } | Self::ContextRefused { .. } => Fault::Weights,
            Self::StepSize { .. }
            | Self::StepShape { .. }
            | Self::UnknownSequence { .. }
            | Self::DoesNotFollow { .. }
            | Self::ContextFull { .. }
            | Self::KvFull { .. }
            | Self::PrefixRefused { .. }
            | Self::NotASuffix { .. } => Fault::Request,
            Self::DecodeFailed { .. } => Fault::Compute,
            Self::Broken { .. } => Fault::Broken,
        }
    }
}
