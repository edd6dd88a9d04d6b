//! A context: KV cache, and one decode per step.

mod interrupt;

use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use super::backend::ThreadPool;
use super::log;
use super::model::Model;
use super::tap::{Tap, take};
pub(crate) use interrupt::Interrupt;

/// `LLAMA_MAX_SEQ`: more sequences are an exception inside llama.cpp.
pub(crate) const MAX_SEQUENCES: u32 = 256;

/// llama.cpp rounds its cache up to whole blocks of this many cells.
pub(crate) const CELL_BLOCK: u32 = 256;

/// How to make a context.
#[derive(Debug)]
pub(crate) struct ContextOptions<'a> {
    /// Cells of the KV cache, all sequences together.
    pub(crate) cells: u32,
    /// Rows of one decode.
    pub(crate) rows: u32,
    /// Rows of one micro-batch, into which llama.cpp divides a decode; with a tap no fewer than `rows`.
    pub(crate) micro_rows: u32,
    pub(crate) sequences: u32,
    /// The ggml type of keys and values.
    pub(crate) kv_type: u32,
    /// Name of the tensor to take after each decode; nothing is computed beyond it.
    pub(crate) tap: Option<&'a str>,
    /// Name of the tensor to write the fed activations into once the graph has computed it.
    pub(crate) overwritten: Option<&'a str>,
}

impl ContextOptions<'_> {
    /// The cells as llama.cpp rounds them.
    fn whole_blocks(&self) -> Result<u32, String> {
        self.cells
            .checked_next_multiple_of(CELL_BLOCK)
            .filter(|cells| *cells > 0 && i32::try_from(*cells).is_ok())
            .ok_or_else(|| format!("{} cells are not a possible cache size", self.cells))
    }
}

/// What a decode reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    /// Token ids of a whole model.
    Tokens(&'a [i32]),
    /// Rows of the residual stream, one after the other.
    Activations(&'a [f32]),
}

impl<'a> Input<'a> {
    fn activations(self) -> &'a [f32] {
        match self {
            Self::Tokens(_) => &[],
            Self::Activations(values) => values,
        }
    }
}

/// Keys and values of some positions, on the host.
#[derive(Debug)]
pub(crate) struct SavedCells(Vec<u8>);

/// An owned `llama_context` with what it borrows.
#[derive(Debug)]
pub(crate) struct Context {
    context: NonNull<sys::llama_context>,
    model: Arc<Model>,
    /// Owned; behind a pointer because the callback writes to it during a decode.
    tap: Option<NonNull<Tap>>,
    /// Freed after the context, see `Drop`.
    pool: Option<ThreadPool>,
    /// Asked during a decode; outlives the context, as every field does.
    interrupt: Option<Arc<Interrupt>>,
    rows: usize,
    sequences: usize,
    columns: Columns,
}

/// The arrays of a batch, kept from one decode to the next.
#[derive(Debug, Default)]
struct Columns {
    positions: Vec<i32>,
    sequences: Vec<i32>,
    counts: Vec<i32>,
    /// Pointers to the entries of `sequences`.
    lists: Vec<*mut i32>,
    outputs: Vec<i8>,
}

impl Columns {
    fn fill(&mut self, positions: &[i32], sequences: &[i32], outputs: impl Iterator<Item = bool>) {
        self.positions.clear();
        self.positions.extend_from_slice(positions);
        self.sequences.clear();
        self.sequences.extend_from_slice(sequences);
        self.counts.resize(positions.len(), 1);
        self.lists.clear();
        self.lists.extend(self.sequences.iter_mut().map(std::ptr::from_mut));
        self.outputs.clear();
        self.outputs.extend(outputs.map(i8::from));
    }
}

// SAFETY: one owner at a time uses the context (all calls that change it take `&mut self`), and
// llama.cpp keeps no thread-local state in it; the pointers of `Columns` are to its own entries.
unsafe impl Send for Context {}

