use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{Delay, forward};

const MILLISECOND: Duration = Duration::from_millis(1);

const STEADY: Delay = Delay {
    base: MILLISECOND,
    jitter: Duration::ZERO,
    seed: 1,
};

/// Echoes everything until the end of what it is sent.
fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    });
    address
}

#[test]
fn all_bytes_arrive_in_order_and_ends_are_passed_on() {
    let target = echo();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || forward(&listener, target, STEADY));

    for round in 0..3_u8 {
        let sent: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8 ^ round).collect();
        let stream = TcpStream::connect(address).unwrap();
        let started = Instant::now();
        let received = std::thread::scope(|scope| {
            scope.spawn(|| {
                (&stream).write_all(&sent).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            (&stream).read_to_end(&mut received).unwrap();
            received
        });
        assert!(received == sent, "round {round}");
        assert!(started.elapsed() >= 2 * MILLISECOND, "both directions are delayed");
    }
}
