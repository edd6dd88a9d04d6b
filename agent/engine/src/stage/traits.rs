//! What a slice's header says of its graph beyond what the graph itself reads.

use std::path::Path;

use gguf::architecture::architecture;
use gguf::{Gguf, Metadata};

use super::StageConfig;
use crate::error::EngineError;
use crate::ffi::context::CELL_BLOCK;

/// Facts of a slice that decide how it is loaded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// The architecture's name.
    pub(super) architecture: &'static str,
    /// The tensor into which fed rows must be written anew, because the architecture's graph multiplies whatever it is fed
    /// as if it were looked-up embeddings. Only the first slice is fed those.
    pub(super) overwritten: Option<&'static str>,
    /// The context that the model was first trained for, as key and number to read in place of the file's: see
    /// [`original_context`].
    pub(super) stated: Option<(String, u32)>,
}

/// Reads the traits of the slice; a cache of `cells` is for all sequences together.
pub(super) fn traits(config: &StageConfig, cells: u32) -> Result<Traits, EngineError> {
    let refused = |file: &Path, cause: &dyn std::fmt::Display| EngineError::LoadRefused {
        file: file.to_owned(),
        cause: cause.to_string(),
    };
    let Some(file) = config.slice_files.first() else {
        return Ok(Traits::default());
    };
    let header = Gguf::open(file).map_err(|error| refused(file, &error))?;
    let name = header.metadata.string("general.architecture");
    let name = name.map_err(|error| refused(file, &error))?;
    let known = architecture(name).map_err(|error| refused(file, &error))?;
    Ok(Traits {
        architecture: known.name,
        overwritten: known.overwritten_input().filter(|_| !config.first),
        stated: original_context(&header.metadata, name, config.context_length, cells),
    })
}

/// llama.cpp takes a model's factors for long contexts where the whole cache is longer than the context it was first trained
/// for. The cache is one for all sequences: where none of them can be that long, the model must not believe it.
fn original_context(metadata: &Metadata, architecture: &str, context_length: u32, cells: u32) -> Option<(String, u32)> {
    let key = |name: &str| format!("{architecture}.{name}");
    let original_key = key("rope.scaling.original_context_length");
    let original = metadata.u32(&original_key).ok()?;
    // Both compute with the number itself.
    let computes = metadata
        .string(&key("rope.scaling.type"))
        .is_ok_and(|kind| kind == "yarn")
        || metadata.get(&key("attention.temperature_scale")).is_some();
    let cells = cells.checked_next_multiple_of(CELL_BLOCK)?;
    (!computes && context_length <= original && cells > original).then_some((original_key, cells))
}
