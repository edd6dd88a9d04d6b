//! Where the binaries and the model are: `KUBEBUILDER_ASSETS` first, then the cache that `hack/bootstrap.sh` fills.

use std::path::PathBuf;

use crate::{Error, Result};

const CONTROL_PLANE: &str = "controlplane-1.36.3";
const CLIENTS: &str = "kubectl-1.37.1-helm-4.3.1";
const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// The cache folder: `SHARDWRIGHT_CACHE`, or `~/.cache/shardwright`.
pub fn cache() -> PathBuf {
    if let Some(dir) = std::env::var_os("SHARDWRIGHT_CACHE") {
        return PathBuf::from(dir);
    }
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
    PathBuf::from(home).join(".cache/shardwright")
}

fn present(path: PathBuf, name: &'static str, step: &'static str) -> Result<PathBuf> {
    if path.exists() {
        return Ok(path);
    }
    Err(Error::MissingAsset {
        name,
        looked: path.display().to_string(),
        step,
    })
}

fn control_plane(name: &'static str) -> Result<PathBuf> {
    let dir = std::env::var_os("KUBEBUILDER_ASSETS").map_or_else(|| cache().join(CONTROL_PLANE), PathBuf::from);
    present(dir.join(name), name, "controlplane")
}

pub fn etcd() -> Result<PathBuf> {
    control_plane("etcd")
}

pub fn kube_apiserver() -> Result<PathBuf> {
    control_plane("kube-apiserver")
}

pub fn kubectl() -> Result<PathBuf> {
    present(cache().join(CLIENTS).join("kubectl"), "kubectl", "clients")
}

pub fn helm() -> Result<PathBuf> {
    present(cache().join(CLIENTS).join("helm"), "helm", "clients")
}

/// SmolLM2-135M-Instruct, Q4_1; `SHARDWRIGHT_TEST_MODEL` names another file.
pub fn model() -> Result<PathBuf> {
    let path =
        std::env::var_os("SHARDWRIGHT_TEST_MODEL").map_or_else(|| cache().join("models").join(MODEL), PathBuf::from);
    present(path, MODEL, "model")
}

/// The Python of the virtual environment that holds the official OpenAI client.
pub fn python() -> Result<PathBuf> {
    let requirements = workspace().join("tests/openai_client/requirements.txt");
    let text = std::fs::read(&requirements).map_err(crate::file(&requirements))?;
    let digest = digest_prefix(&text);
    present(
        cache().join(format!("python-{digest}")).join("bin/python"),
        "the openai client's Python",
        "python",
    )
}

/// The first twelve hexadecimal digits of the SHA-256, as `hack/bootstrap.sh` names the environment.
fn digest_prefix(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytes);
    digest[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or(here.clone(), PathBuf::from)
}

/// One of the workspace's own executables, from the folder that holds the running one (or its parent, in tests).
pub fn own(name: &'static str) -> Result<PathBuf> {
    let executable = std::env::current_exe().map_err(|source| Error::File {
        path: "the running executable".into(),
        source,
    })?;
    let found = executable
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.exists());
    found.ok_or_else(|| {
        Error::Other(format!(
            "{name} is not beside {}; run `cargo build --workspace`",
            executable.display()
        ))
    })
}
