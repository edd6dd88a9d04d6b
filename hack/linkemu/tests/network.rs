//! Real sockets on real hosts, and what the links between them do to what is sent.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use linkemu::line::Quality;
use linkemu::network::{HERE, Network};

/// Longer than anything takes here that comes at all.
const LIMIT: Duration = Duration::from_secs(10);

/// Two hosts beside this one, unless there can be none.
fn network(seed: u64) -> Option<Network> {
    match Network::new(&["left", "right"], seed) {
        Ok(network) => Some(network),
        Err(error) => {
            println!("SKIPPED: {error}");
            None
        }
    }
}

/// A socket on a host.
fn udp(network: &Network, host: &str) -> UdpSocket {
    let address = SocketAddr::from((network.address(host).unwrap(), 0));
    let bind = || UdpSocket::bind(address).unwrap();
    let socket = match network.namespace(host) {
        Some(namespace) => namespace.within(bind).unwrap(),
        None => bind(),
    };
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

fn tcp(network: &Network, host: &str) -> TcpListener {
    let address = SocketAddr::from((network.address(host).unwrap(), 0));
    network
        .namespace(host)
        .unwrap()
        .within(|| TcpListener::bind(address).unwrap())
        .unwrap()
}

fn dial(network: &Network, host: &str, to: SocketAddr) -> TcpStream {
    let stream = network
        .namespace(host)
        .unwrap()
        .within(|| TcpStream::connect(to).unwrap())
        .unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Numbers of the packets that arrive of a hundred, and of one more at the end that tells that all have come.
fn arrived_of_100(network: &Network, quality: Quality) -> Vec<u8> {
    let (from, to) = (udp(network, "left"), udp(network, "right"));
    let there = to.local_addr().unwrap();
    network.set("left", "right", quality).unwrap();
    for number in 0..100_u8 {
        from.send_to(&[number; 200], there).unwrap();
    }
    let settled = Instant::now() + LIMIT;
    let counted = |network: &Network| network.counts("left", "right");
    while counted(network).carried + counted(network).lost < 100 {
        assert!(Instant::now() < settled, "{:?}", counted(network));
        std::thread::yield_now();
    }
    network.set("left", "right", Quality::PERFECT).unwrap();
    from.send_to(&[255], there).unwrap();
    let mut arrived = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        to.recv(&mut buffer).unwrap();
        if buffer[0] == 255 {
            return arrived;
        }
        arrived.push(buffer[0]);
    }
}

#[test]
fn every_host_reaches_every_other_one_and_ours() {
    let Some(network) = network(1) else { return };
    let hosts = [HERE, "left", "right"];
    for from in hosts {
        for to in hosts.into_iter().filter(|to| *to != from) {
            let (near, far) = (udp(&network, from), udp(&network, to));
            near.send_to(b"x", far.local_addr().unwrap()).unwrap();
            let (_, sender) = far.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(sender.ip(), network.address(from).unwrap(), "{from} to {to}");
        }
    }
}

#[test]
fn a_seed_loses_the_same_packets_again_and_another_one_others() {
    let quality = Quality {
        lost_per_mille: 200,
        ..Quality::PERFECT
    };
    let Some(first) = network(1) else { return };
    let first = arrived_of_100(&first, quality);
    assert!((60..=95).contains(&first.len()), "{}", first.len());
    assert_eq!(first, arrived_of_100(&network(1).unwrap(), quality));
    assert_ne!(first, arrived_of_100(&network(2).unwrap(), quality));
}

#[test]
fn a_one_way_cut_stops_one_direction_alone_and_is_mended() {
    let Some(network) = network(1) else { return };
    assert_eq!(arrived_of_100(&network, Quality::CUT), [0; 0]);
    assert_eq!(network.counts("left", "right").lost, 100);
    network.set("left", "right", Quality::CUT).unwrap();
    let (left, right) = (udp(&network, "left"), udp(&network, "right"));
    right.send_to(b"back", left.local_addr().unwrap()).unwrap();
    left.recv(&mut [0; 8]).unwrap();
    network.mend();
    left.send_to(b"there", right.local_addr().unwrap()).unwrap();
    right.recv(&mut [0; 8]).unwrap();
}

#[test]
fn a_host_that_is_cut_off_reaches_nobody_and_the_others_each_other() {
    let Some(network) = network(1) else { return };
    network.set_all_of("left", Quality::CUT).unwrap();
    let sockets = [HERE, "left", "right"].map(|host| udp(&network, host));
    let [here, left, right] = sockets;
    left.send_to(b"lost", here.local_addr().unwrap()).unwrap();
    here.send_to(b"lost", left.local_addr().unwrap()).unwrap();
    right.send_to(b"heard", here.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 8];
    here.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..5], b"heard");
    let settled = Instant::now() + LIMIT;
    while network.counts("left", HERE).lost == 0 || network.counts(HERE, "left").lost == 0 {
        assert!(Instant::now() < settled);
        std::thread::yield_now();
    }
}

/// Sends a million bytes over one connection, all of which arrive, each once and in order.
fn a_million_bytes_arrive(network: &Network) {
    let listener = tcp(network, "right");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut stream = dial(network, "left", listener.local_addr().unwrap());
    let received = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let mut received = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
            received
        });
        stream.write_all(&sent).unwrap();
        drop(stream);
        receiving.join().unwrap()
    });
    assert!(received == sent);
}

#[test]
fn a_connection_brings_all_its_bytes_through_loss_jitter_and_overtaking() {
    let Some(network) = network(1) else { return };
    network.set_all(Quality {
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(2),
        lost_per_mille: 20,
        overtaking_per_mille: 20,
        ..Quality::PERFECT
    });
    a_million_bytes_arrive(&network);
    assert!(network.counts("left", "right").lost > 0, "TCP had to repeat some");
}

#[test]
fn a_connection_brings_its_bytes_once_where_packets_come_twice() {
    let Some(network) = network(1) else { return };
    let quality = Quality {
        repeated_per_mille: 100,
        ..Quality::PERFECT
    };
    let arrived = arrived_of_100(&network, quality);
    assert!(arrived.len() > 100, "{arrived:?}");
    network.set_all(Quality {
        delay: Duration::from_millis(2),
        ..quality
    });
    a_million_bytes_arrive(&network);
}

#[test]
fn a_path_that_swallows_large_packets_lets_small_messages_through_and_no_large_one() {
    let Some(network) = network(1) else { return };
    let listener = tcp(&network, "right");
    let mut stream = dial(&network, "left", listener.local_addr().unwrap());
    let (mut far, _) = listener.accept().unwrap();
    network
        .set(
            "left",
            "right",
            Quality {
                largest_bytes: Some(1280),
                ..Quality::PERFECT
            },
        )
        .unwrap();
    stream.write_all(&[1; 100]).unwrap();
    far.read_exact(&mut [0; 100]).unwrap();
    stream.write_all(&[2; 4000]).unwrap();
    far.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let cause = far.read_exact(&mut [0; 4000]).unwrap_err();
    assert!(matches!(cause.kind(), std::io::ErrorKind::WouldBlock), "{cause}");
    network.mend();
    far.set_read_timeout(Some(LIMIT)).unwrap();
    far.read_exact(&mut [0; 1000]).unwrap();
}

#[test]
fn a_host_that_there_is_not_is_told_by_name() {
    let Some(network) = network(1) else { return };
    let cause = network.set("left", "nowhere", Quality::CUT).unwrap_err().to_string();
    assert!(cause.contains("nowhere"), "{cause}");
}
