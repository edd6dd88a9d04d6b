//! What the kernel's log says of devices: a pure parser of `/dev/kmsg` records, and a thin reader.
//!
//! A record is `<priority>,<sequence>,<µs>,<flags>;<text>` and continuation lines ` KEY=value`
//! (Documentation/ABI/testing/dev-kmsg). A process that writes to the log is given facility 1 at least; only what the
//! kernel itself wrote, facility 0, is believed.

mod lines;
mod reader;

pub use reader::{Heard, Reader};

use crate::telemetry::{DeviceEvent, KernelFault};

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// NVIDIA's driver told an event. Without an address it could be any of its devices.
    Xid(DeviceEvent),
    /// Another driver told that a device failed.
    Driver(KernelFault),
    /// It reads like a driver's, and was written by a process.
    Spoofed,
    /// Nothing of devices.
    Other,
}

/// Of the text that is kept of a record.
const TEXT_LIMIT_BYTES: usize = 512;

/// Reads one record. What is not one is [`Record::Other`].
pub fn record(bytes: &[u8]) -> Record {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, rest)) = text.split_once(';') else {
        return Record::Other;
    };
    let Some(priority) = head.split(',').next().and_then(|number| number.parse::<u32>().ok()) else {
        return Record::Other;
    };
    let mut parts = rest.split('\n');
    let message = parts.next().unwrap_or_default();
    let found = lines::xid(message)
        .map(Record::Xid)
        .or_else(|| lines::driver(message, device_of(parts).as_deref()).map(Record::Driver));
    match found {
        None => Record::Other,
        // The lower three bits are the level.
        Some(_) if priority >> 3 != 0 => Record::Spoofed,
        Some(record) => record,
    }
}

/// The bus address of ` DEVICE=+pci:0000:65:00.0`.
fn device_of<'a>(continuations: impl Iterator<Item = &'a str>) -> Option<String> {
    continuations
        .filter_map(|line| line.trim_start().strip_prefix("DEVICE=+pci:"))
        .find_map(lines::address)
}

/// The message without control characters, cut where it is too long.
fn tidy(message: &str) -> String {
    let mut text = String::new();
    for character in message.trim().chars() {
        if text.len() + character.len_utf8() > TEXT_LIMIT_BYTES {
            break;
        }
        text.push(if character.is_control() { ' ' } else { character });
    }
    text
}

#[cfg(test)]
mod tests;
