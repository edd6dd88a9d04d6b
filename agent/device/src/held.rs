//! Blocks that are freed whatever happens.

use crate::BackendError;
use crate::driver::{Block, Driver, Span};

/// A driver, and the blocks that were allocated by it here: all are freed when this is dropped.
pub(crate) struct Held<'a> {
    /// For everything else.
    pub(crate) driver: &'a mut dyn Driver,
    blocks: Vec<(u32, Block)>,
}

impl<'a> Held<'a> {
    pub(crate) fn new(driver: &'a mut dyn Driver) -> Self {
        Self {
            driver,
            blocks: Vec::new(),
        }
    }

    /// A new block, from its first byte on.
    pub(crate) fn allocate(&mut self, device: u32, bytes: u64) -> Result<Span, BackendError> {
        let block = self.driver.allocate(device, bytes)?;
        self.blocks.push((device, block));
        Ok(Span {
            device,
            block,
            offset: 0,
        })
    }

    /// Frees all now, for who wants to know how that went.
    pub(crate) fn free(&mut self) -> Result<(), BackendError> {
        let mut outcome = Ok(());
        for (device, block) in self.blocks.drain(..) {
            outcome = outcome.and(self.driver.free(device, block));
        }
        outcome
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Whoever drops without asking has a worse error to tell.
        let _ = self.free();
    }
}
