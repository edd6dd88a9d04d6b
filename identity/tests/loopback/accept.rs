//! The listener under hostile and unlucky clients.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use identity::accept::{HANDSHAKE_TIMEOUT, MAX_HANDSHAKES};
use identity::tls::{client_config, server_config};
use identity::{ConnectOptions, Expected, connect_lazy};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{LIMIT, Server, agent, call, installation, operator};

/// Both ends of every connection of this file are in this process.
fn allow_descriptors(needed: u64) {
    let Rlimit { maximum, current } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(needed.min(maximum.unwrap_or(needed))),
                maximum,
            },
        )
        .unwrap();
    }
}

#[tokio::test]
async fn garbage_and_broken_off_connections_leave_the_listener_at_work() {
    let ours = installation();
    let server = Server::start(server_config(&ours.credentials(&operator()))).await;
    let address = server.address;
    for garbage in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 4096],
        &[0x16, 0x03, 0x01, 0xff, 0xff],
        &[0x16, 0x03, 0x01],
    ] {
        for reset in [false, true] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The server may have hung up already.
            let _ = stream.write_all(garbage).await;
            if reset {
                stream.set_zero_linger().unwrap();
            }
        }
    }
    let client = client_config(&ours.credentials(&agent("node-a")));
    assert!(server.ask(client, Expected::Operator).await.is_ok());
}

#[tokio::test]
async fn a_flood_of_silent_connections_does_not_lock_out_a_sound_client() {
    allow_descriptors(4096);
    let ours = installation();
    let server = Server::start(server_config(&ours.credentials(&operator()))).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_HANDSHAKES + 50 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    // So it does not wait until the silent ones time out.
    assert!(ConnectOptions::default().connect_timeout < HANDSHAKE_TIMEOUT);
    let client = client_config(&ours.credentials(&agent("node-a")));
    assert!(server.ask(client, Expected::Operator).await.is_ok());
    // The oldest was dropped to make room.
    let oldest = tokio::time::timeout(LIMIT, silent[0].read_u8())
        .await
        .expect("closed in time");
    assert!(oldest.is_err());
}

#[test]
fn a_handshake_that_makes_no_progress_is_given_up() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let ours = installation();
    let server = runtime.block_on(Server::start(server_config(&ours.credentials(&operator()))));
    let started = Instant::now();
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&[0x16, 0x03, 0x01]).unwrap();
    // The server closes with our bytes unread or not: an end or a reset, never our own time limit.
    let ended = stream.read(&mut [0; 1]);
    assert!(matches!(ended, Ok(0)) || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    assert!(started.elapsed() >= HANDSHAKE_TIMEOUT - Duration::from_secs(1));
}

#[tokio::test]
async fn a_lazy_channel_starts_without_a_server_and_finds_one_that_comes_later() {
    let ours = installation();
    let server = Server::start(server_config(&ours.credentials(&operator()))).await;
    let endpoint = server.address.to_string();
    let config = client_config(&ours.credentials(&agent("node-a")));
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let absent = connect_lazy(&free, config.clone(), Expected::Operator, ConnectOptions::default()).unwrap();
    assert!(call(absent).await.is_err());
    let present = connect_lazy(&endpoint, config, Expected::Operator, ConnectOptions::default()).unwrap();
    assert_eq!(call(present).await.unwrap(), "spiffe://shardwright/agent/node-a");
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_costs_no_more_than_the_connect_timeout() {
    let ours = installation();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = silent.local_addr().unwrap().to_string();
    let config = client_config(&ours.credentials(&agent("node-a")));
    let options = ConnectOptions {
        connect_timeout: Duration::from_millis(100),
        ..ConnectOptions::default()
    };
    let refused = tokio::time::timeout(LIMIT, identity::connect(&endpoint, config, Expected::Operator, options));
    let said = refused.await.expect("an answer in time").unwrap_err().to_string();
    assert!(
        said.contains("no connection within 100 ms") && said.contains(&endpoint),
        "{said}"
    );
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_named_with_what_the_system_says() {
    let ours = installation();
    let config = client_config(&ours.credentials(&agent("node-a")));
    let dialled = identity::connect("127.0.0.1:1", config, Expected::Operator, ConnectOptions::default());
    let refused = tokio::time::timeout(LIMIT, dialled).await.expect("an answer in time");
    let said = refused.unwrap_err().to_string();
    assert!(
        said.starts_with("127.0.0.1:1 cannot be reached: ") && said.contains("cannot dial: Connection refused"),
        "{said}"
    );
}

#[tokio::test]
async fn a_server_that_hangs_up_as_soon_as_it_knows_us_is_told_as_that() {
    let ours = installation();
    let acceptor = tokio_rustls::TlsAcceptor::from(server_config(&ours.credentials(&operator())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let hangs_up = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let config = client_config(&ours.credentials(&agent("node-a")));
    let dialled = identity::connect(&endpoint, config, Expected::Operator, ConnectOptions::default());
    let both = tokio::time::timeout(LIMIT, async { tokio::join!(dialled, hangs_up) });
    let (refused, ()) = both.await.expect("an answer in time");
    let said = refused.unwrap_err().to_string();
    assert!(
        said.contains("the server closed the connection after the handshake"),
        "{said}"
    );
}

#[test]
fn endpoints_that_are_none_are_refused_by_name() {
    let ours = installation();
    let config = client_config(&ours.credentials(&agent("node-a")));
    for endpoint in [
        "",
        "host",
        "host:",
        ":1",
        "host:99999",
        "user@host:1",
        "host:1/path",
        "https://host:1",
        "a b:1",
    ] {
        let refused = connect_lazy(endpoint, config.clone(), Expected::Operator, ConnectOptions::default());
        assert!(
            refused.unwrap_err().to_string().contains("is not host:port"),
            "{endpoint:?}"
        );
    }
}
