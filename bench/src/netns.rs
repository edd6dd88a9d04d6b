//! Two hosts on one machine: network namespaces joined by virtual cables.
//!
//! ```text
//!   driver ──── head ════════ tail          the bare link between the stages
//!                  ╲          ╱
//!                   ── link ──              where the emulator forwards with a delay
//! ```
//!
//! Addresses are of 198.18.0.0/15, which is reserved for measurements. Names and addresses follow the process id, so that
//! two measurements do not meet, and what a killed one left behind is removed by the next.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use crate::error::{Result, failed, trying};
use crate::pinning::Seat;

const PREFIX: &str = "shwb";

/// The hosts of a measurement. Dropping it removes the namespaces; the processes in them must have ended.
#[derive(Debug)]
pub struct Hosts {
    names: Vec<String>,
    octet: u8,
}

/// Which of the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Where the head and the driver's port are.
    Head,
    /// Where the tail is.
    Tail,
    /// Between the two.
    Link,
}

impl Host {
    fn suffix(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Tail => "tail",
            Self::Link => "link",
        }
    }
}

/// Ends of cables. The numbers are the last octet; each cable is a /30 of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The head's end of the driver's cable.
    HeadToDriver = 2,
    /// The head's end of the bare link.
    HeadToTail = 5,
    /// The tail's end of the bare link.
    TailToHead = 6,
    /// The emulator's end towards the head.
    LinkToHead = 10,
    /// The tail's end towards the emulator.
    TailToLink = 14,
}

/// What joins the processes of a measurement.
#[derive(Debug)]
pub enum Network {
    /// Hosts of their own, joined by virtual cables.
    Cables(Hosts),
    /// One host, where namespaces cannot be made.
    Loopback,
}

impl Network {
    /// A seat on a host. A link forwards before all else.
    pub fn seat(&self, host: Host, core: Option<usize>) -> Seat {
        let (namespace, realtime) = match self {
            Self::Cables(hosts) => (Some(hosts.namespace(host)), host == Host::Link),
            Self::Loopback => (None, false),
        };
        Seat {
            namespace,
            core,
            realtime,
        }
    }

    /// Address of an end.
    pub fn address(&self, end: End) -> Ipv4Addr {
        match self {
            Self::Cables(hosts) => hosts.address(end),
            Self::Loopback => Ipv4Addr::LOCALHOST,
        }
    }

    /// For the file.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Cables(_) => "network namespaces, virtual Ethernet",
            Self::Loopback => "loopback",
        }
    }
}

/// A port that nobody listens on in our own namespace; the namespaces of a measurement have none taken but by us, and we ask here.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> Result<u16> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|probe| probe.local_addr());
    Ok(probe.map_err(trying("a free port"))?.port())
}

impl Hosts {
    /// Makes namespaces and cables.
    ///
    /// # Errors
    /// What `ip` says, without root above all; nothing is left behind then.
    pub fn new() -> Result<Self> {
        remove_stale();
        let id = std::process::id();
        let name = |host: Host| format!("{PREFIX}{id}{}", host.suffix());
        let octet = u8::try_from(id % 254).unwrap_or(0);
        let (head, tail, link) = (name(Host::Head), name(Host::Tail), name(Host::Link));
        let mut hosts = Self {
            names: Vec::new(),
            octet,
        };
        for name in [&head, &tail, &link] {
            ip(&["netns", "add", name])?;
            hosts.names.push(name.clone());
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        let driver = format!("{PREFIX}{id}");
        hosts.cable((None, &driver, 1), (Some(&head), "to-driver", 2))?;
        hosts.cable((Some(&head), "to-tail", 5), (Some(&tail), "to-head", 6))?;
        hosts.cable((Some(&head), "to-link", 9), (Some(&link), "to-head", 10))?;
        hosts.cable((Some(&link), "to-tail", 13), (Some(&tail), "to-link", 14))?;
        Ok(hosts)
    }

    /// Name of a host's namespace.
    pub fn namespace(&self, host: Host) -> String {
        let suffix = host.suffix();
        let found = self.names.iter().find(|name| name.ends_with(suffix));
        found.cloned().unwrap_or_default()
    }

    /// Address of an end.
    pub fn address(&self, end: End) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.octet, end as u8)
    }

    /// A pair of virtual Ethernet devices, each end with its address. An end is a namespace, a device and the last octet.
    fn cable(&self, left: (Option<&str>, &str, u8), right: (Option<&str>, &str, u8)) -> Result<()> {
        let mut words = vec!["link", "add", left.1];
        words.extend(left.0.iter().flat_map(|name| ["netns", *name]));
        words.extend(["type", "veth", "peer", "name", right.1]);
        words.extend(right.0.iter().flat_map(|name| ["netns", *name]));
        ip(&words)?;
        for (namespace, device, last) in [left, right] {
            let within: Vec<&str> = namespace.iter().flat_map(|name| ["-n", *name]).collect();
            let address = format!("198.18.{}.{last}/30", self.octet);
            ip(&[within.as_slice(), &["address", "add", &address, "dev", device]].concat())?;
            ip(&[within.as_slice(), &["link", "set", device, "up"]].concat())?;
        }
        Ok(())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            // The devices go with the namespaces. What cannot be removed now the next measurement removes.
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let what = format!("ip {}", words.join(" "));
    let output = Command::new("ip").args(words).output().map_err(trying(&what))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(what, String::from_utf8_lossy(&output.stderr).trim()))
}

/// Removes the namespaces of measurements whose process is gone.
fn remove_stale() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|id| !std::path::Path::new(&format!("/proc/{id}")).exists()) {
            // Somebody else may have done it meanwhile.
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

/// The process that made a namespace of this name, if it is one of ours.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    let digits = rest.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_our_own_namespaces_have_an_owner() {
        assert_eq!(owner("shwb4711head"), Some(4711));
        assert_eq!(owner("shwb4711"), Some(4711));
        assert_eq!(owner("shwbhead"), None);
        assert_eq!(owner("cni-4711"), None);
    }
}
