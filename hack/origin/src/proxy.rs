//! A forward proxy: it opens tunnels to whatever it is asked for, remembers that, and may want to know by whom.

use super::{Error, locked};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// More is no head of a request for a tunnel.
const HEAD_BYTES_MAX: usize = 8192;

/// A request for a tunnel as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The first line.
    pub line: String,
    /// The header `Proxy-Authorization`.
    pub authorization: Option<String>,
}

/// A running proxy with a thread of its own. It ends, and its tunnels with it, when this is dropped.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: watch::Sender<bool>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.send_replace(true);
    }
}

impl Proxy {
    /// Starts a proxy on a free port of loopback. With `demand` it answers 407 to who does not send that as `Proxy-Authorization`.
    ///
    /// # Errors
    /// No port or thread.
    pub fn start(demand: Option<&'static str>) -> Result<Self, Error> {
        let bound = std::net::TcpListener::bind("127.0.0.1:0")?;
        bound.set_nonblocking(true)?;
        let address = bound.local_addr()?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ended = watch::Sender::new(false);
        let (mut end, inner) = (ended.subscribe(), Arc::clone(&asked));
        std::thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(bound) else {
                    return;
                };
                tokio::select! {
                    () = serve(listener, demand, inner) => {}
                    // It is over, too, when the other side is gone.
                    _ = end.wait_for(|ended| *ended) => {}
                }
            });
        })?;
        Ok(Self { address, asked, ended })
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        locked(&self.asked).clone()
    }
}

async fn serve(listener: TcpListener, demand: Option<&'static str>, asked: Arc<Mutex<Vec<Asked>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let asked = Arc::clone(&asked);
        // A tunnel ends as its ends like.
        tokio::spawn(async move { drop(tunnel(stream, demand, &asked).await) });
    }
}

async fn tunnel(mut near: TcpStream, demand: Option<&str>, asked: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        head.push(near.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().to_owned();
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let ours = name.eq_ignore_ascii_case("proxy-authorization");
        ours.then(|| value.trim().to_owned())
    };
    let authorization = lines.find_map(header);
    locked(asked).push(Asked {
        line: line.clone(),
        authorization: authorization.clone(),
    });
    if demand.is_some_and(|demand| authorization.as_deref() != Some(demand)) {
        return near
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            .await;
    }
    let mut words = line.split(' ');
    let (Some("CONNECT"), Some(target)) = (words.next(), words.next()) else {
        return near
            .write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            .await;
    };
    let mut far = TcpStream::connect(target).await?;
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut near, &mut far).await.map(drop)
}
