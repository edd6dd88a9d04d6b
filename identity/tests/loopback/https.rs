//! The HTTPS server: probes before enrolment, requests in progress at the end.

use std::io::ErrorKind;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use identity::tls::{ALPN_HTTPS, TlsError, self_signed, server_config_open};
use identity::{SubjectName, TlsListener, serve_https};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::fixture::{LIMIT, agent, installation, operator};

struct Running {
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

async fn start(config: Arc<ServerConfig>, router: Router) -> Running {
    let listener = TlsListener::bind("127.0.0.1:0", config).await.unwrap();
    let address = listener.local_addr();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { stopped.await.unwrap_or_default() };
    let ended = tokio::spawn(serve_https(listener, router, shutdown));
    Running { address, stop, ended }
}

/// An HTTP/1.1 client that verifies nothing, as the kubelet does for probes.
async fn dial(address: std::net::SocketAddr) -> TlsStream<TcpStream> {
    let ours = installation();
    let mut config: ClientConfig = (*crate::fixture::hostile_client(&ours, &ours.identity(&agent("node-a")))).clone();
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(trusting::Everybody));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap()
}

async fn request(stream: &mut TlsStream<TcpStream>, path: &str) {
    let text = format!("GET {path} HTTP/1.1\r\nHost: shardwright\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// All that comes until the server closes, politely or not.
async fn answer(mut stream: TlsStream<TcpStream>) -> String {
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes))
        .await
        .expect("an answer in time");
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::UnexpectedEof));
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_process_answers_probes_before_and_after_it_has_a_leaf() {
    let ours = installation();
    let before = self_signed(&["localhost".parse().unwrap(), "127.0.0.1".parse().unwrap()]).unwrap();
    let after = server_config_open(&ours.credentials(&operator()), ALPN_HTTPS);
    for config in [before, after] {
        let running = start(config, Router::new().route("/healthz", get(|| async { "ok" }))).await;
        let mut stream = dial(running.address).await;
        request(&mut stream, "/healthz").await;
        let answer = answer(stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok"),
            "{answer}"
        );
        running.stop.send(()).unwrap();
        tokio::time::timeout(LIMIT, running.ended)
            .await
            .expect("it ends")
            .unwrap();
    }
}

#[test]
fn a_certificate_of_ones_own_is_refused_for_a_name_that_none_can_carry() {
    let error = self_signed(&[SubjectName::Dns("kn\u{f6}ten".to_owned())]).unwrap_err();
    assert!(matches!(error, TlsError::SelfSigned(_)), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("self-signed certificate cannot be made: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_request_in_progress_is_answered_after_the_shutdown_began_and_idle_connections_are_closed() {
    let (entered, mut inside) = tokio::sync::mpsc::channel(1);
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = move || {
        let (entered, mut released) = (entered.clone(), released.clone());
        async move {
            entered.send(()).await.unwrap();
            released.wait_for(|released| *released).await.unwrap();
            "late, but whole"
        }
    };
    let config = self_signed(&["127.0.0.1".parse().unwrap()]).unwrap();
    let running = start(config, Router::new().route("/slow", get(slow))).await;
    let idle = dial(running.address).await;
    let mut busy = dial(running.address).await;
    request(&mut busy, "/slow").await;
    inside.recv().await.unwrap();

    running.stop.send(()).unwrap();
    assert_eq!(answer(idle).await, "", "the idle connection is closed");
    release.send_replace(true);
    assert!(answer(busy).await.ends_with("late, but whole"));
    tokio::time::timeout(LIMIT, running.ended)
        .await
        .expect("it ends")
        .unwrap();
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed_and_one_that_waits_for_its_answer_is_not() {
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = move || {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            "late, but whole"
        }
    };
    let config = self_signed(&["127.0.0.1".parse().unwrap()]).unwrap();
    let running = start(config, Router::new().route("/slow", get(slow))).await;
    let mut busy = dial(running.address).await;
    request(&mut busy, "/slow").await;
    let silent = dial(running.address).await;
    assert_eq!(answer(silent).await, "", "the silent connection is closed");
    release.send_replace(true);
    assert!(answer(busy).await.ends_with("late, but whole"));
}

#[tokio::test]
async fn the_port_is_free_as_soon_as_the_server_has_ended() {
    let config = self_signed(&["127.0.0.1".parse().unwrap()]).unwrap();
    let running = start(Arc::clone(&config), Router::new()).await;
    let address = running.address;
    running.stop.send(()).unwrap();
    running.ended.await.unwrap();
    for _ in 0..20 {
        let listener = TlsListener::bind(address, Arc::clone(&config)).await.unwrap();
        serve_https(listener, Router::new(), std::future::ready(())).await;
    }
}

mod trusting {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub struct Everybody;

    impl ServerCertVerifier for Everybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2".into()))
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
}