impl Context {
    /// Makes a context on `model` that computes on `pool`.
    pub(crate) fn new(model: Arc<Model>, pool: ThreadPool, options: &ContextOptions<'_>) -> Result<Self, String> {
        let tapped = options.tap.is_some() || options.overwritten.is_some();
        if tapped && options.micro_rows < options.rows {
            return Err("a tapped decode must be one micro-batch".to_owned());
        }
        if options.rows == 0 || options.micro_rows == 0 || options.sequences == 0 || options.sequences > MAX_SEQUENCES {
            return Err(format!(
                "{} rows and {} sequences: both must be positive, and sequences at most {MAX_SEQUENCES}",
                options.rows, options.sequences
            ));
        }
        let cells = options.whole_blocks()?;
        let tap = tapped
            .then(|| Tap::new(options.tap, options.overwritten, model.embedding_length()))
            .transpose()?;
        let tap = tap.map(|tap| NonNull::from(Box::leak(Box::new(tap))));

        // SAFETY: a plain struct filled by llama.cpp.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = cells;
        params.n_batch = options.rows;
        params.n_ubatch = options.micro_rows;
        params.n_seq_max = options.sequences;
        // llama.cpp reserves an output for every sequence, and aborts where fewer are allowed.
        params.n_outputs_max = options.rows.max(options.sequences);
        params.n_threads = pool.threads();
        params.n_threads_batch = pool.threads();
        // One cache for all sequences: a mixed batch stays one micro-batch in its own order.
        params.kv_unified = true;
        // Explicit, alike on all stages: `auto` may differ between devices.
        params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_ENABLED;
        params.type_k = options.kv_type;
        params.type_v = options.kv_type;
        // Windowed caches keep every position: prefixes are copied from them and sequences are cut back.
        params.swa_full = true;
        params.offload_kqv = true;
        params.op_offload = false;
        params.no_perf = true;
        if let Some(tap) = tap {
            params.cb_eval = Some(take);
            params.cb_eval_user_data = tap.as_ptr().cast();
        }
        // SAFETY: a live model; the tap lives until `Drop`.
        let (context, errors) = log::with_errors(|| unsafe { sys::llama_init_from_model(model.as_ptr(), params) });
        let Some(context) = NonNull::new(context) else {
            if let Some(tap) = tap {
                // SAFETY: leaked above and handed to nobody that lives.
                drop(unsafe { Box::from_raw(tap.as_ptr()) });
            }
            return Err(errors);
        };
        // SAFETY: a live context and a live pool, which outlives it (see `Drop`).
        unsafe { sys::llama_attach_threadpool(context.as_ptr(), pool.as_ptr(), pool.as_ptr()) };
        // SAFETY: reads of a live context.
        let (batch, micro_batch) = unsafe {
            (
                sys::llama_n_batch(context.as_ptr()),
                sys::llama_n_ubatch(context.as_ptr()),
            )
        };
        Ok(Self {
            context,
            model,
            tap,
            pool: Some(pool),
            interrupt: None,
            // llama.cpp may have lowered either.
            rows: if tap.is_some() { batch.min(micro_batch) } else { batch } as usize,
            sequences: options.sequences as usize,
            columns: Columns::default(),
        })
    }

    /// The model below.
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Rows that one decode may have.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Decodes one batch: row `i` is at `positions[i]` of sequence `sequences[i]`, and its logits
    /// are kept where `wants[i]`. With a tap every row is an output.
    ///
    /// # Errors
    /// llama.cpp's account of the failure. The cache may then hold some of the rows; the caller
    /// removes them.
    pub(crate) fn decode(
        &mut self,
        input: Input<'_>,
        positions: &[i32],
        sequences: &[i32],
        wants: &[bool],
    ) -> Result<(), String> {
        self.check(input, positions, sequences, wants)?;
        let rows = positions.len();
        // SAFETY: owned by this context, and no decode runs.
        let takes = self.tap.is_some_and(|tap| unsafe { tap.as_ref() }.takes());
        let columns = &mut self.columns;
        columns.fill(positions, sequences, wants.iter().map(|want| *want || takes));
        let (tokens, activations) = match input {
            Input::Tokens(tokens) => (tokens.as_ptr().cast_mut(), std::ptr::null_mut()),
            Input::Activations(values) => (std::ptr::null_mut(), values.as_ptr().cast_mut()),
        };
        let batch = sys::llama_batch {
            n_tokens: i32::try_from(rows).map_err(|_| "too many rows".to_owned())?,
            token: tokens,
            embd: activations,
            pos: columns.positions.as_mut_ptr(),
            n_seq_id: columns.counts.as_mut_ptr(),
            seq_id: columns.lists.as_mut_ptr(),
            logits: columns.outputs.as_mut_ptr(),
        };
        if let Some(tap) = self.tap {
            // SAFETY: owned by this context, and no decode runs.
            unsafe { (*tap.as_ptr()).prepare(rows, input.activations()) };
        }
        // SAFETY: every array has `rows` entries (`embd`: rows × width), checked above, and lives
        // for the call; llama.cpp copies them and writes to none.
        let (status, errors) = log::with_errors(|| unsafe { sys::llama_decode(self.context.as_ptr(), batch) });
        match status {
            // SAFETY: owned by this context, and no decode runs.
            0 => self.tap.map_or(Ok(()), |tap| unsafe { tap.as_ref() }.check_fed()),
            1 => Err("the KV cache has no room for the rows".to_owned()),
            status if errors.is_empty() => Err(format!("llama_decode returned {status}")),
            _ => Err(errors),
        }
    }

