//! The tap: takes the residual stream after a slice's last layer, by ggml's eval callback, and puts
//! right what a graph did to the stream on its way in.

use std::ffi::{CStr, CString, c_void};

use llama_cpp_sys_2 as sys;

/// The tensor to take, the tensor to overwrite, and what was taken.
#[derive(Debug)]
pub(super) struct Tap {
    taken: Option<CString>,
    overwritten: Option<CString>,
    width: usize,
    /// Rows of the decode under way: anything else is refused in the callback.
    expected_rows: usize,
    /// What to overwrite with.
    fed: Vec<f32>,
    rows: Vec<f32>,
    takes: u32,
    writes: u32,
    fault: Option<String>,
}

impl Tap {
    pub(super) fn new(taken: Option<&str>, overwritten: Option<&str>, width: usize) -> Result<Self, String> {
        let named = |name: Option<&str>| name.map(CString::new).transpose();
        let names = named(taken).and_then(|taken| Ok((taken, named(overwritten)?)));
        let (taken, overwritten) = names.map_err(|_| "a tensor's name holds a NUL byte".to_owned())?;
        if width == 0 {
            return Err("the model has no embedding length".to_owned());
        }
        Ok(Self {
            taken,
            overwritten,
            width,
            expected_rows: 0,
            fed: Vec::new(),
            rows: Vec::new(),
            takes: 0,
            writes: 0,
            fault: None,
        })
    }

    /// Whether it takes rows out, and so needs all of a decode's.
    pub(super) fn takes(&self) -> bool {
        self.taken.is_some()
    }

    /// Forgets what was taken and expects `rows` from the next decode, which is fed `fed`.
    pub(super) fn prepare(&mut self, rows: usize, fed: &[f32]) {
        self.expected_rows = rows;
        self.fed.clear();
        if self.overwritten.is_some() {
            self.fed.extend_from_slice(fed);
        }
        self.rows = Vec::new();
        self.takes = 0;
        self.writes = 0;
        self.fault = None;
    }

    /// Whether the decode that ended was fed as it should.
    ///
    /// # Errors
    /// Says what the graph did instead of passing the overwritten tensor once.
    pub(super) fn check_fed(&self) -> Result<(), String> {
        match (&self.overwritten, &self.fault) {
            (Some(_), Some(fault)) => Err(fault.clone()),
            (Some(name), None) if self.writes != 1 => Err(format!(
                "the graph computed {} {} times, not once",
                name.to_string_lossy(),
                self.writes
            )),
            _ => Ok(()),
        }
    }

    /// The rows of the last decode, in batch order.
    ///
    /// # Errors
    /// Says what was seen where it was not exactly the expected rows in one piece.
    pub(super) fn finish(&mut self) -> Result<Vec<f32>, String> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if self.takes != 1 || self.rows.len() != self.expected_rows * self.width {
            return Err(format!(
                "sent {} rows, took {} in {} calls",
                self.expected_rows,
                self.rows.len() / self.width,
                self.takes
            ));
        }
        Ok(std::mem::take(&mut self.rows))
    }

    fn is_taken(&self, name: &CStr) -> bool {
        self.taken.as_deref() == Some(name)
    }

    fn is_overwritten(&self, name: &CStr) -> bool {
        self.overwritten.as_deref() == Some(name)
    }

    /// Whether `tensor` has one contiguous f32 row for each row sent; else notes the fault.
    fn fits(&mut self, tensor: &sys::ggml_tensor) -> bool {
        let shape = (tensor.type_, tensor.ne[0], tensor.ne[1], tensor.ne[2] * tensor.ne[3]);
        let fits = tensor.type_ == sys::GGML_TYPE_F32
            && usize::try_from(tensor.ne[0]) == Ok(self.width)
            && usize::try_from(tensor.ne[1]) == Ok(self.expected_rows)
            && tensor.ne[2] == 1
            && tensor.ne[3] == 1
            && tensor.nb[0] == size_of::<f32>()
            && tensor.nb[1] == self.width * size_of::<f32>();
        if !fits {
            self.fault = Some(format!(
                "sent {} rows of {} values, saw (type, values, rows, planes) {shape:?}",
                self.expected_rows, self.width
            ));
        }
        fits
    }

    /// Copies the rows of `tensor`, which has just been computed.
    fn read(&mut self, tensor: &sys::ggml_tensor) {
        self.takes += 1;
        if !self.fits(tensor) {
            return;
        }
        let values = self.expected_rows * self.width;
        self.rows = Vec::with_capacity(values);
        // SAFETY: a computed, contiguous f32 tensor of exactly as many values as the vector has room for; all of them
        // are written before they count as its own.
        unsafe {
            sys::ggml_backend_tensor_get(tensor, self.rows.as_mut_ptr().cast(), 0, values * size_of::<f32>());
            self.rows.set_len(values);
        }
    }

    /// Writes the fed rows over `tensor`, which has just been computed and not yet been used.
    fn write(&mut self, tensor: &mut sys::ggml_tensor) {
        self.writes += 1;
        if !self.fits(tensor) {
            return;
        }
        if self.fed.len() != self.expected_rows * self.width {
            self.fault = Some("only activations can be fed to this slice".to_owned());
            return;
        }
        let bytes = size_of_val(self.fed.as_slice());
        // SAFETY: a computed, contiguous f32 tensor of exactly as many bytes as the vector has.
        unsafe { sys::ggml_backend_tensor_set(tensor, self.fed.as_ptr().cast(), 0, bytes) };
    }
}

/// ggml's eval callback: asked about every node, it wants the overwritten and the taken one; it
/// overwrites the former, reads the latter, and ends the graph there.
///
/// # Safety
/// For ggml to call, with a [`Tap`] as its user data that nobody else touches meanwhile.
pub(super) unsafe extern "C" fn take(tensor: *mut sys::ggml_tensor, ask: bool, user: *mut c_void) -> bool {
    // SAFETY: ggml passes a live tensor that it does not touch meanwhile, and `user` is the tap of
    // the context that decodes, which touches it only before and after the decode.
    let (Some(tensor), Some(tap)) = (unsafe { (tensor.as_mut(), user.cast::<Tap>().as_mut()) }) else {
        return !ask;
    };
    // SAFETY: ggml keeps names NUL-terminated inside the tensor, and changes none meanwhile.
    let name = unsafe { CStr::from_ptr(tensor.name.as_ptr()) };
    let (taken, overwritten) = (tap.is_taken(name), tap.is_overwritten(name));
    if ask {
        return taken || overwritten;
    }
    if overwritten {
        tap.write(tensor);
    }
    if taken {
        tap.read(tensor);
    }
    !taken
}
