//! llama.cpp's log as `tracing` events, and its last errors as the cause of a failed call.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Once;

use llama_cpp_sys_2 as sys;

/// One message of llama.cpp may come in many pieces; a piece chain longer than this is cut.
const LINE_LIMIT_BYTES: usize = 8 * 1024;

/// Error lines kept per thread as the cause of a failed call; llama.cpp reports a refused file in
/// two or three.
const KEPT_ERRORS: usize = 4;

thread_local! {
    static LINE: RefCell<Line> = const { RefCell::new(Line { level: 0, text: String::new() }) };
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Line {
    level: sys::ggml_log_level,
    text: String,
}

/// Routes llama.cpp's and ggml's log to `tracing` (target `llama.cpp`), once per process.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the callback is a plain function without captured state.
        unsafe { sys::llama_log_set(Some(receive), std::ptr::null_mut()) };
    });
}

/// Runs `call` and returns with its value the error lines that llama.cpp wrote on this thread
/// meanwhile, joined; empty where it wrote none.
pub(crate) fn with_errors<T>(call: impl FnOnce() -> T) -> (T, String) {
    ERRORS.with_borrow_mut(Vec::clear);
    let value = call();
    let errors = ERRORS.with_borrow_mut(std::mem::take);
    (value, errors.join("; "))
}

unsafe extern "C" fn receive(level: sys::ggml_log_level, text: *const c_char, _user: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives for the call.
    let piece = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    // A thread that is being torn down has lost its line buffer; its message is dropped.
    let _ = LINE.try_with(|line| {
        if let Ok(mut line) = line.try_borrow_mut() {
            line.push(level, &piece);
        }
    });
}

impl Line {
    fn push(&mut self, level: sys::ggml_log_level, piece: &str) {
        if level != sys::GGML_LOG_LEVEL_CONT {
            self.level = level;
        }
        for part in piece.split_inclusive('\n') {
            if self.text.len() + part.len() <= LINE_LIMIT_BYTES {
                self.text.push_str(part);
            }
            if part.ends_with('\n') {
                self.emit();
            }
        }
    }

    fn emit(&mut self) {
        let text = std::mem::take(&mut self.text);
        let text = text.trim_end();
        // llama.cpp says "info" for what an operator of a fleet reads only when debugging.
        match self.level {
            _ if text.trim_start_matches('.').is_empty() => {}
            sys::GGML_LOG_LEVEL_ERROR => {
                tracing::warn!(target: "llama.cpp", "{text}");
                let _ = ERRORS.try_with(|errors| {
                    if let Ok(mut errors) = errors.try_borrow_mut()
                        && errors.len() < KEPT_ERRORS
                    {
                        errors.push(text.to_owned());
                    }
                });
            }
            sys::GGML_LOG_LEVEL_WARN => tracing::debug!(target: "llama.cpp", "{text}"),
            sys::GGML_LOG_LEVEL_INFO => tracing::debug!(target: "llama.cpp", "{text}"),
            _ => tracing::trace!(target: "llama.cpp", "{text}"),
        }
    }
}
