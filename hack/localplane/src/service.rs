//! One address in front of several replicas, as a Kubernetes Service is: connections in turns, none to a port that refuses.

use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use crate::{Error, Result};

/// A running forwarder with a thread of its own. It ends, and its connections with it, when this is dropped.
#[derive(Debug)]
pub struct Service {
    port: u16,
    cut: watch::Sender<bool>,
    _ended: oneshot::Sender<()>,
}

impl Service {
    /// Listens on a free port of an address for replicas on these.
    pub fn start(address: IpAddr, replicas: Vec<SocketAddr>) -> Result<Self> {
        let failed = |error: std::io::Error| Error::Other(format!("no Service on {address} for {replicas:?}: {error}"));
        let listener = std::net::TcpListener::bind((address, 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let (ended, end) = oneshot::channel::<()>();
        let (cut, is_cut) = watch::channel(false);
        // Not on the caller's runtime: that may be busy with a tool, and a node's network never is.
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = forward(listener, &replicas, &is_cut) => {}
                    _ = end => {}
                }
            });
        });
        Ok(Self {
            port,
            cut,
            _ended: ended,
        })
    }

    /// From now on nothing passes, in silence, or everything does again. Connections of before do not come back.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

async fn forward(listener: std::net::TcpListener, replicas: &[SocketAddr], is_cut: &watch::Receiver<bool>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    for turn in 0.. {
        let Ok((mut client, _)) = listener.accept().await else {
            continue;
        };
        let mut order = replicas.to_vec();
        order.rotate_left(turn % replicas.len().max(1));
        let mut is_cut = is_cut.clone();
        tokio::spawn(async move {
            for address in order {
                if let Ok(mut replica) = TcpStream::connect(address).await {
                    tokio::select! {
                        biased;
                        Ok(_) = is_cut.wait_for(|cut| *cut) => {}
                        // Either end may hang up as it likes.
                        _ = tokio::io::copy_bidirectional(&mut client, &mut replica) => return,
                    }
                    // Both ends stand, and hear nothing of each other.
                    let _ = is_cut.wait_for(|cut| !*cut).await;
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

    use super::Service;

    /// A replica that says who it is.
    fn replica(name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                stream.unwrap().write_all(name.as_bytes()).unwrap();
            }
        });
        address
    }

    fn ask(service: &Service) -> String {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", service.port())).unwrap();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn connections_go_to_the_replicas_in_turns_and_past_one_that_refuses() {
        let refusing = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let service = Service::start(
            IpAddr::from(Ipv4Addr::LOCALHOST),
            vec![replica("a"), replica("b"), refusing],
        )
        .unwrap();
        let answers: Vec<String> = (0..6).map(|_| ask(&service)).collect();
        assert_eq!(answers, ["a", "b", "a", "a", "b", "a"]);
    }
}
