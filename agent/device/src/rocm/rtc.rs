//! Calls into hipRTC: from the kernels' source to code for one architecture.
#![allow(unsafe_code)]

use super::library::{self, symbols};
use crate::sysfs::printable;
use std::ffi::{CString, c_char, c_int, c_void};

/// Code of four small kernels; a library that says more is not believed.
const CODE_LIMIT_BYTES: usize = 64 << 20;
const LOG_LIMIT_BYTES: usize = 64 << 10;
/// Of a compiler's complaint, as much as helps a person.
const COMPLAINT_LIMIT: usize = 400;

const SOURCE: &str = include_str!("kernels.hip");

symbols!(Table {
    hiprtcCreateProgram: fn(
        *mut *mut c_void, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char,
    ) -> c_int;
    hiprtcCompileProgram: fn(*mut c_void, c_int, *const *const c_char) -> c_int;
    hiprtcGetCodeSize: fn(*mut c_void, *mut usize) -> c_int;
    hiprtcGetCode: fn(*mut c_void, *mut c_char) -> c_int;
    hiprtcGetProgramLogSize: fn(*mut c_void, *mut usize) -> c_int;
    hiprtcGetProgramLog: fn(*mut c_void, *mut c_char) -> c_int;
    hiprtcDestroyProgram: fn(*mut *mut c_void) -> c_int;
});

/// Code that hipRTC made of this crate's source.
#[derive(Debug)]
pub(super) struct Code(Vec<u8>);

impl Code {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The compiler's library.
pub(super) struct Rtc(Table);

impl Rtc {
    /// The compiler that goes with HIP of version `major`. Within ROCm 5 its functions moved out of HIP's own library.
    pub(super) fn open(major: u32) -> Result<Self, String> {
        let (own, hips) = (format!("libhiprtc.so.{major}"), format!("libamdhip64.so.{major}"));
        let names = if major == 5 {
            vec![own.as_str(), hips.as_str()]
        } else {
            vec![own.as_str()]
        };
        let (library, _) = library::open(&names)
            .map_err(|error| format!("no hipRTC ({own}): {error}; install ROCm's hip-runtime-amd, whole"))?;
        Table::load(library)
            .map(Self)
            .map_err(|name| format!("hipRTC has no {name}; install ROCm 5 or newer, whole"))
    }

    /// Compiles the kernels for `architecture`, a `gfx` name.
    pub(super) fn compile(&self, architecture: &str) -> Result<Code, String> {
        let text = |text: &str| CString::new(text).map_err(|_| "a zero byte in a text".to_owned());
        let (source, name) = (text(SOURCE)?, text("kernels.hip")?);
        let options = [text(&format!("--offload-arch={architecture}"))?, text("-O3")?];
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: the texts end and outlive the program, which is destroyed below; there are no headers.
        let code = unsafe { (self.0.hiprtcCreateProgram)(&mut program, source.as_ptr(), name.as_ptr(), 0, none, none) };
        if code != 0 || program.is_null() {
            return Err(format!("hiprtcCreateProgram returned {code}"));
        }
        // SAFETY: the program was made above, and the options outlive the call.
        let code = unsafe { (self.0.hiprtcCompileProgram)(program, options.len() as c_int, options.as_ptr()) };
        let made = match code {
            0 => self.code(program),
            code => Err(format!("hiprtcCompileProgram returned {code}: {}", self.log(program))),
        };
        // SAFETY: the program was made above and is not used again.
        unsafe { (self.0.hiprtcDestroyProgram)(&mut program) };
        made
    }

    fn code(&self, program: *mut c_void) -> Result<Code, String> {
        let mut size = 0usize;
        // SAFETY: the program was compiled.
        let code = unsafe { (self.0.hiprtcGetCodeSize)(program, &mut size) };
        if code != 0 || size == 0 || size > CODE_LIMIT_BYTES {
            return Err(format!("hiprtcGetCodeSize returned {code} and {size} bytes"));
        }
        let mut bytes = vec![0u8; size];
        // SAFETY: the library writes as many bytes as it said.
        match unsafe { (self.0.hiprtcGetCode)(program, bytes.as_mut_ptr().cast()) } {
            0 => Ok(Code(bytes)),
            code => Err(format!("hiprtcGetCode returned {code}")),
        }
    }

    fn log(&self, program: *mut c_void) -> String {
        let mut size = 0usize;
        // SAFETY: the program was created.
        let code = unsafe { (self.0.hiprtcGetProgramLogSize)(program, &mut size) };
        if code != 0 || size == 0 || size > LOG_LIMIT_BYTES {
            return "it said nothing".to_owned();
        }
        let mut bytes = vec![0u8; size];
        // SAFETY: the library writes as many bytes as it said.
        let code = unsafe { (self.0.hiprtcGetProgramLog)(program, bytes.as_mut_ptr().cast()) };
        let text = String::from_utf8_lossy(&bytes);
        match (code, printable(&text, COMPLAINT_LIMIT)) {
            (0, Some(text)) => text,
            _ => "it said nothing".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
