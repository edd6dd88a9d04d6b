//! A loaded model: weights on one device or on several, or a vocabulary alone.

use std::ffi::CString;
use std::path::PathBuf;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::backend::DeviceHandle;
use super::{c_path, log};

/// The longest piece of one token that is accepted; real vocabularies stay below 1 KiB.
const PIECE_LIMIT_BYTES: usize = 64 * 1024;

/// Where the layers of a model are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Placing<'a> {
    /// All on the CPU.
    Host,
    /// All on one accelerator, the output layer too.
    Device(DeviceHandle),
    /// The first layers in host memory, so many of the last on one accelerator; the output layer counts as one.
    DeviceTail { device: DeviceHandle, layers: u32 },
    /// The first layers on the CPU, so many of the last (the output layer counts as one) spread over devices in
    /// proportion to the shares.
    Spread {
        devices: &'a [DeviceHandle],
        shares: &'a [f32],
        layers: u32,
    },
    /// An equal part of every layer, the output layer too, on each of several accelerators. llama.cpp ends the process where a layer cannot
    /// be divided so, or a device has no memory: the caller looks first. It keeps its groups in lists without a lock, so that no two
    /// threads may load or make contexts of such models at once.
    Group(&'a [DeviceHandle]),
}

/// How to load a model.
#[derive(Debug)]
pub(crate) struct ModelOptions<'a> {
    /// One file, or a split set in order.
    pub(crate) files: &'a [PathBuf],
    /// Where the layers are.
    pub(crate) placing: Placing<'a>,
    /// Whether weights in host memory are pages of the file, read when first used and again when the system took them
    /// back meanwhile, or memory of the process that is there once and for all.
    pub(crate) mapped: bool,
    /// Leaves the weights aside.
    pub(crate) vocabulary_only: bool,
    /// Repacked weights: faster on some types, other arithmetic.
    pub(crate) repack: bool,
    /// A key and the number to read there in place of what the file states.
    pub(crate) stated: Option<(&'a str, u32)>,
}

/// What a cache is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheKind {
    /// Keys and values of all positions.
    Plain,
    /// The same, of which some layers read only so many last positions.
    Windowed(u32),
    /// A state for each layer that cannot be cut back or shared.
    Recurrent,
    /// Such a state for some layers, keys and values for others, or both for all.
    Hybrid,
    /// The same, where layers read only so many last positions.
    WindowedHybrid,
}

impl CacheKind {
    /// Whether any layer keeps a state instead of its positions.
    pub(crate) fn keeps_state(self) -> bool {
        matches!(self, Self::Recurrent | Self::Hybrid | Self::WindowedHybrid)
    }
}

/// An entry of the list of numbers that replace a file's.
fn number(key: &str, value: u32) -> Result<sys::llama_model_kv_override, String> {
    let mut entry = sys::llama_model_kv_override {
        tag: sys::LLAMA_KV_OVERRIDE_TYPE_INT,
        key: [0; 128],
        __bindgen_anon_1: sys::llama_model_kv_override__bindgen_ty_1 {
            val_i64: i64::from(value),
        },
    };
    // The last byte stays the end of the text.
    if key.len() >= entry.key.len() {
        return Err(format!("the key {key:?} is too long to be replaced"));
    }
    for (to, from) in entry.key.iter_mut().zip(key.bytes()) {
        *to = from.cast_signed();
    }
    Ok(entry)
}

/// An owned `llama_model`.
#[derive(Debug)]
pub(crate) struct Model(NonNull<sys::llama_model>);

// SAFETY: a loaded model is only read; llama.cpp itself shares it between contexts and threads.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: made by llama.cpp, freed once; contexts hold the model alive through an `Arc`.
        unsafe { sys::llama_model_free(self.0.as_ptr()) };
    }
}

