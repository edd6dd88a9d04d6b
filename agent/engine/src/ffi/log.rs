//! llama.cpp's log as `tracing` events, and its last errors as the cause of a failed call.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};
use std::sync::Once;

use llama_cpp_sys_2 as sys;

/// One message of llama.cpp may come in many pieces; a piece chain longer than this is cut.
const LINE_LIMIT_BYTES: usize = 8 * 1024;

/// Error lines kept per thread as the cause of a failed call; llama.cpp reports a refused file in
/// two or three.
const KEPT_ERRORS: usize = 4;

/// Buffers noted per thread: a model on one device beside the host has some ten.
const KEPT_BUFFERS: usize = 64;

thread_local! {
    static BUFFERS: RefCell<Option<Vec<Buffer>>> = const { RefCell::new(None) };
    static LINE: RefCell<Line> = const { RefCell::new(Line { level: 0, text: String::new() }) };
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// A buffer that llama.cpp has allocated, by its own account.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Buffer {
    /// ggml's name of the buffer or its type: `CPU`, `CPU_Mapped`, `Vulkan0`, `CUDA_Host`, …
    pub(crate) name: String,
    pub(crate) purpose: Purpose,
    /// To the hundredth of a MiB.
    pub(crate) bytes: u64,
}

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Weights,
    Cache,
    /// What a graph computes in, and its outputs.
    Compute,
}

/// Runs `call` and returns with its value the buffers that llama.cpp says it has allocated on this thread meanwhile.
/// There is no call that tells: only the log does, in lines that are fixed by the pinned version.
pub(crate) fn with_buffers<T>(call: impl FnOnce() -> T) -> (T, Vec<Buffer>) {
    BUFFERS.with_borrow_mut(|buffers| *buffers = Some(Vec::new()));
    let value = call();
    let buffers = BUFFERS.with_borrow_mut(Option::take);
    (value, buffers.unwrap_or_default())
}

/// A line such as `load_tensors:   CPU model buffer size =   91.73 MiB`.
fn buffer(line: &str) -> Option<Buffer> {
    let (before, size) = line.split_once(" buffer size = ")?;
    let mebibytes: f64 = size.trim().strip_suffix(" MiB")?.trim().parse().ok()?;
    let (_, before) = before.split_once(": ")?;
    let (name, what) = before.trim().split_once(' ')?;
    let purpose = match what.trim() {
        "model" => Purpose::Weights,
        "KV" | "RS" => Purpose::Cache,
        "compute" | "output" => Purpose::Compute,
        _ => return None,
    };
    Some(Buffer {
        name: name.to_owned(),
        purpose,
        bytes: (mebibytes * f64::from(1 << 20)) as u64,
    })
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

/// Whether what fails on this thread from here on was meant to fail: nobody need read of it.
pub(crate) fn expect_errors(expected: bool) {
    EXPECTED.set(expected);
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
        if let Some(buffer) = buffer(text) {
            let _ = BUFFERS.try_with(|buffers| {
                if let Ok(mut buffers) = buffers.try_borrow_mut()
                    && let Some(buffers) = buffers.as_mut().filter(|buffers| buffers.len() < KEPT_BUFFERS)
                {
                    buffers.push(buffer);
                }
            });
        }
        // llama.cpp says "info" for what an operator of a fleet reads only when debugging.
        match self.level {
            _ if text.trim_start_matches('.').is_empty() => {}
            sys::GGML_LOG_LEVEL_ERROR => {
                match EXPECTED.try_with(Cell::get) {
                    Ok(true) => tracing::debug!(target: "llama.cpp", "{text}"),
                    Ok(false) | Err(_) => tracing::warn!(target: "llama.cpp", "{text}"),
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_and_purposeof_a_buffer_are_read_from_llama_cpps_line() {
        let read = buffer("load_tensors:   CPU_Mapped model buffer size =    91.73 MiB");
        let expected = |name: &str, purpose, bytes| {
            let name = name.to_owned();
            Some(Buffer { name, purpose, bytes })
        };
        assert_eq!(read, expected("CPU_Mapped", Purpose::Weights, 96_185_876));
        let read = buffer("llama_kv_cache:    Vulkan0 KV buffer size =   128.00 MiB");
        assert_eq!(read, expected("Vulkan0", Purpose::Cache, 128 << 20));
        let read = buffer("llama_context:        CPU  output buffer size =     0.50 MiB");
        assert_eq!(read, expected("CPU", Purpose::Compute, 1 << 19));
        let read = buffer("sched_reserve:        CPU compute buffer size =     1.00 MiB");
        assert_eq!(read, expected("CPU", Purpose::Compute, 1 << 20));
        let read = buffer("sched_reserve: Meta(Vulkan0,Vulkan1) compute buffer size =     2.50 MiB");
        assert_eq!(read, expected("Meta(Vulkan0,Vulkan1)", Purpose::Compute, 5 << 19));
        assert_eq!(buffer("llama_kv_cache: size =  128.00 MiB (  4096 cells)"), None);
        assert_eq!(buffer("x: CPU LoRA buffer size = much MiB"), None);
    }
}
