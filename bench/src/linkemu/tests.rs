use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::delay::{Delay, DelayLine};
use super::forward;

const MILLISECOND: Duration = Duration::from_millis(1);

fn steady(base: Duration) -> Delay {
    Delay {
        base,
        jitter: Duration::ZERO,
        seed: 1,
    }
}

#[test]
fn pieces_sent_together_arrive_together_one_delay_later() {
    let start = Instant::now();
    let mut line = DelayLine::new(steady(MILLISECOND), start);
    for number in 0..100 {
        line.push(start, vec![number]);
    }
    assert_eq!(line.due(), Some(start + MILLISECOND));
    assert_eq!(line.pop(start), None);
    for number in 0..100 {
        assert_eq!(
            line.pop(start + MILLISECOND),
            Some(vec![number]),
            "bandwidth is not limited"
        );
    }
    assert_eq!((line.held_bytes(), line.due()), (0, None));
}

#[test]
fn each_piece_waits_from_its_own_arrival() {
    let start = Instant::now();
    let mut line = DelayLine::new(steady(MILLISECOND), start);
    line.push(start, vec![1]);
    line.push(start + MILLISECOND / 2, vec![2, 3]);
    assert_eq!(line.held_bytes(), 3);
    assert_eq!(line.pop(start + MILLISECOND), Some(vec![1]));
    assert_eq!(line.pop(start + MILLISECOND), None);
    assert_eq!(line.pop(start + MILLISECOND * 3 / 2), Some(vec![2, 3]));
}

#[test]
fn jitter_follows_from_its_seed_and_never_reorders() {
    let start = Instant::now();
    let dues = |seed| {
        let delay = Delay {
            base: MILLISECOND,
            jitter: MILLISECOND,
            seed,
        };
        let mut line = DelayLine::new(delay, start);
        for number in 0..50 {
            line.push(start + MILLISECOND * number / 10, vec![0]);
        }
        let dues: Vec<Instant> = line.pieces().map(|(due, _)| *due).collect();
        dues
    };
    let first = dues(1);
    assert!(first.is_sorted());
    assert!((0..).zip(&first).all(|(number, due)| {
        let sent = start + MILLISECOND * number / 10;
        *due >= sent + MILLISECOND
    }));
    assert_eq!(first, dues(1));
    assert_ne!(first, dues(2));
}

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
    std::thread::spawn(move || forward(&listener, target, steady(MILLISECOND)));

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
