//! The tap: takes the residual stream after a slice's last layer, by ggml's eval callback.

use std::ffi::{CStr, CString, c_void};

use llama_cpp_sys_2 as sys;

/// The tensor to take, and what was taken.
#[derive(Debug)]
pub(super) struct Tap {
    name: CString,
    width: usize,
    /// Rows of the decode under way: anything else is refused in the callback.
    expected_rows: usize,
    rows: Vec<f32>,
    calls: u32,
    fault: Option<String>,
}

impl Tap {
    pub(super) fn new(name: &str, width: usize) -> Result<Self, String> {
        let name = CString::new(name).map_err(|_| "the tap's name holds a NUL byte".to_owned())?;
        if width == 0 {
            return Err("the model has no embedding length".to_owned());
        }
        Ok(Self {
            name,
            width,
            expected_rows: 0,
            rows: Vec::new(),
            calls: 0,
            fault: None,
        })
    }

    /// Forgets what was taken and expects `rows` from the next decode.
    pub(super) fn prepare(&mut self, rows: usize) {
        self.expected_rows = rows;
        self.rows = Vec::new();
        self.calls = 0;
        self.fault = None;
    }

    /// The rows of the last decode, in batch order.
    ///
    /// # Errors
    /// Says what was seen where it was not exactly the expected rows in one piece.
    pub(super) fn finish(&mut self) -> Result<Vec<f32>, String> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if self.calls != 1 || self.rows.len() != self.expected_rows * self.width {
            return Err(format!(
                "sent {} rows, took {} in {} calls",
                self.expected_rows,
                self.rows.len() / self.width,
                self.calls
            ));
        }
        Ok(std::mem::take(&mut self.rows))
    }

    /// Copies the rows of `tensor`, which has just been computed.
    fn read(&mut self, tensor: &sys::ggml_tensor) {
        self.calls += 1;
        let shape = (tensor.type_, tensor.ne[0], tensor.ne[1], tensor.ne[2] * tensor.ne[3]);
        let row_bytes = self.width * size_of::<f32>();
        let fits = tensor.type_ == sys::GGML_TYPE_F32
            && usize::try_from(tensor.ne[0]) == Ok(self.width)
            && usize::try_from(tensor.ne[1]) == Ok(self.expected_rows)
            && tensor.ne[2] == 1
            && tensor.ne[3] == 1
            && tensor.nb[0] == size_of::<f32>()
            && tensor.nb[1] == row_bytes;
        if !fits {
            self.fault = Some(format!(
                "sent {} rows of {} values, saw (type, values, rows, planes) {shape:?}",
                self.expected_rows, self.width
            ));
            return;
        }
        self.rows = vec![0.0; self.expected_rows * self.width];
        // SAFETY: a computed, contiguous f32 tensor of exactly as many bytes as the vector has.
        unsafe {
            sys::ggml_backend_tensor_get(tensor, self.rows.as_mut_ptr().cast(), 0, self.expected_rows * row_bytes);
        }
    }
}

/// ggml's eval callback: asked about every node, it wants the tapped one, reads it, and ends the
/// graph there.
///
/// # Safety
/// For ggml to call, with a [`Tap`] as its user data that nobody else touches meanwhile.
pub(super) unsafe extern "C" fn take(tensor: *mut sys::ggml_tensor, ask: bool, user: *mut c_void) -> bool {
    // SAFETY: ggml passes a live tensor, and `user` is the tap of the context that decodes, which
    // touches it only before and after the decode.
    let (Some(tensor), Some(tap)) = (unsafe { (tensor.as_ref(), user.cast::<Tap>().as_mut()) }) else {
        return !ask;
    };
    // SAFETY: ggml keeps names NUL-terminated inside the tensor.
    let wanted = unsafe { CStr::from_ptr(tensor.name.as_ptr()) } == tap.name.as_c_str();
    if ask {
        return wanted;
    }
    if wanted {
        tap.read(tensor);
    }
    !wanted
}
