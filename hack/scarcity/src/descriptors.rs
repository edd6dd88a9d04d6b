//! A process that may have few descriptors, and a crowd that takes them.

use std::io;
use std::net::{SocketAddr, TcpStream};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// A limit under which no process gets another one: its three standard streams have these.
pub const NONE: u64 = 3;
/// What this process needs beside a crowd.
const OWN: u64 = 256;

/// So many descriptors at most from now on for a process that this one has started. Those that it has stay, also where they are more.
///
/// # Errors
/// It has ended, or is somebody else's.
pub fn limit(pid: u32, descriptors: u64) -> io::Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    let limit = Rlimit {
        current: Some(descriptors),
        // Of this process, as it has inherited it: it may be given back what is taken from it.
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    prlimit(Some(pid), Resource::Nofile, limit)?;
    Ok(())
}

/// How many descriptors a process has.
///
/// # Errors
/// It has ended, or hides them from this user.
pub fn open(pid: u32) -> io::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Connections that say nothing. They are closed when this is dropped.
#[derive(Debug)]
pub struct Crowd {
    _connections: Vec<TcpStream>,
}

impl Crowd {
    /// So many connections to a port. Those that nobody accepts wait in its queue, which has room for 128.
    ///
    /// # Errors
    /// There is no such port, or this process may not have as many descriptors.
    pub fn gather(address: SocketAddr, count: usize) -> io::Result<Self> {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let needed = count as u64 + OWN;
        if current.is_some_and(|current| current < needed) {
            let current = Some(maximum.map_or(needed, |maximum| needed.min(maximum)));
            setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
        }
        let connections = (0..count).map(|_| TcpStream::connect(address));
        Ok(Self {
            _connections: connections.collect::<io::Result<_>>()?,
        })
    }
}
