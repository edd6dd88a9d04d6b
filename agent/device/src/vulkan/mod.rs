//! Devices that the Vulkan loader finds. The loader is opened at run time: a node without it gets an answer.

mod call;
mod exercise;
pub mod parse;

use crate::{Answer, Backend};

/// Asks every driver for its devices, verifies and measures each.
pub fn probe(now_unix_s: u64) -> Answer {
    let loader = match call::Loader::open() {
        Ok(loader) => loader,
        Err(error) => return Answer::nothing(Backend::Vulkan, error.to_string()),
    };
    let raw = match loader.physical_devices() {
        Ok(raw) => raw,
        Err(error) => return Answer::nothing(Backend::Vulkan, error.to_string()),
    };
    let note = raw.is_empty().then(|| {
        "the Vulkan loader is here, but no driver offers a device; install the card's Vulkan driver".to_owned()
    });
    let devices = raw
        .iter()
        .map(|facts| {
            let exercise = exercise::exercise(&loader, facts, now_unix_s);
            parse::device(facts, exercise)
        })
        .collect();
    Answer {
        backend: Backend::Vulkan,
        devices,
        note,
    }
}

#[cfg(test)]
mod tests;
