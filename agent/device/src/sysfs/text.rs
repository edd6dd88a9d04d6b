//! Text of the kernel's files and of drivers, none of which is trusted. Pure.

use crate::pci::PciAddress;
use crate::text::is_plain;

/// Fit to be shown: one line, at most `limit` characters, nothing that moves a cursor; nothing where nothing is left.
pub(crate) fn printable(text: &str, limit: usize) -> Option<String> {
    let line = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let kept: String = line
        .chars()
        .take(limit)
        .map(|c| if is_plain(c) && c != '\u{FFFD}' { c } else { '?' })
        .collect();
    let kept = kept.trim_end().to_owned();
    // A name of replaced characters only names nothing.
    kept.chars().any(|c| c != '?').then_some(kept)
}

/// A number as the kernel writes it: decimal, or hexadecimal with 0x.
pub(super) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The value of `key=value` among lines.
pub(super) fn value_of<'a>(lines: &'a str, key: &str) -> Option<&'a str> {
    lines.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

/// A PCI address in the one way in which it is compared: `0000:03:00.0`. HIP leaves the domain's zeros and the function
/// out in some versions.
pub(crate) fn bus_address(text: &str) -> Option<String> {
    let address = PciAddress::parse(text.trim().trim_matches('\0'))?;
    Some(address.to_string())
}
