//! What a device computes itself, asked of it with tensors that have shapes and no data: operators that few architectures need and
//! not every backend has a kernel for, and products and attention of one model.
//!
//! The former have shapes of published models of each kind: some kernels are for some sizes only.

use std::ptr::NonNull;

use gguf::group::Attention;
use llama_cpp_sys_2 as sys;

use super::backend::DeviceHandle;

type Tensor = *mut sys::ggml_tensor;

/// Makes an operator with its operands.
type Make = fn(&Sketch) -> Tensor;

/// By the names that people and the operator know them by: ggml's, and the kind of model where one operator has two forms.
const ASKED: [(&str, Make); 8] = [
    ("SSM_CONV", Sketch::ssm_conv),
    ("SSM_SCAN_MAMBA1", Sketch::ssm_scan_of_mamba_1),
    ("SSM_SCAN_MAMBA2", Sketch::ssm_scan_of_mamba_2),
    ("RWKV_WKV6", Sketch::wkv6),
    ("RWKV_WKV7", Sketch::wkv7),
    ("GATED_LINEAR_ATTN", Sketch::gated_linear_attention),
    ("GATED_DELTA_NET", Sketch::gated_delta_net),
    ("SOLVE_TRI", Sketch::solve_triangle),
];

/// Tensors of the largest question: operands and result of all of them together stay far below.
const TENSORS_MAX: usize = 128;

/// Rows of a question, as llama.cpp asks with.
const ROWS: i64 = 512;
/// Cells of a cache in a question: its smallest block.
const CELLS: i64 = 256;

/// Width of a head in the models of RWKV, and how many there are.
const HEAD: i64 = 64;
const HEADS: i64 = 32;

/// Names of those that the device does not compute itself; `None` where ggml has no memory for the question.
pub(crate) fn missing(device: DeviceHandle) -> Option<Vec<&'static str>> {
    let sketch = Sketch::new()?;
    let lacks = |(_, make): &&(&str, Make)| !computes(device, make(&sketch));
    Some(ASKED.iter().filter(lacks).map(|(name, _)| *name).collect())
}

/// A product of rows with a matrix of weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Product {
    /// ggml's number of the weights' format.
    pub(crate) ggml_type: u32,
    /// Of the weights, the fastest first; of experts the third counts them.
    pub(crate) dimensions: Vec<u64>,
    /// How many experts each row goes to, where there are some.
    pub(crate) experts_used: Option<u32>,
}

/// Whether the device computes a product itself.
pub(crate) fn multiplies(device: DeviceHandle, product: &Product) -> bool {
    Sketch::new().is_some_and(|sketch| computes(device, sketch.product(product)))
}

/// Whether the device itself writes to a cache of ggml's format `kv_type`, and computes attention to it.
pub(crate) fn attends(device: DeviceHandle, attention: &Attention, kv_type: u32) -> bool {
    Sketch::new().is_some_and(|sketch| {
        let written = sketch.written_rows(attention, kv_type);
        computes(device, written) && computes(device, sketch.flash_attention(attention, kv_type))
    })
}

fn computes(device: DeviceHandle, operator: Tensor) -> bool {
    // SAFETY: a live device, and a tensor whose sketch the caller holds; the answer is by kinds and shapes.
    !operator.is_null() && unsafe { sys::ggml_backend_dev_supports_op(device.as_ptr(), operator) }
}

/// Tensors without data, in one graph-less context.
struct Sketch(NonNull<sys::ggml_context>);

impl Drop for Sketch {
    fn drop(&mut self) {
        // SAFETY: made by `new` and freed once; no tensor of it is used any more.
        unsafe { sys::ggml_free(self.0.as_ptr()) };
    }
}

impl Sketch {
    fn new() -> Option<Self> {
        // SAFETY: no buffer of ours; ggml allocates room for descriptions alone.
        let context = unsafe {
            sys::ggml_init(sys::ggml_init_params {
                mem_size: TENSORS_MAX * sys::ggml_tensor_overhead(),
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            })
        };
        NonNull::new(context).map(Self)
    }

    fn context(&self) -> *mut sys::ggml_context {
        self.0.as_ptr()
    }

    fn floats(&self, shape: [i64; 4]) -> Tensor {
        self.tensor(sys::GGML_TYPE_F32, shape)
    }

    fn tensor(&self, kind: sys::ggml_type, shape: [i64; 4]) -> Tensor {
        // SAFETY: a live context with room, a type that there is, and four lengths.
        unsafe { sys::ggml_new_tensor(self.context(), kind, 4, shape.as_ptr()) }
    }

    /// As llama.cpp asks before it puts weights on a device.
    fn product(&self, product: &Product) -> Tensor {
        let length = |place: usize| {
            let length = product.dimensions.get(place).copied().unwrap_or(1);
            i64::try_from(length).unwrap_or(i64::MAX)
        };
        let shape = [0, 1, 2, 3].map(length);
        let weights = self.tensor(product.ggml_type, shape);
        let Some(used) = product.experts_used.map(i64::from) else {
            let rows = self.floats([shape[0], ROWS, shape[2], shape[3]]);
            // SAFETY: shapes as ggml asserts them: rows as long as the matrix's, and as many matrices.
            return unsafe { sys::ggml_mul_mat(self.context(), weights, rows) };
        };
        let rows = self.floats([shape[0], used, ROWS, 1]);
        let choices = self.tensor(sys::GGML_TYPE_I32, [used, ROWS, 1, 1]);
        if shape[3] != 1 {
            return std::ptr::null_mut();
        }
        // SAFETY: shapes as ggml asserts them: as many choices as rows, and one matrix for each expert.
        unsafe { sys::ggml_mul_mat_id(self.context(), weights, rows, choices) }
    }

