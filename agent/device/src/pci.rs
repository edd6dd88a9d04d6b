//! Addresses on the PCI bus, in every spelling of kernels, drivers and plugins. Pure.

use std::fmt;

/// What an address says, part by part. Some drivers leave the domain out, and some logs the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciAddress {
    /// The kernel writes four digits and, where these are not enough, more; NVIDIA's libraries write eight.
    pub domain: Option<u32>,
    /// At most 0xff.
    pub bus: u32,
    /// At most 0x1f.
    pub device: u32,
    /// At most 7.
    pub function: Option<u32>,
}

impl PciAddress {
    /// Reads `[domain:]bus:device[.function]`; nothing of what is no address.
    pub fn parse(text: &str) -> Option<Self> {
        let (place, function) = match text.split_once('.') {
            Some((place, function)) => (place, Some(number(function, 7)?)),
            None => (text, None),
        };
        let parts: Vec<&str> = place.splitn(4, ':').collect();
        let (domain, bus, device) = match parts.as_slice() {
            [domain, bus, device] => (Some(number(domain, u32::MAX)?), bus, device),
            [bus, device] => (None, bus, device),
            _ => return None,
        };
        Some(Self {
            domain,
            bus: number(bus, 0xff)?,
            device: number(device, 0x1f)?,
            function,
        })
    }

    /// Whether both are of one card. A function that one of them does not tell may be any.
    pub fn may_be(self, other: Self) -> bool {
        let slot = |address: Self| (address.domain, address.bus, address.device);
        let functions = self.function.zip(other.function);
        slot(self) == slot(other) && functions.is_none_or(|(a, b)| a == b)
    }
}

/// As the kernel writes it, with zeros for what is not said: `0000:03:00.0`.
impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (domain, function) = (self.domain.unwrap_or(0), self.function.unwrap_or(0));
        write!(f, "{domain:04x}:{:02x}:{:02x}.{function:x}", self.bus, self.device)
    }
}

/// Hexadecimal digits alone: the standard library would take a sign too.
fn number(digits: &str, most: u32) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u32::from_str_radix(digits, 16).ok()?;
    (plain && number <= most).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_place_is_written_as_the_kernel_writes_it() {
        for (text, written) in [
            ("0000:c3:00.0", "0000:c3:00.0"),
            ("00000000:C3:00.0", "0000:c3:00.0"),
            ("0:c3:0", "0000:c3:00.0"),
            ("c3:1f.7", "0000:c3:1f.7"),
            ("00010000:e1:00.0", "10000:e1:00.0"),
        ] {
            let address = PciAddress::parse(text).map(|address| address.to_string());
            assert_eq!(address.as_deref(), Some(written), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_no_address() {
        for text in [
            "",
            ":",
            ".",
            "c3",
            "::.",
            "0000:c3:20.0",
            "0000:c3:00.8",
            "0000:100:00.0",
            "100000000:c3:00.0",
            "zz:c3:00.0",
            "+000:c3:00.0",
            "0000:c3:-0.0",
            "0000:c3:00.",
            "0000:c3:00.0.0",
            "0000:c3:00.0:1",
            "1:0000:c3:00.0",
            " 0000:c3:00.0",
            "0000:é3:00.0",
        ] {
            assert_eq!(PciAddress::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_function_that_is_not_told_may_be_any_and_a_domain_may_not() {
        let address = |text: &str| PciAddress::parse(text).unwrap();
        let card = address("0000:03:00.1");
        assert!(card.may_be(address("0000:03:00")) && address("0000:03:00").may_be(card));
        assert!(!card.may_be(address("0000:03:00.0")));
        assert!(!card.may_be(address("0001:03:00.1")) && !card.may_be(address("03:00.1")));
    }
}
