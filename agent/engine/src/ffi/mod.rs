//! llama.cpp behind safe types: the only unsafe code of this crate.
//!
//! ```text
//! backend  modules, devices, thread pools      (ggml)
//! model    Model: weights or vocabulary         (llama_model)
//! context  Context: KV cache and decode         (llama_context)
//! tap      Tap: the residual stream, taken out   (eval callback)
//! numbers  row formats                          (ggml_type_traits)
//! operators  what a device computes itself       (ggml_backend_dev_supports_op)
//! scheduling  policies of threads               (libc)
//! log      llama.cpp's log as tracing events
//! ```
//!
//! Three promises hold at this border. What llama.cpp would answer with an abort (too many rows, a
//! token outside the vocabulary, a sequence id out of range) is refused before the call. Lengths of
//! all arrays are checked against what the callee reads. An owner outlives what it lends.
#![allow(unsafe_code)]

pub(crate) mod backend;
pub(crate) mod context;
pub(crate) mod log;
pub(crate) mod model;
pub(crate) mod numbers;
pub(crate) mod operators;
pub(crate) mod scheduling;
mod tap;

use std::ffi::{CStr, CString, c_char};
use std::path::Path;

/// Copies a C string; `""` for null, bytes outside UTF-8 replaced.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that lives for the call.
unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and NUL-terminated by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// `path` for a C API; an error text where it holds a NUL byte.
fn c_path(path: &Path) -> Result<CString, String> {
    use std::os::unix::ffi::OsStrExt as _;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| format!("the path {} holds a NUL byte", path.display()))
}
