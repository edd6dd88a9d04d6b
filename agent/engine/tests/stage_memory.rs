//! What a stage says it takes is what the process got.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use engine::{EngineError, Runtime, Stage, StageConfig};

use support::{Pieces, cpu, model_file, stage_config};

/// Anonymous resident memory of this process: neither pages of files nor shared ones.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes * 1024
}

/// Held by each test: what one allocates would count for the other.
static ALONE: Mutex<()> = Mutex::new(());

/// Longer than the largest step takes on a machine that is busy.
const WARM_UP_LIMIT: Duration = Duration::from_secs(60);

/// Cells enough for a cache that stands out.
const MANY_CELLS: u32 = 16_384;

/// llama.cpp rounds its cache up to whole blocks of this many cells.
const CELL_BLOCK: u32 = 256;

#[test]
fn weights_cache_and_buffers_are_memory_of_the_process_before_the_first_request() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let pieces = Pieces::write(&model);
    // Whatever the process allocates once, it has allocated after this.
    drop(pieces.load(&runtime, (0, 2), &cpu(), 1));
    let before = resident_bytes();
    let (mut stage, _) = pieces.load_with(&runtime, (5, 25), &cpu(), 1, MANY_CELLS);
    let memory = stage.memory();
    // 20 layers of 2.2 MiB; 3 heads of 64 values twice, 2 bytes each, for each cell and layer. The cell of a lone row's
    // companion makes it a block more.
    let kv_bytes = u64::from(MANY_CELLS + CELL_BLOCK) * 20 * 3 * 64 * 2 * 2;
    assert!((40 << 20..80 << 20).contains(&memory.weights_bytes), "{memory:?}");
    assert_eq!(memory.kv_bytes, kv_bytes, "{memory:?}");
    assert!(memory.compute_bytes > 0 && memory.host_bytes == 0, "{memory:?}");

    stage.warm_up(WARM_UP_LIMIT).unwrap();
    assert_eq!((stage.sequence_length(0), stage.kv_cells_free()), (0, MANY_CELLS));
    let grown = resident_bytes() - before;
    let proved = memory.weights_bytes + memory.kv_bytes;
    println!("{memory:?}, resident {grown} bytes more");
    // Freed memory that is used again would hide some; what graphs compute in is reserved for the worst case.
    assert!(grown + (4 << 20) >= proved, "{grown} of {proved} bytes are resident");
    assert!(grown <= memory.device_bytes() + (16 << 20), "{grown} bytes, {memory:?}");
}

#[test]
fn a_cache_that_cannot_be_allocated_is_an_error_that_says_so() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(model) = model_file() else { return };
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    let pieces = Pieces::write(&model);
    let layers = (1, 29);
    let files = pieces.slice_files(layers);
    let config = StageConfig {
        // 84 GiB in one piece, beside 23 that test machines have; the kernel refuses what is obviously too much.
        kv_cells: 1 << 21,
        kv_type: engine::KvType::F32,
        ..stage_config(files, layers, &cpu(), 1)
    };
    let error = Stage::load(&runtime, &config).unwrap_err();
    assert!(matches!(error, EngineError::ContextRefused { .. }), "{error}");
    assert!(error.is_out_of_memory(), "{error}");
}
