//! Kubernetes clients from a kubeconfig file.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::{Error, Result};

/// A client for the current context of the file.
pub async fn from_kubeconfig(path: &Path) -> Result<kube::Client> {
    let explain = |error: &dyn std::fmt::Display| Error::Other(format!("{}: {error}", path.display()));
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| explain(&error))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| explain(&error))?;
    Ok(kube::Client::try_from(config)?)
}
