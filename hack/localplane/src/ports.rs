//! Ports for servers that are told where to listen.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// The first that is given out; what is below belongs to services with names.
const FIRST: u16 = 20_000;
/// Where the kernel takes the ports of clients from, and of servers that leave theirs to it.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The kernel's default, where that cannot be read.
const EPHEMERAL_FIRST: u16 = 32_768;

/// A port of 127.0.0.1 on which nobody listens, and which nobody is given by chance before its server listens: below those that the
/// kernel gives out, and never twice by one process.
///
/// # Errors
/// When all are taken.
pub fn free_port() -> Result<u16> {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let range = std::fs::read_to_string(EPHEMERAL).unwrap_or_default();
    let end = end(&range);
    let count = u32::from(end - FIRST);
    for _ in 0..count {
        let at = (start().wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed))) % count;
        // Less than `end`, a u16.
        let port = FIRST + at as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::Other(format!(
        "all ports of 127.0.0.1 from {FIRST} to {end} are taken"
    )))
}

/// Where the kernel's ports begin. Where it takes all, one of them will do.
fn end(range: &str) -> u16 {
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok());
    first.filter(|first| *first > FIRST).unwrap_or(EPHEMERAL_FIRST)
}

/// Processes that run at the same time begin at different places.
fn start() -> u32 {
    static START: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *START.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.subsec_nanos().wrapping_add(std::process::id().wrapping_mul(257))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_out_once_and_is_none_of_those_that_the_kernel_gives_out() {
        let mut ports: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
        let end = end(&std::fs::read_to_string(EPHEMERAL).unwrap_or_default());
        assert!(ports.iter().all(|port| (FIRST..end).contains(port)), "{ports:?}");
    }

    #[test]
    fn a_range_that_cannot_be_read_or_begins_low_is_taken_for_the_default() {
        assert_eq!(
            [end("30000\t60999\n"), end("1024 65535"), end("")],
            [30_000, EPHEMERAL_FIRST, EPHEMERAL_FIRST]
        );
    }
}
