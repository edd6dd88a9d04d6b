//! What a driver wrote into a buffer, as text that can be shown. A driver is not trusted to end its strings, to keep to
//! an encoding, or to leave the terminal alone.

use crate::pci::PciAddress;
use crate::text::is_plain;
use uuid::Uuid;

/// More than any product's name has.
const TEXT_LIMIT: usize = 96;

/// The bytes before the first zero, at most [`TEXT_LIMIT`] characters, with control characters and what is no UTF-8
/// replaced. Nothing where nothing is left.
pub(super) fn clean(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text: String = String::from_utf8_lossy(&bytes[..end])
        .chars()
        .take(TEXT_LIMIT)
        .map(|c| if is_plain(c) { c } else { char::REPLACEMENT_CHARACTER })
        .collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// An identity such as `GPU-…` or `MIG-…`: letters, digits, dashes and (in identities of slices before driver 470)
/// slashes. Anything else would not be the same after a restart, and is none.
pub(super) fn identity(bytes: &[u8]) -> Option<String> {
    let text = clean(bytes)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '/';
    let whole = bytes.contains(&0) && text.len() < TEXT_LIMIT;
    (whole && text.chars().all(plain)).then_some(text)
}

/// `GPU-` or `MIG-` and the sixteen bytes as the driver's tools print them. Boards without identity give zeros.
pub(super) fn identity_of(prefix: &str, bytes: [u8; 16]) -> Option<String> {
    (bytes != [0; 16]).then(|| format!("{prefix}{}", Uuid::from_bytes(bytes)))
}

/// A bus address in any of the drivers' spellings (`00000000:65:00.0`, `0000:65:00.0`), as the kernel spells it.
/// Nothing where it is none, or where it is the zero that boards without a bus give.
pub(super) fn pci_address(bytes: &[u8]) -> Option<String> {
    let address = PciAddress::parse(&clean(bytes)?)?;
    let parts = (address.domain?, address.bus, address.device, address.function?);
    (parts != (0, 0, 0, 0)).then(|| address.to_string())
}

#[cfg(test)]
mod tests;