    /// Keys of some tokens, put into a cache.
    fn written_rows(&self, attention: &Attention, kv_type: u32) -> Tensor {
        let width = i64::from(attention.head_length).saturating_mul(attention.kv_heads.into());
        let cache = self.tensor(kv_type, [width, CELLS, 1, 1]);
        let rows = self.floats([width, ROWS, 1, 1]);
        let places = self.tensor(sys::GGML_TYPE_I64, [ROWS, 1, 1, 1]);
        // SAFETY: shapes as ggml asserts them: rows as long as the cache's, and a place for each.
        unsafe { sys::ggml_set_rows(self.context(), cache, rows, places) }
    }

    fn flash_attention(&self, attention: &Attention, kv_type: u32) -> Tensor {
        let (length, kv_heads) = (i64::from(attention.head_length), i64::from(attention.kv_heads));
        let heads = kv_heads.saturating_mul(attention.queries_per_head.into());
        // What is kept in 32 bits is attended to in 16.
        let kind = match kv_type {
            sys::GGML_TYPE_F32 => sys::GGML_TYPE_F16,
            kind => kind,
        };
        let queries = self.floats([length, ROWS, heads, 1]);
        let [keys, values] = [(); 2].map(|()| self.tensor(kind, [length, CELLS, kv_heads, 1]));
        let mask = self.tensor(sys::GGML_TYPE_F16, [CELLS, ROWS, 1, 1]);
        // SAFETY: shapes as ggml asserts them: the same number of query heads for each key and value head, and a mask for each row
        // over all cells.
        unsafe { sys::ggml_flash_attn_ext(self.context(), queries, keys, values, mask, 1.0, 0.0, 0.0) }
    }

    /// Which states the sequences of a step have: of one.
    fn ids(&self) -> Tensor {
        // SAFETY: as in `floats`.
        unsafe { sys::ggml_new_tensor_1d(self.context(), sys::GGML_TYPE_I32, 1) }
    }

    fn ssm_conv(&self) -> Tensor {
        let (rows, kernel) = (self.floats([4, 2048, 1, 1]), self.floats([4, 2048, 1, 1]));
        // SAFETY: shapes as ggml asserts them: as many channels in both, and no fewer rows than the kernel has.
        unsafe { sys::ggml_ssm_conv(self.context(), rows, kernel) }
    }

    /// A decay for each element of the state.
    fn ssm_scan_of_mamba_1(&self) -> Tensor {
        self.ssm_scan(16, 1, 2048, 16)
    }

    /// One for each head.
    fn ssm_scan_of_mamba_2(&self) -> Tensor {
        self.ssm_scan(128, 64, 32, 1)
    }

    fn ssm_scan(&self, state: i64, width: i64, heads: i64, decays: i64) -> Tensor {
        let states = self.floats([state, width, heads, 1]);
        let rows = self.floats([width, heads, 1, 1]);
        let steps = self.floats([heads, 1, 1, 1]);
        let decay = self.floats([decays, heads, 1, 1]);
        let (input, output) = (self.floats([state, 1, 1, 1]), self.floats([state, 1, 1, 1]));
        // SAFETY: shapes as ggml asserts them, of one token of one sequence.
        unsafe { sys::ggml_ssm_scan(self.context(), states, rows, steps, decay, input, output, self.ids(), 1) }
    }

    /// What every row of a head is made of.
    fn row(&self) -> Tensor {
        self.floats([HEAD, HEADS, 1, 1])
    }

    fn head_states(&self) -> Tensor {
        self.floats([HEAD * HEAD * HEADS, 1, 1, 1])
    }

    fn wkv6(&self) -> Tensor {
        let [k, v, r, first, decay] = [(); 5].map(|()| self.row());
        // SAFETY: shapes as ggml asserts them: all rows alike, and a state for each head.
        unsafe { sys::ggml_rwkv_wkv6(self.context(), k, v, r, first, decay, self.head_states()) }
    }

    fn wkv7(&self) -> Tensor {
        let [r, w, k, v, a, b] = [(); 6].map(|()| self.row());
        // SAFETY: as in `wkv6`.
        unsafe { sys::ggml_rwkv_wkv7(self.context(), r, w, k, v, a, b, self.head_states()) }
    }

    fn gated_linear_attention(&self) -> Tensor {
        let [k, v, q, gate] = [(); 4].map(|()| self.row());
        // SAFETY: as in `wkv6`.
        unsafe { sys::ggml_gated_linear_attn(self.context(), k, v, q, gate, self.head_states(), 1.0) }
    }

    fn gated_delta_net(&self) -> Tensor {
        const WIDTH: i64 = 128;
        let [q, k, v] = [(); 3].map(|()| self.floats([WIDTH, HEADS, 1, 1]));
        let [gate, beta] = [(); 2].map(|()| self.floats([1, HEADS, 1, 1]));
        let state = self.floats([WIDTH, WIDTH, HEADS, 1]);
        // SAFETY: shapes as ggml asserts them, of one token of one sequence.
        unsafe { sys::ggml_gated_delta_net(self.context(), q, k, v, gate, beta, state, 1) }
    }

    fn solve_triangle(&self) -> Tensor {
        let [triangle, right] = [(); 2].map(|()| self.floats([HEAD, HEAD, HEADS, 1]));
        // SAFETY: shapes as ggml asserts them: a square, and as many rows; the one form that there is.
        unsafe { sys::ggml_solve_tri(self.context(), triangle, right, true, true, false) }
    }
}
