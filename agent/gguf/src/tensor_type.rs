//! The element types of ggml tensors, and how many bytes their blocks take.

use std::fmt;

/// A ggml tensor type. Elements are stored in blocks of [`block_elements`](Self::block_elements) along the first dimension.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorType {
    id: u32,
    name: &'static str,
    block_elements: u64,
    block_bytes: u64,
}

const fn of(id: u32, name: &'static str, block_elements: u64, block_bytes: u64) -> TensorType {
    TensorType {
        id,
        name,
        block_elements,
        block_bytes,
    }
}

/// Every type that ggml can still read from a file; ids that are missing here were withdrawn upstream.
const TYPES: [TensorType; 35] = [
    of(0, "F32", 1, 4),
    of(1, "F16", 1, 2),
    of(2, "Q4_0", 32, 18),
    of(3, "Q4_1", 32, 20),
    of(6, "Q5_0", 32, 22),
    of(7, "Q5_1", 32, 24),
    of(8, "Q8_0", 32, 34),
    of(9, "Q8_1", 32, 36),
    of(10, "Q2_K", 256, 84),
    of(11, "Q3_K", 256, 110),
    of(12, "Q4_K", 256, 144),
    of(13, "Q5_K", 256, 176),
    of(14, "Q6_K", 256, 210),
    of(15, "Q8_K", 256, 292),
    of(16, "IQ2_XXS", 256, 66),
    of(17, "IQ2_XS", 256, 74),
    of(18, "IQ3_XXS", 256, 98),
    of(19, "IQ1_S", 256, 50),
    of(20, "IQ4_NL", 32, 18),
    of(21, "IQ3_S", 256, 110),
    of(22, "IQ2_S", 256, 82),
    of(23, "IQ4_XS", 256, 136),
    of(24, "I8", 1, 1),
    of(25, "I16", 1, 2),
    of(26, "I32", 1, 4),
    of(27, "I64", 1, 8),
    of(28, "F64", 1, 8),
    of(29, "IQ1_M", 256, 56),
    of(30, "BF16", 1, 2),
    of(34, "TQ1_0", 256, 54),
    of(35, "TQ2_0", 256, 66),
    of(39, "MXFP4", 32, 17),
    of(40, "NVFP4", 64, 36),
    of(41, "Q1_0", 128, 18),
    of(42, "Q2_0", 64, 18),
];

impl TensorType {
    /// 32-bit floats: the type of everything this crate makes up itself.
    pub const F32: Self = TYPES[0];

    /// The type with this id in a GGUF file, or `None` for one that ggml does not read.
    pub fn from_id(id: u32) -> Option<Self> {
        TYPES.iter().copied().find(|kind| kind.id == id)
    }

    /// The id in a GGUF file; the same number as ggml's `ggml_type`.
    pub fn id(self) -> u32 {
        self.id
    }

    /// The name people use: `Q4_1`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Elements of one block. The first dimension of a tensor is a multiple of it.
    pub fn block_elements(self) -> u64 {
        self.block_elements
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> u64 {
        self.block_bytes
    }

    /// Bytes of `elements` elements that fill whole rows, or `None` on overflow or a torn block.
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_elements) {
            return None;
        }
        (elements / self.block_elements).checked_mul(self.block_bytes)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}
