//! Whether a slice can be given to devices that work as one. llama.cpp ends the process where such devices cannot divide a layer, lack
//! a kernel or have no memory left, so all of that is looked for before it is asked.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gguf::group::{self, Attention};
use gguf::piece::MAX_LAYERS;
use gguf::{Gguf, Tensor, TensorType};

use super::StageConfig;
use crate::embedding::EMBEDDING_TENSOR;
use crate::error::EngineError;
use crate::ffi::backend::DeviceHandle;
use crate::ffi::context::CELL_BLOCK;
use crate::ffi::operators::{self, Product};

/// llama.cpp keeps groups of devices in lists without a lock.
static LOADING: Mutex<()> = Mutex::new(());

/// While this lives, no other thread loads a slice onto a group.
pub(super) type Alone = MutexGuard<'static, ()>;

/// Lets a slice pass that can be loaded onto these devices, as far as can be seen before.
///
/// # Errors
/// `BadConfig` where the slice cannot be divided among them, or one of them cannot compute it; `LoadRefused` for lack of memory.
pub(super) fn admit(
    config: &StageConfig,
    members: &[DeviceHandle],
    cells: u32,
    host_layers: u32,
) -> Result<Alone, EngineError> {
    let bad = |cause: String| EngineError::BadConfig { cause };
    let alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if host_layers > 0 {
        return Err(bad("a group of devices leaves no layers in host memory".to_owned()));
    }
    let slice = Slice::read(config)?;
    let count = config.device.members();
    let attention = group::check(&slice.first()?.metadata, slice.tensors(), count);
    let attention = attention.map_err(|error| bad(error.to_string()))?;
    for member in members {
        let lacks = |what: &str| {
            bad(format!(
                "{} has no kernel for {what}: use single devices",
                member.name()
            ))
        };
        if !operators::attends(*member, &attention, config.kv_type.ggml_type()) {
            return Err(lacks("attention with such heads and such a cache"));
        }
        if let Some(matrix) = slice.unmultiplied(*member)? {
            return Err(lacks(&format!("products with `{matrix}`")));
        }
    }
    let bytes = slice.member_bytes(config, &attention, cells);
    let mut held = Vec::new();
    for member in members {
        let taken = member.allocate(bytes).map_err(|cause| EngineError::LoadRefused {
            file: config.slice_files.first().cloned().unwrap_or_default(),
            cause: format!(
                "{} failed to allocate its part of {bytes} bytes: {cause}",
                member.name()
            ),
        })?;
        // Members may share memory: all parts must fit at once.
        held.push(taken);
    }
    Ok(alone)
}

/// The headers of a slice's files.
struct Slice(Vec<Gguf>);

impl Slice {
    fn read(config: &StageConfig) -> Result<Self, EngineError> {
        let open = |file: &PathBuf| {
            Gguf::open(file).map_err(|error| EngineError::LoadRefused {
                file: file.clone(),
                cause: error.to_string(),
            })
        };
        config.slice_files.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    fn first(&self) -> Result<&Gguf, EngineError> {
        self.0.first().ok_or_else(|| EngineError::BadConfig {
            cause: "the slice names no file".to_owned(),
        })
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.0.iter().flat_map(|header| &header.tensors)
    }

    /// A matrix that the device cannot multiply with; `None` where there is none.
    fn unmultiplied(&self, device: DeviceHandle) -> Result<Option<&str>, EngineError> {
        let metadata = &self.first()?.metadata;
        let architecture = metadata.string("general.architecture").unwrap_or_default();
        let used = metadata.by_layer(&format!("{architecture}.expert_used_count"), MAX_LAYERS);
        let used = used.ok().flatten().and_then(|used| used.into_iter().max()).unwrap_or(0);
        // The processor looks rows up in the embedding; only where it is the output matrix too, it is multiplied with.
        let tied = self.tensors().all(|tensor| tensor.name != "output.weight");
        let is_matrix = |tensor: &&Tensor| {
            let name = tensor.name.as_str();
            let multiplied = name.ends_with(".weight") && !name.contains("_norm.") && tensor.dimensions.len() > 1;
            multiplied && (tied || name != EMBEDDING_TENSOR)
        };
        let mut asked: Vec<Product> = Vec::new();
        for tensor in self.tensors().filter(is_matrix) {
            let product = Product {
                ggml_type: tensor.tensor_type.id(),
                dimensions: tensor.dimensions.clone(),
                experts_used: tensor.name.contains("_exps.").then_some(used.max(1)),
            };
            if asked.contains(&product) {
                continue;
            }
            if !operators::multiplies(device, &product) {
                return Ok(Some(tensor.name.as_str()));
            }
            asked.push(product);
        }
        Ok(None)
    }

    /// What each member will allocate: its part of weights and cache, and about what it computes in.
    fn member_bytes(&self, config: &StageConfig, attention: &Attention, cells: u32) -> u64 {
        let count = config.device.members();
        let weights = group::member_bytes(self.tensors(), count);
        let cells = u64::from(cells).next_multiple_of(CELL_BLOCK.into());
        let elements = attention.kv_elements.saturating_mul(cells) / u64::from(count);
        let kind = TensorType::from_id(config.kv_type.ggml_type()).unwrap_or(TensorType::F32);
        let cache = elements
            .div_ceil(kind.block_elements())
            .saturating_mul(kind.block_bytes());
        // Two results of the widest product for each row: it and its operand, or the residual stream beside.
        let widest = self.tensors().flat_map(|tensor| tensor.dimensions.iter().take(2)).max();
        let row = widest.copied().unwrap_or(0).saturating_mul(2 * size_of::<f32>() as u64);
        let computed = row.saturating_mul(config.max_step_rows.into());
        weights.saturating_add(cache).saturating_add(computed)
    }
}
