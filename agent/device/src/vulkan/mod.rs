//! Devices that the Vulkan loader finds. The loader is opened at run time: a node without it gets an answer.

mod call;
mod driver;
mod kernels;
pub mod parse;

use crate::driver::Driver;
use std::path::Path;

/// Every device that the Vulkan loader finds. Main memory, which some of them use, is that below `root`.
pub fn driver(root: &Path) -> Box<dyn Driver> {
    Box::new(driver::Devices::new(root))
}

#[cfg(test)]
mod tests;
