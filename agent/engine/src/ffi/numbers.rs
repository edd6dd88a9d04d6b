//! Row formats: sizes, and decoding to f32 with ggml's own routines.

use llama_cpp_sys_2 as sys;

/// How rows of one ggml tensor type become f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowFormat {
    columns: usize,
    row_bytes: usize,
    to_float: sys::ggml_to_float_t,
    is_f32: bool,
}

impl RowFormat {
    /// The format of rows of `columns` values of ggml type `ggml_type`; `None` where the type is
    /// unknown, cannot be decoded, or does not divide the row.
    pub(crate) fn new(ggml_type: u32, columns: usize) -> Option<Self> {
        if ggml_type >= sys::GGML_TYPE_COUNT || columns == 0 {
            return None;
        }
        // SAFETY: the type is below the count, so the table has an entry; entries are static.
        let traits = unsafe { sys::ggml_get_type_traits(ggml_type).as_ref() }?;
        let block = usize::try_from(traits.blck_size).ok().filter(|block| *block > 0)?;
        let is_f32 = ggml_type == sys::GGML_TYPE_F32;
        if !columns.is_multiple_of(block) || traits.type_size == 0 {
            return None;
        }
        if traits.to_float.is_none() && !is_f32 {
            return None;
        }
        let row_bytes = (columns / block).checked_mul(traits.type_size)?;
        Some(Self {
            columns,
            row_bytes,
            to_float: traits.to_float,
            is_f32,
        })
    }

    /// Bytes of one encoded row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Decodes one row; both lengths are checked.
    pub(crate) fn decode(&self, encoded: &[u8], row: &mut [f32]) -> bool {
        if encoded.len() != self.row_bytes || row.len() != self.columns {
            return false;
        }
        if self.is_f32 {
            for (value, bytes) in row.iter_mut().zip(encoded.chunks_exact(4)) {
                *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            return true;
        }
        let Some(to_float) = self.to_float else {
            return false;
        };
        // Blocks hold 16-bit fields; a copy in words keeps them aligned whatever the source.
        let mut words = vec![0u64; encoded.len().div_ceil(8)];
        // SAFETY: the words hold at least `encoded.len()` bytes and do not overlap it; `to_float`
        // reads `columns` values, `row_bytes` long, and writes as many f32: both checked above.
        unsafe {
            std::ptr::copy_nonoverlapping(encoded.as_ptr(), words.as_mut_ptr().cast::<u8>(), encoded.len());
            to_float(words.as_ptr().cast(), row.as_mut_ptr(), self.columns as i64);
        }
        true
    }
}

/// ggml's number of the 32-bit float type.
pub(crate) const F32: u32 = sys::GGML_TYPE_F32;
/// ggml's number of the 16-bit float type.
pub(crate) const F16: u32 = sys::GGML_TYPE_F16;
/// ggml's number of the 8-bit block type.
pub(crate) const Q8_0: u32 = sys::GGML_TYPE_Q8_0;
