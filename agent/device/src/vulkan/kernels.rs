//! The kernel of a matrix product, compiled; a test compiles the source again and compares.

/// `product.wgsl` with inputs in single precision, SPIR-V 1.3.
pub(super) const PRODUCT: &[u8] = include_bytes!("product.spv");
/// The same with inputs in half precision; needs the capabilities Float16 and StorageBuffer16BitAccess.
pub(super) const PRODUCT_HALF: &[u8] = include_bytes!("product_half.spv");
/// Rows and columns that a workgroup computes.
pub(super) const TILE: usize = 64;

#[cfg(test)]
mod tests;