impl Model {
    /// Loads a model; the error is llama.cpp's own account of the refusal.
    pub(crate) fn load(options: &ModelOptions<'_>) -> Result<Self, String> {
        log::install();
        let paths = options
            .files
            .iter()
            .map(|file| c_path(file))
            .collect::<Result<Vec<CString>, String>>()?;
        if paths.is_empty() {
            return Err("no file was named".to_owned());
        }
        let mut pointers: Vec<_> = paths.iter().map(|path| path.as_ptr()).collect();
        let (handles, layers) = match options.placing {
            Placing::Host => (&[][..], 0),
            // A negative count is "all, the output layer too", which keeps the graph in one piece.
            Placing::Device(ref device) => (std::slice::from_ref(device), -1),
            Placing::DeviceTail { ref device, layers } => (std::slice::from_ref(device), signed(layers)),
            Placing::Spread { devices, layers, .. } => (devices, signed(layers)),
            Placing::Group(devices) => (devices, -1),
        };
        // A NULL-terminated list, never a null list: null means "all devices there are".
        let mut devices: Vec<_> = handles.iter().map(|handle| handle.as_ptr()).collect();
        devices.push(std::ptr::null_mut());
        // SAFETY: a constant of the build. llama.cpp reads so many shares.
        let mut shares = vec![0f32; unsafe { sys::llama_max_devices() }.max(handles.len())];

        // SAFETY: a plain struct filled by llama.cpp.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.devices = devices.as_mut_ptr();
        params.n_gpu_layers = layers;
        params.split_mode = sys::LLAMA_SPLIT_MODE_NONE;
        if let Placing::Spread { shares: wanted, .. } = options.placing {
            for (share, wanted) in shares.iter_mut().zip(wanted) {
                *share = *wanted;
            }
            params.split_mode = sys::LLAMA_SPLIT_MODE_LAYER;
            params.tensor_split = shares.as_ptr();
        }
        if let Placing::Group(_) = options.placing {
            params.split_mode = sys::LLAMA_SPLIT_MODE_TENSOR;
        }
        params.main_gpu = 0;
        params.load_mode = match options.mapped {
            true => sys::LLAMA_LOAD_MODE_MMAP,
            false => sys::LLAMA_LOAD_MODE_NONE,
        };
        params.use_extra_bufts = options.repack;
        params.vocab_only = options.vocabulary_only;
        params.progress_callback = Some(go_on);
        // A list that ends with an empty key.
        let mut overrides = [number("", 0)?; 2];
        if let Some((key, value)) = options.stated {
            overrides[0] = number(key, value)?;
            params.kv_overrides = overrides.as_ptr();
        }

        // SAFETY: the lists live until the call returns; llama.cpp copies what it keeps. A single
        // file goes through the other entry, which accepts files that are not part of a set.
        let (model, errors) = log::with_errors(|| unsafe {
            if let [only] = pointers.as_slice() {
                sys::llama_model_load_from_file(*only, params)
            } else {
                sys::llama_model_load_from_splits(pointers.as_mut_ptr(), pointers.len(), params)
            }
        });
        NonNull::new(model).map(Self).ok_or(errors)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        self.0.as_ptr()
    }

    /// Number of layers in the file, those that only predict further tokens too.
    pub(crate) fn layers(&self) -> u32 {
        // SAFETY: a live model.
        let (computed, predicting) = unsafe {
            (
                sys::llama_model_n_layer(self.as_ptr()),
                sys::llama_model_n_layer_nextn(self.as_ptr()),
            )
        };
        computed.max(0).unsigned_abs() + predicting.max(0).unsigned_abs()
    }

    /// Values in one row of `batch.embd`.
    pub(crate) fn input_width(&self) -> usize {
        // SAFETY: a live model.
        usize::try_from(unsafe { sys::llama_model_n_embd_inp(self.as_ptr()) }).unwrap_or(0)
    }

    /// Values in one row of the residual stream.
    pub(crate) fn embedding_length(&self) -> usize {
        // SAFETY: a live model.
        usize::try_from(unsafe { sys::llama_model_n_embd(self.as_ptr()) }).unwrap_or(0)
    }

    /// What the model's cache is made of.
    pub(crate) fn cache_kind(&self) -> CacheKind {
        // SAFETY: a live model.
        let (recurrent, hybrid, window) = unsafe {
            (
                sys::llama_model_is_recurrent(self.as_ptr()),
                sys::llama_model_is_hybrid(self.as_ptr()),
                sys::llama_model_n_swa(self.as_ptr()),
            )
        };
        match window {
            // First: llama.cpp may count a hybrid among the recurrent too.
            1.. if hybrid => CacheKind::WindowedHybrid,
            _ if hybrid => CacheKind::Hybrid,
            _ if recurrent => CacheKind::Recurrent,
            1.. => CacheKind::Windowed(window.unsigned_abs()),
            _ => CacheKind::Plain,
        }
    }

    fn vocab(&self) -> *const sys::llama_vocab {
        // SAFETY: a live model always has a vocabulary object, if an empty one.
        unsafe { sys::llama_model_get_vocab(self.as_ptr()) }
    }

