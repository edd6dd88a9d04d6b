//! What the language cannot say safely: memory that may be refused, and instructions that not every processor has.
#![allow(unsafe_code)]

pub(super) mod isa;
pub(super) mod product;

use std::alloc::Layout;

/// Zeroed memory that no page was taken for yet; nothing where the kernel refuses.
pub(super) fn zeroed(bytes: usize) -> Option<Box<[u8]>> {
    let layout = Layout::array::<u8>(bytes).ok().filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout is not empty. What comes back is zeroed, so its bytes are initialised, and it was allocated with
    // exactly the layout that a box of as many bytes is freed with.
    unsafe {
        let start = std::alloc::alloc_zeroed(layout);
        (!start.is_null()).then(|| Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, bytes)))
    }
}
