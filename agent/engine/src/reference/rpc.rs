//! llama.cpp's own way to spread a model over hosts, as the peer to compare with: RPC servers that hold layers, and a
//! client that computes through them. Plaintext and without authentication: for measurements on one machine.

use super::WholeConfig;
use crate::error::EngineError;
use crate::ffi::backend::{self, DeviceHandle};
use crate::runtime::Runtime;

/// Where the layers of a [`super::WholeModel`] are when llama.cpp's RPC servers hold some.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RpcSplit {
    /// `host:port` of each server, in the order of the layers that they hold. None: no RPC.
    pub servers: Vec<String>,
    /// The first layers that this process computes itself, on its own processor.
    pub local_layers: u32,
    /// For each server how many of the other layers it holds, the output layer counted as one: proportions, which
    /// llama.cpp rounds. Empty: equal ones.
    pub shares: Vec<f32>,
}

/// Serves this process's processor, with so many compute threads, to one RPC client after the other. Returns only
/// where the endpoint cannot be listened on; llama.cpp says why on standard error.
///
/// # Errors
/// [`EngineError::BackendUnavailable`] where the RPC module is missing, or when the listener ended.
pub fn serve(runtime: &Runtime, endpoint: &str, threads: u32) -> Result<(), EngineError> {
    runtime.load_rpc()?;
    let device = Runtime::processor()?;
    backend::rpc_serve(endpoint, threads as usize, device).map_err(unavailable)?;
    Err(unavailable(format!("the server at {endpoint} ended")))
}

/// The servers' devices with the share of each.
pub(super) fn connect(runtime: &Runtime, config: &WholeConfig) -> Result<(Vec<DeviceHandle>, Vec<f32>), EngineError> {
    let split = &config.rpc;
    if !split.servers.is_empty() {
        runtime.load_rpc()?;
    }
    let devices = split.servers.iter().map(|server| backend::rpc_device(server));
    let devices = devices.collect::<Result<Vec<_>, _>>().map_err(unavailable)?;
    let shares = match split.shares.as_slice() {
        [] => vec![1.0; devices.len()],
        shares => shares.to_vec(),
    };
    if shares.len() != devices.len() {
        let cause = format!("{} shares for {} RPC servers", shares.len(), devices.len());
        return Err(EngineError::BadConfig { cause });
    }
    Ok((devices, shares))
}

fn unavailable(cause: String) -> EngineError {
    EngineError::BackendUnavailable {
        backend: "rpc".to_owned(),
        cause,
    }
}
