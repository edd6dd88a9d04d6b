//! Which cards of a backend a process touches. One that hangs takes down whoever touches it, so the others are asked by
//! processes that leave it alone.

use crate::{GpuDevice, Pool};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The place of devices that are not plugged into a bus that the driver tells of, all together: a renderer on the
/// processors, the GPU of a board.
pub const UNPLUGGED: &str = "unplugged";
/// More places than any machine has.
const PLACES_MAX: usize = 256;

/// Some of a backend's devices, by where they are plugged in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// Every one.
    #[default]
    All,
    /// Those at these bus addresses (`domain:bus:device.function`), or [`UNPLUGGED`]. The others may be counted and are
    /// not touched otherwise.
    At(BTreeSet<String>),
}

impl Selection {
    /// What is at one place: a card, with all of its slices.
    pub fn one(place: &str) -> Self {
        Self::At([place.to_owned()].into())
    }

    /// Whether what is at the place belongs to it.
    pub fn picks(&self, place: &str) -> bool {
        match self {
            Self::All => true,
            Self::At(places) => places.contains(place),
        }
    }

    /// The place, where it is only one.
    pub fn alone(&self) -> Option<&str> {
        match self {
            Self::At(places) if places.len() == 1 => places.first().map(String::as_str),
            Self::At(_) | Self::All => None,
        }
    }

    /// The bus addresses; nothing where every device belongs to it.
    pub fn addresses(&self) -> Option<impl Iterator<Item = &str>> {
        match self {
            Self::All => None,
            Self::At(places) => Some(places.iter().map(String::as_str).filter(|place| *place != UNPLUGGED)),
        }
    }
}

impl GpuDevice {
    /// Where it is plugged in, for [`Selection`].
    pub fn place(&self) -> &str {
        match (&self.pci_address, &self.pool) {
            (Some(address), _) => address,
            // A part of a card that is named after the card's address.
            (None, Pool::Named(name)) if name.contains(':') && name.contains('.') => name,
            (None, _) => UNPLUGGED,
        }
    }
}

/// As the command line has it: comma separated.
impl fmt::Display for Selection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => formatter.write_str("all"),
            Self::At(places) => {
                let places: Vec<&str> = places.iter().map(String::as_str).collect();
                formatter.write_str(&places.join(","))
            }
        }
    }
}

/// A text that names no places.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no list of bus addresses such as 0000:01:00.0,0000:02:00.0")]
pub struct NoSelection(String);

impl FromStr for Selection {
    type Err = NoSelection;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" {
            return Ok(Self::All);
        }
        let is_address = |place: &str| {
            place == UNPLUGGED
                || (place.contains(':') && place.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.'))
        };
        let places: BTreeSet<String> = text.split(',').map(str::to_ascii_lowercase).collect();
        if places.len() <= PLACES_MAX && places.iter().all(|place| is_address(place)) {
            Ok(Self::At(places))
        } else {
            Err(NoSelection(text.chars().take(80).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Kind};

    #[test]
    fn a_selection_is_read_as_it_is_written() {
        for text in ["all", "0000:01:00.0", "0000:01:00.0,0000:af:00.0,unplugged"] {
            assert_eq!(text.parse::<Selection>().unwrap().to_string(), text);
        }
        assert_eq!("0000:AF:00.0".parse(), Ok(Selection::one("0000:af:00.0")));
        for nonsense in ["", "card 1", "0000:01:00.0,", "../../etc"] {
            assert!(nonsense.parse::<Selection>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn a_device_is_where_its_card_is_plugged_in() {
        let mut device = GpuDevice::new(Backend::Rocm, 0, Kind::Discrete);
        assert_eq!(device.place(), UNPLUGGED);
        device.pool = Pool::Named("0000:03:00.0".to_owned());
        assert_eq!(device.place(), "0000:03:00.0");
        device.pci_address = Some("0000:04:00.0".to_owned());
        assert_eq!(device.place(), "0000:04:00.0");
    }
}