    fn check(&self, input: Input<'_>, positions: &[i32], sequences: &[i32], wants: &[bool]) -> Result<(), String> {
        let rows = positions.len();
        if rows == 0 || rows > self.rows {
            return Err(format!("{rows} rows are not between 1 and {}", self.rows));
        }
        if sequences.len() != rows || wants.len() != rows {
            return Err("rows, sequences and wants differ in number".to_owned());
        }
        if positions.iter().any(|position| *position < 0) {
            return Err("a position is negative".to_owned());
        }
        if !sequences.iter().all(|sequence| self.knows(*sequence)) {
            return Err(format!("a sequence id is not below {}", self.sequences));
        }
        match input {
            Input::Tokens(tokens) if tokens.len() != rows => Err("rows and tokens differ in number".to_owned()),
            Input::Tokens(tokens) if !tokens.iter().all(|token| self.model.has_token(*token)) => {
                Err("a token id is outside the vocabulary".to_owned())
            }
            Input::Activations(values) if values.len() != rows.saturating_mul(self.model.input_width()) => {
                Err("the activations do not fill the rows".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The rows that the tap took in the last decode, in batch order.
    ///
    /// # Errors
    /// Says what the tap saw where it did not take exactly the rows that were sent.
    pub(crate) fn take_tapped(&mut self) -> Result<Vec<f32>, String> {
        let Some(tap) = self.tap else {
            return Err("this context has no tap".to_owned());
        };
        // SAFETY: owned by this context, and no decode runs.
        unsafe { (*tap.as_ptr()).finish() }
    }

    /// The logits of row `row` of the last decode; `None` where that row was not wanted.
    pub(crate) fn logits(&self, row: usize) -> Option<&[f32]> {
        let index = i32::try_from(row).ok()?;
        // SAFETY: a live context; for a row without output llama.cpp returns null.
        let first = NonNull::new(unsafe { sys::llama_get_logits_ith(self.context.as_ptr(), index) })?;
        // SAFETY: llama.cpp keeps one f32 per token id for each output row until the next decode,
        // and decoding takes `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(first.as_ptr(), self.model.vocabulary_size()) })
    }

    /// Removes positions `from..` of `sequence`; `false` where the cache cannot.
    pub(crate) fn remove_from(&mut self, sequence: i32, from: i32) -> bool {
        let Some(memory) = self.memory().filter(|_| self.knows(sequence) && from >= 0) else {
            return false;
        };
        // SAFETY: a live cache, a sequence it knows, and a position.
        unsafe { sys::llama_memory_seq_rm(memory, sequence, from, -1) }
    }

    /// Gives positions `from..` of `sequence` to the sequence `heir`, where they are; `false` where
    /// the cache cannot.
    pub(crate) fn hand_over(&mut self, sequence: i32, from: i32, heir: i32) -> bool {
        let known = self.knows(sequence) && self.knows(heir) && sequence != heir && from >= 0;
        let Some(memory) = self.memory().filter(|_| known) else {
            return false;
        };
        // SAFETY: a live unified cache (so that no data is copied), and sequences it knows.
        unsafe {
            sys::llama_memory_seq_cp(memory, sequence, heir, from, -1);
            sys::llama_memory_seq_rm(memory, sequence, from, -1)
        }
    }

    /// Forgets all sequences.
    pub(crate) fn clear(&mut self) {
        if let Some(memory) = self.memory() {
            // SAFETY: a live cache.
            unsafe { sys::llama_memory_clear(memory, false) };
        }
    }

    /// Removes positions `from..end` of `sequence`, which may leave a hole; `false` where the cache
    /// cannot.
    pub(crate) fn remove(&mut self, sequence: i32, from: i32, end: i32) -> bool {
        let Some(memory) = self
            .memory()
            .filter(|_| self.knows(sequence) && 0 <= from && from < end)
        else {
            return false;
        };
        // SAFETY: a live cache, a sequence it knows, and positions in order.
        unsafe { sys::llama_memory_seq_rm(memory, sequence, from, end) }
    }

    /// Makes `to` hold positions `from..end` of `sequence` too, in the same cells; `false` for
    /// sequences or positions that cannot be.
    pub(crate) fn share(&mut self, sequence: i32, to: i32, from: i32, end: i32) -> bool {
        let known = self.knows(sequence) && self.knows(to) && sequence != to && 0 <= from && from < end;
        let Some(memory) = self.memory().filter(|_| known) else {
            return false;
        };
        // SAFETY: a live unified cache (so that no data is copied), and sequences it knows.
        unsafe { sys::llama_memory_seq_cp(memory, sequence, to, from, end) };
        true
    }

    /// Copies positions `from..end` of `sequence` to the host, by way of the empty sequence
    /// `scratch`, which is empty again afterwards. `None` where there is no memory for the copy.
    pub(crate) fn save(&mut self, sequence: i32, from: i32, end: i32, scratch: i32) -> Option<SavedCells> {
        if !self.share(sequence, scratch, from, end) {
            return None;
        }
        let saved = self.saved(scratch);
        self.remove_from(scratch, 0);
        saved
    }

    fn saved(&self, sequence: i32) -> Option<SavedCells> {
        let context = self.context.as_ptr();
        // SAFETY: a live context and a sequence that `share` has checked.
        let size_bytes = unsafe { sys::llama_state_seq_get_size(context, sequence) };
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(size_bytes).ok()?;
        bytes.resize(size_bytes, 0);
        // SAFETY: the buffer has the size that llama.cpp asked for.
        let saved = unsafe { sys::llama_state_seq_get_data(context, bytes.as_mut_ptr(), size_bytes, sequence) };
        (saved == size_bytes && saved > 0).then_some(SavedCells(bytes))
    }

    /// Puts saved positions into the lowest free cells, bit for bit, for all of `sequences`; by way
    /// of the empty sequence `scratch`, which is empty again afterwards.
    ///
    /// # Errors
    /// llama.cpp's account; the positions are not in the cache then.
    pub(crate) fn restore(&mut self, saved: &SavedCells, scratch: i32, sequences: &[i32]) -> Result<(), String> {
        if !self.knows(scratch) || !sequences.iter().all(|sequence| self.knows(*sequence)) {
            return Err("a sequence is unknown to the cache".to_owned());
        }
        let memory = self.memory().ok_or("this context has no cache")?;
        let context = self.context.as_ptr();
        // SAFETY: a live context, a sequence it knows, and bytes that llama.cpp wrote itself.
        let (restored, errors) = log::with_errors(|| unsafe {
            sys::llama_state_seq_set_data(context, saved.0.as_ptr(), saved.0.len(), scratch)
        });
        if restored == 0 {
            return Err(errors);
        }
        for sequence in sequences {
            // SAFETY: a live unified cache, and sequences it knows.
            unsafe { sys::llama_memory_seq_cp(memory, scratch, *sequence, -1, -1) };
        }
        if self.remove_from(scratch, 0) {
            return Ok(());
        }
        Err("the scratch sequence cannot be emptied".to_owned())
    }

    fn memory(&self) -> Option<sys::llama_memory_t> {
        // SAFETY: a live context; one without memory answers null.
        Some(unsafe { sys::llama_get_memory(self.context.as_ptr()) }).filter(|memory| !memory.is_null())
    }

    fn knows(&self, sequence: i32) -> bool {
        usize::try_from(sequence).is_ok_and(|sequence| sequence < self.sequences)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by llama.cpp, freed once, before the pool, the tap and the model it uses.
        unsafe { sys::llama_free(self.context.as_ptr()) };
        drop(self.pool.take());
        if let Some(tap) = self.tap.take() {
            // SAFETY: leaked in `new`; the only other user, the context, is gone.
            drop(unsafe { Box::from_raw(tap.as_ptr()) });
        }
    }
}
