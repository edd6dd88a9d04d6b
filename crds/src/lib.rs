//! The Kubernetes API of Shardwright as Rust types: what people write, what the operator and the agents report.
//!
//! ```text
//!  people ──▶ InferenceModel.spec ──▶ operator ──▶ InferenceModel.status
//!  agents ──▶ DeviceGPUState.status ──▶ operator        people ──▶ DeviceGPUState.spec
//!  agents ──▶ NodeLinkState.status ───▶ operator        people ──▶ NodeLinkState.spec
//! ```
//!
//! There is no client here: a crate that only needs the types does not pull in one. The names that more than one process
//! must agree on are API too, and live in [`names`] and [`conditions`].

pub mod conditions;
pub mod device_gpu_state;
pub mod inference_model;
pub mod manifest;
pub mod moment;
pub mod names;
pub mod node_link_state;

pub use device_gpu_state::{
    BandwidthPrior, DeviceGPUState, DeviceGPUStateSpec, DeviceGPUStateStatus, DeviceKind, DeviceTaint, HeldShard,
    Measurement, ReadingRate, StepRates, SupportLevel, TaintEffect,
};
pub use inference_model::{
    Determinism, InferenceModel, InferenceModelSpec, InferenceModelStatus, KvType, LearnedMemory, LearnedPace,
    MemoryPressure, MemoryUsed, ModelSource, Objective, ObservedPace, PinnedLayers, PlacementConstraints,
    PlacementStatus, PrefixCache, ResolvedModel, SourceSecret, StagePhase, StageStatus, Toleration, TolerationOperator,
    Verdict, Yielded, YieldedLink,
};
pub use node_link_state::{
    DeviceGroup, DevicePair, ExcludedPeer, LinkKind, LinkState, NodeLinkState, NodeLinkStateSpec, NodeLinkStateStatus,
    PeerLink, SlowRate,
};