    /// Number of token ids, also the number of logits in a row.
    pub(crate) fn vocabulary_size(&self) -> usize {
        // SAFETY: the vocabulary lives as long as the model.
        usize::try_from(unsafe { sys::llama_vocab_n_tokens(self.vocab()) }).unwrap_or(0)
    }

    /// Whether the file brought a tokenizer.
    pub(crate) fn has_tokenizer(&self) -> bool {
        // SAFETY: as in `vocabulary_size`.
        unsafe { sys::llama_vocab_type(self.vocab()) != sys::LLAMA_VOCAB_TYPE_NONE }
    }

    /// The begin-of-sequence token, where there is one.
    pub(crate) fn bos(&self) -> Option<i32> {
        // SAFETY: as in `vocabulary_size`.
        Some(unsafe { sys::llama_vocab_bos(self.vocab()) }).filter(|token| *token >= 0)
    }

    /// The end-of-sequence token, where there is one.
    pub(crate) fn eos(&self) -> Option<i32> {
        // SAFETY: as in `vocabulary_size`.
        Some(unsafe { sys::llama_vocab_eos(self.vocab()) }).filter(|token| *token >= 0)
    }

    /// Whether prompts begin with the begin-of-sequence token.
    pub(crate) fn adds_bos(&self) -> bool {
        // SAFETY: as in `vocabulary_size`.
        unsafe { sys::llama_vocab_get_add_bos(self.vocab()) }
    }

    /// Whether `token` ends a generation; `false` for ids outside the vocabulary.
    pub(crate) fn is_end_of_generation(&self, token: i32) -> bool {
        self.has_token(token)
            // SAFETY: as in `vocabulary_size`; the id is inside.
            && unsafe { sys::llama_vocab_is_eog(self.vocab(), token) }
    }

    /// Whether `token` is an id of the vocabulary.
    pub(crate) fn has_token(&self, token: i32) -> bool {
        usize::try_from(token).is_ok_and(|token| token < self.vocabulary_size())
    }

    /// The bytes that `token` stands for; control tokens stand for none. `None` outside the
    /// vocabulary or for an absurdly long piece.
    pub(crate) fn piece(&self, token: i32) -> Option<Vec<u8>> {
        if !self.has_token(token) {
            return None;
        }
        let mut piece = vec![0u8; 64];
        loop {
            let room = i32::try_from(piece.len()).ok()?;
            // SAFETY: the id is inside the vocabulary; the buffer has `room` bytes.
            let written =
                unsafe { sys::llama_token_to_piece(self.vocab(), token, piece.as_mut_ptr().cast(), room, 0, false) };
            if let Ok(written) = usize::try_from(written) {
                piece.truncate(written);
                return Some(piece);
            }
            // Negative: the number of bytes it would have taken.
            let needed = usize::try_from(written.unsigned_abs()).ok()?;
            if needed <= piece.len() || needed > PIECE_LIMIT_BYTES {
                return None;
            }
            piece.resize(needed, 0);
        }
    }

    /// `text` as tokens; `None` where llama.cpp cannot say how many there are.
    ///
    /// The caller bounds the text (to less than 2 GiB).
    pub(crate) fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Option<Vec<i32>> {
        let text_bytes = i32::try_from(text.len()).ok()?;
        // At most one token per byte and a few special ones: one call is enough, as a rule.
        let mut tokens = vec![0i32; text.len() / 2 + 16];
        loop {
            let room = i32::try_from(tokens.len()).ok()?;
            // SAFETY: pointer and length of a live text; the buffer has `room` places.
            let count = unsafe {
                sys::llama_tokenize(
                    self.vocab(),
                    text.as_ptr().cast(),
                    text_bytes,
                    tokens.as_mut_ptr(),
                    room,
                    add_special,
                    parse_special,
                )
            };
            if let Ok(count) = usize::try_from(count) {
                tokens.truncate(count);
                return Some(tokens);
            }
            let needed = usize::try_from(count.checked_neg()?).ok()?;
            if needed <= tokens.len() {
                return None;
            }
            tokens.resize(needed, 0);
        }
    }
}

/// Layer counts are checked to be small before they get here.
fn signed(layers: u32) -> i32 {
    i32::try_from(layers).unwrap_or(i32::MAX)
}

/// Keeps llama.cpp from writing its progress as dots to the log.
unsafe extern "C" fn go_on(_progress: f32, _user: *mut std::ffi::c_void) -> bool {
    true
}
