//! A shard as numbers: one slice of a model on one device, or on several that work as one, run by unmodified llama.cpp.
//!
//! ```text
//!  token ids ─▶ Embedding ─▶ f32 rows ─▶ Stage [0,a) ─▶ Stage [a,b) ─▶ Stage [b,n) ─▶ logits ─▶ sample
//!                 (head)                    └───────── residual stream, f32 ────────┘  (tail)
//! ```
//!
//! * [`Runtime`] loads the backends once per process and names their devices. Several may work as one: [`Device::Group`].
//! * [`Stage`] is a slice with its KV cache: one [`Stage::step`] is one decode is one micro-batch,
//!   and either happens wholly or not at all. Sequences can begin with a prefix that another one holds
//!   ([`Stage::copy_prefix`]); [`Stage::memory`] is what it all takes.
//! * [`Embedding`] looks token rows up for the first stage; no slice but the last knows tokens.
//! * [`sample::sample`] is pure: the same (logits, sampling, position) gives the same token.
//! * [`tokenizer`] serves a vocabulary over standard streams, in a process of its own.
//! * [`rates::measure`] says how fast a device will run steps, before there is a model.
//! * [`reference::WholeModel`] is llama.cpp's own loop on the unsplit file, to compare with.
//!
//! Numbers of a stage depend on the backend, the build and the rows of a step, and on nothing else:
//! stages of one pipeline must agree in all of them where equal tokens are promised.

pub mod embedding;
mod error;
mod ffi;
pub mod rates;
pub mod reference;
mod runtime;
pub mod sample;
pub mod scheduling;
pub mod stage;
pub mod tokenizer;

pub use embedding::{Embedding, EmbeddingError};
pub use error::{EngineError, Fault};
pub use runtime::{
    BACKEND_DIR_VARIABLE, Device, DeviceInfo, DeviceKind, DeviceMemory, GROUP_MEMBERS_MAX, Runtime,
    VULKAN_DEVICES_VARIABLE, select_device,
};
pub use sample::{Sampling, sample};
pub use stage::{
    KvType, Logits, Row, STEP_ROWS, STRICT_STEP_ROWS, Stage, StageConfig, StageMemory, StepInput, StepOutput,
};
