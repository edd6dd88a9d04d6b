//! A real Kubernetes control plane on loopback, for the demo and the tests.
//!
//! ```text
//!  assets ──▶ plane: etcd + kube-apiserver (RBAC, bound tokens)
//!               ▲             ▲
//!        helm installs    stand-in kubelet: Nodes, Pods, pod-bound tokens, projected files
//!        the chart            │
//!               └──── stack: operator, agents and gateway as processes, each in its own Pod
//! ```
//!
//! Nothing here is a mock: the binaries are the ones that a cluster runs. What is missing is what runs containers; the
//! stand-in kubelet starts processes instead. Everything lives in one directory and dies with the process that started it.

pub mod assets;
pub mod certificates;
pub mod chat;
pub mod client;
pub mod demo;
pub mod folder;
pub mod kubelet;
pub mod plane;
pub mod ports;
pub mod process;
pub mod service;
pub mod stack;
pub mod wait;

/// What can go wrong while a local control plane is started or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{name} is not at {looked}; run `hack/bootstrap.sh {step}`")]
    MissingAsset {
        name: &'static str,
        looked: String,
        step: &'static str,
    },
    #[error("cannot start {name}: {source}")]
    Spawn {
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{name} ended with {status}; the end of its log:\n{log}")]
    Exited { name: String, status: String, log: String },
    #[error("waited {seconds} s in vain until {condition}; last seen: {last}")]
    TimedOut {
        condition: String,
        seconds: u64,
        last: String,
    },
    #[error("certificates: {0}")]
    Certificates(#[from] rcgen::Error),
    #[error("API server: {0}")]
    Kube(Box<kube::Error>),
    /// By the gateway, before it answered anything.
    #[error("the gateway answered {status}: {text}")]
    Refused {
        status: u16,
        retry_after_s: Option<u64>,
        text: String,
    },
    #[error("{0}")]
    Other(String),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the file in an IO error.
pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::File {
        path: path.display().to_string(),
        source,
    }
}
