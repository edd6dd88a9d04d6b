//! An agent that may have few descriptors, and a crowd at the port that anybody may connect to.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod lonely;

use lonely::{LIMIT, Lonely, until};
use scarcity::descriptors::{self, Crowd};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Few, and enough for an agent's own.
const DESCRIPTORS: u64 = 256;
/// More than that; those that find no descriptor wait in the port's queue, which has room for 128.
const CROWD: usize = 300;
/// What it has open for a moment now and then: pipes of its children, attempts to reach the operator.
const PASSING: usize = 16;

/// Of the port for health and metrics, from the line that tells it.
fn address(line: &str) -> SocketAddr {
    let (_, address) = line.split_once("address=").unwrap();
    address.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn an_agent_without_descriptors_lets_newcomers_wait_and_keeps_no_descriptor_of_them() {
    let state_dir = tempfile::tempdir().unwrap();
    let mut running = Lonely::start(state_dir.path());
    let id = running.id();
    descriptors::limit(id, DESCRIPTORS).unwrap();
    let mut said = running.until("health and metrics are served");
    let address = address(said.last().unwrap());
    said.extend(running.until("not enrolled yet"));
    let before = descriptors::open(id).unwrap();

    let crowd = Crowd::gather(address, CROWD).unwrap();
    said.extend(running.until("connections cannot be accepted; trying on"));
    drop(crowd);
    until("its descriptors again", || {
        descriptors::open(id).unwrap() <= before + PASSING
    });

    let mut newcomer = TcpStream::connect(address).unwrap();
    newcomer.set_read_timeout(Some(LIMIT)).unwrap();
    newcomer.write_all(b"this is no TLS\r\n\r\n").unwrap();
    // It is heard, and the connection is closed for what it says.
    if let Err(error) = newcomer.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    said.extend(running.until("not enrolled yet"));
    assert!(said.iter().all(|line| !line.contains("panicked")), "{said:#?}");
    let status = running.terminated();
    assert!(status.success(), "{status}");
}
