//! What a slice's graph does to the rows it is fed.

use std::path::PathBuf;

use gguf::Gguf;
use gguf::architecture::architecture;

use super::StageConfig;

/// The tensor into which fed rows must be written anew, because the architecture's graph multiplies whatever it is fed
/// as if it were looked-up embeddings. Only the first slice is fed those.
pub(super) fn overwritten_input(config: &StageConfig) -> Option<&'static str> {
    if config.first {
        return None;
    }
    let file: &PathBuf = config.slice_files.first()?;
    let header = Gguf::open(file).ok()?;
    let name = header.metadata.string("general.architecture").ok()?;
    architecture(name).ok()?.overwritten_input()
}
