//! Somebody in the middle of TCP connections: passes every byte on, until told to change one, to reset a connection within a
//! message, or to take next to nothing more.
//!
//! ```text
//!  whoever dials ──onward──▶ Between ──▶ target
//!                ◀───back───         ◀──
//! ```
//!
//! What passes is TLS, whose records have headers in the clear: so a fault meets a record that carries a step, and its middle,
//! though nobody here can read it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Bytes read at once: about a record.
const PIECE_BYTES: usize = 16 << 10;
/// What a socket holds that is not read: so little that whoever sends soon feels it.
const BUFFER_BYTES: u32 = 64 << 10;
/// 1 KiB a second, without ever standing still for long.
const CRAWL_BYTES: usize = 128;
const CRAWL_EVERY: Duration = Duration::from_millis(125);

const HEADER_BYTES: usize = 5;
/// What a record's header says of all that is encrypted.
const APPLICATION_DATA: u8 = 23;

/// Which way a byte goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From whoever dialled.
    Onward,
    Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// One bit of the record is changed.
    Damage,
    /// Half of the record is passed on, and both ends are told that their connection is reset.
    Reset,
    /// From then on, 1 KiB a second is passed on in this direction, whatever the connection.
    Crawl,
}

/// What happens once, and to which record.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub act: Act,
    pub direction: Direction,
    /// Records that encrypt fewer bytes do not count, such as those of pings.
    pub least_bytes: usize,
    /// The how-manieth of the others that pass from now on, from 1.
    pub nth: usize,
}

#[derive(Default)]
struct Orders {
    due: Option<Fault>,
    slow: Option<Direction>,
    connections: usize,
}

impl Orders {
    /// What happens to a record of so many bytes.
    fn meet(&mut self, direction: Direction, bytes: usize) -> Option<Act> {
        let meets = |fault: &&mut Fault| fault.direction == direction && bytes >= fault.least_bytes;
        let fault = self.due.as_mut().filter(meets)?;
        fault.nth = fault.nth.saturating_sub(1);
        if fault.nth > 0 {
            return None;
        }
        let act = self.due.take()?.act;
        if act == Act::Crawl {
            self.slow = Some(direction);
        }
        Some(act)
    }
}

/// See the module.
pub struct Between {
    endpoint: String,
    orders: Arc<Mutex<Orders>>,
}

impl Between {
    /// Dials `target` for everyone who comes, for as long as the test lasts. Must be called on a Tokio runtime.
    pub fn before(target: &str) -> Self {
        let target: SocketAddr = target.parse().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        // The connections that are accepted inherit it.
        socket.set_recv_buffer_size(BUFFER_BYTES).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(16).unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let orders: Arc<Mutex<Orders>> = Arc::default();
        tokio::spawn(accept(listener, target, Arc::clone(&orders)));
        Self { endpoint, orders }
    }

    /// Where to dial instead of the target.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Waits for the record that this is to happen to.
    pub fn strike(&self, fault: Fault) {
        let before = self.orders.lock().unwrap().due.replace(fault);
        assert!(before.is_none(), "{before:?} has not happened yet");
    }

    /// Whether all has happened that was to.
    pub fn has_struck(&self) -> bool {
        self.orders.lock().unwrap().due.is_none()
    }

    /// Nothing is slow any more.
    pub fn mend(&self) {
        self.orders.lock().unwrap().slow = None;
    }

    /// Connections ever accepted.
    pub fn connections(&self) -> usize {
        self.orders.lock().unwrap().connections
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, orders: Arc<Mutex<Orders>>) {
    while let Ok((near, _)) = listener.accept().await {
        orders.lock().unwrap().connections += 1;
        tokio::spawn(carry(near, target, Arc::clone(&orders)));
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, orders: Arc<Mutex<Orders>>) {
    // Where nobody listens, whoever dialled sees the connection end.
    let Ok(mut far) = dial(target).await else { return };
    // On a connection that is gone already, the first read says so.
    let _ = near.set_nodelay(true);
    let ((from_near, to_near), (from_far, to_far)) = (near.split(), far.split());
    let ended = tokio::try_join!(
        pass(from_near, to_far, Direction::Onward, &orders),
        pass(from_far, to_near, Direction::Back, &orders),
    );
    if ended.is_err() {
        // One that is gone cannot be reset, and need not be.
        let _ = near.set_zero_linger();
        let _ = far.set_zero_linger();
    }
}

async fn dial(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_nodelay(true)?;
    socket.connect(target).await
}

/// One direction, until the source has ended it; an error is the end of both.
async fn pass(
    mut source: ReadHalf<'_>,
    mut target: WriteHalf<'_>,
    direction: Direction,
    orders: &Mutex<Orders>,
) -> io::Result<()> {
    let mut records = Records::default();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let slow = orders.lock().unwrap().slow == Some(direction);
        let most = if slow { CRAWL_BYTES } else { PIECE_BYTES };
        if slow {
            tokio::time::sleep(CRAWL_EVERY).await;
        }
        let count = source.read(&mut buffer[..most]).await?;
        if count == 0 {
            return target.shutdown().await;
        }
        let piece = &mut buffer[..count];
        let middles = piece.iter().enumerate().filter_map(|(at, byte)| {
            let bytes = records.take(*byte)?;
            Some((at, orders.lock().unwrap().meet(direction, bytes)?))
        });
        for (at, act) in middles.collect::<Vec<_>>() {
            match act {
                Act::Damage => piece[at] ^= 1,
                Act::Reset => {
                    target.write_all(&piece[..at]).await?;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Act::Crawl => {}
            }
        }
        target.write_all(piece).await?;
    }
}

/// Where in TLS's records a direction is.
#[derive(Default)]
struct Records {
    header: [u8; HEADER_BYTES],
    /// Bytes of the present record that have passed, those of its header too.
    passed: usize,
}

impl Records {
    /// Takes the next byte. Where it is the middle one of what a record encrypts: how many bytes that is.
    fn take(&mut self, byte: u8) -> Option<usize> {
        let at = self.passed;
        self.passed += 1;
        if let Some(place) = self.header.get_mut(at) {
            *place = byte;
            return None;
        }
        let [kind, _, _, high, low] = self.header;
        let bytes = usize::from(u16::from_be_bytes([high, low]));
        if self.passed == HEADER_BYTES + bytes {
            self.passed = 0;
        }
        (kind == APPLICATION_DATA && at == HEADER_BYTES + bytes / 2).then_some(bytes)
    }
}
