//! Two hosts on one machine: network namespaces joined by virtual cables.
//!
//! ```text
//!   driver ──── head ════════ tail          the bare link between the stages
//!                  ╲          ╱
//!                   ── link ──              where the emulator forwards with a delay
//! ```
//!
//! Addresses are of 198.18.0.0/15, which is reserved for measurements. Names and addresses follow the process id, so that
//! two measurements do not meet.

use std::net::Ipv4Addr;

use linkemu::namespace::{Namespace, ip, remove_stale};

use crate::error::{Result, trying};
use crate::pinning::Seat;

/// The hosts of a measurement. Dropping it removes the namespaces; the processes in them must have ended.
#[derive(Debug)]
pub struct Hosts {
    head: Namespace,
    tail: Namespace,
    link: Namespace,
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
            Self::Cables(hosts) => (Some(hosts.namespace(host).name().to_owned()), host == Host::Link),
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

impl Hosts {
    /// Makes namespaces and cables.
    ///
    /// # Errors
    /// What `ip` says, without root above all; nothing is left behind then.
    pub fn new() -> Result<Self> {
        remove_stale();
        let new = |label| Namespace::new(label).map_err(trying("a namespace"));
        let id = std::process::id();
        let hosts = Self {
            head: new("head")?,
            tail: new("tail")?,
            link: new("link")?,
            octet: u8::try_from(id % 254).unwrap_or(0),
        };
        let [head, tail, link] = [&hosts.head, &hosts.tail, &hosts.link].map(|host| Some(host.name()));
        let driver = format!("shwb{id}");
        hosts.cable((None, &driver, 1), (head, "to-driver", 2))?;
        hosts.cable((head, "to-tail", 5), (tail, "to-head", 6))?;
        hosts.cable((head, "to-link", 9), (link, "to-head", 10))?;
        hosts.cable((link, "to-tail", 13), (tail, "to-link", 14))?;
        Ok(hosts)
    }

    /// A host's namespace.
    pub fn namespace(&self, host: Host) -> &Namespace {
        match host {
            Host::Head => &self.head,
            Host::Tail => &self.tail,
            Host::Link => &self.link,
        }
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
        run(&words)?;
        for (namespace, device, last) in [left, right] {
            let within: Vec<&str> = namespace.iter().flat_map(|name| ["-n", *name]).collect();
            let address = format!("198.18.{}.{last}/30", self.octet);
            run(&[within.as_slice(), &["address", "add", &address, "dev", device]].concat())?;
            run(&[within.as_slice(), &["link", "set", device, "up"]].concat())?;
        }
        Ok(())
    }
}

fn run(words: &[&str]) -> Result<()> {
    ip(words).map_err(trying("a cable"))
}
