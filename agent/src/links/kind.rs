//! What carries the bytes to a peer on this side: the system's routes and cards, read in one place, judged by pure functions.

use crds::LinkKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Of `/sys/class/net/*/type`.
const TYPE_ETHERNET: u32 = 1;
const TYPE_INFINIBAND: u32 = 32;
const TYPE_LOOPBACK: u32 = 772;
/// A table of routes has some dozen lines; one that is longer than this is not read to its end.
const ROUTES_MAX: usize = 4096;

/// What the system says of a card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// Of what it says itself.
    pub kind: u32,
    /// A device of the machine stands behind it.
    pub has_device: bool,
    /// It has an antenna.
    pub is_wireless: bool,
}

/// What the card is to a link.
pub fn of_card(card: &Card) -> LinkKind {
    match card {
        Card {
            kind: TYPE_LOOPBACK, ..
        } => LinkKind::Loopback,
        Card {
            kind: TYPE_INFINIBAND, ..
        } => LinkKind::InfiniBand,
        Card { is_wireless: true, .. } => LinkKind::Wireless,
        Card {
            kind: TYPE_ETHERNET,
            has_device: true,
            ..
        } => LinkKind::Ethernet,
        _ => LinkKind::Virtual,
    }
}

/// The card that the longest matching route of `/proc/net/route` names.
pub fn card_of_v4(routes: &str, to: Ipv4Addr) -> Option<&str> {
    let to = u32::from(to);
    let route = |line: &'_ str| -> Option<(u32, usize)> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // As the machine holds them, that is the other way round than people write.
        let number = |at: usize| Some(u32::from_str_radix(fields.get(at)?, 16).ok()?.swap_bytes());
        let (destination, mask) = (number(1)?, number(7)?);
        (to & mask == destination).then_some((mask.count_ones(), fields.first()?.len()))
    };
    longest(routes.lines().skip(1), route)
}

/// The same of `/proc/net/ipv6_route`, where the card stands last.
pub fn card_of_v6(routes: &str, to: Ipv6Addr) -> Option<&str> {
    let to = u128::from(to);
    let mut best: Option<(u32, &str)> = None;
    for line in routes.lines().take(ROUTES_MAX) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let parsed = fields.first().zip(fields.get(1)).zip(fields.last());
        let Some(((destination, length), card)) = parsed.filter(|_| fields.len() == 10) else {
            continue;
        };
        let (Ok(destination), Ok(length)) = (u128::from_str_radix(destination, 16), u32::from_str_radix(length, 16))
        else {
            continue;
        };
        let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
        if to & mask == destination && best.is_none_or(|(longest, _)| longest < length) {
            best = Some((length, card));
        }
    }
    best.map(|(_, card)| card)
}

fn longest<'a>(lines: impl Iterator<Item = &'a str>, route: impl Fn(&str) -> Option<(u32, usize)>) -> Option<&'a str> {
    let mut best: Option<(u32, &str)> = None;
    for line in lines.take(ROUTES_MAX) {
        let Some((length, name)) = route(line) else { continue };
        if best.is_none_or(|(longest, _)| longest < length) {
            best = line.trim_start().get(..name).map(|card| (length, card));
        }
    }
    best.map(|(_, card)| card)
}

/// What carries bytes to `endpoint`, as far as the system says. `root` is "/" but in tests; `own` is where others reach us.
pub fn find(root: &Path, own: IpAddr, endpoint: &str) -> LinkKind {
    let Ok(address) = endpoint.parse::<SocketAddr>() else {
        return LinkKind::Unknown;
    };
    if address.ip() == own || address.ip().is_loopback() {
        return LinkKind::Loopback;
    }
    let read = |name: &str| std::fs::read_to_string(root.join("proc/net").join(name)).unwrap_or_default();
    let card = match address.ip() {
        IpAddr::V4(to) => card_of_v4(&read("route"), to).map(str::to_owned),
        IpAddr::V6(to) => card_of_v6(&read("ipv6_route"), to).map(str::to_owned),
    };
    card.and_then(|card| look(root, &card))
        .map_or(LinkKind::Unknown, |card| of_card(&card))
}

fn look(root: &Path, name: &str) -> Option<Card> {
    let folder = root.join("sys/class/net").join(name);
    let kind = std::fs::read_to_string(folder.join("type")).ok()?.trim().parse().ok()?;
    Some(Card {
        kind,
        has_device: folder.join("device").exists(),
        is_wireless: folder.join("wireless").exists() || folder.join("phy80211").exists(),
    })
}

#[cfg(test)]
mod tests;
