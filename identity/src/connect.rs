//! The client's side of a connection: dial, shake hands, make sure who answers.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::accept::{CONNECTION_WINDOW_BYTES, MAX_FRAME_BYTES, STREAM_WINDOW_BYTES};
use crate::certificate::{self, CertificateError};
use crate::spiffe::{Role, SpiffeId};

/// Who must answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Any operator of our trust domain.
    Operator,
    /// Any agent of our trust domain.
    Agent,
    /// This process.
    Exactly(SpiffeId),
    /// One of these processes.
    AnyOf(Vec<SpiffeId>),
    /// A server whose certificate carries this DNS name or address: before we have an identity of our own.
    Name(String),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("an operator"),
            Self::Agent => f.write_str("an agent"),
            Self::Exactly(id) => write!(f, "{id}"),
            Self::AnyOf(ids) => {
                let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
                write!(f, "one of [{}]", ids.join(", "))
            }
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// How a silent peer is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// A ping after so long without traffic, streams or none.
    pub interval: Duration,
    /// The connection is given up when the ping's answer takes longer.
    pub timeout: Duration,
}

impl Default for Keepalive {
    /// After half a second, given up after one and a half: a node that is gone without a word is known to be after two seconds. TCP
    /// sends a lost ping three times again within that, also where the way there and back takes a tenth of a second.
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            timeout: Duration::from_millis(1500),
        }
    }
}

impl Keepalive {
    /// How long a peer may say nothing.
    #[must_use]
    pub fn limit(self) -> Duration {
        self.interval + self.timeout
    }
}

/// How a channel is opened and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectOptions {
    /// For each attempt, from name lookup to the end of the handshake.
    pub connect_timeout: Duration,
    /// None: a silent peer is noticed by deadlines alone.
    pub keepalive: Option<Keepalive>,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            keepalive: Some(Keepalive::default()),
        }
    }
}

/// Why there is no channel.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Not `host:port`.
    #[error("{endpoint:?} is not host:port: {cause}")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The first attempt failed.
    #[error("{endpoint} cannot be reached: {cause}")]
    Unreachable {
        /// Whom we dialled.
        endpoint: String,
        /// The chain of causes, the handshake's included.
        cause: String,
    },
}

/// Why one attempt failed.
#[derive(Debug, Error)]
enum AttemptError {
    #[error("no connection within {} ms", limit.as_millis())]
    Timeout { limit: Duration },
    #[error("cannot dial: {0}")]
    Dial(io::Error),
    #[error("handshake: {0}")]
    Handshake(io::Error),
    #[error("the server closed the connection after the handshake")]
    Closed,
    #[error("the server shows no certificate")]
    NoCertificate,
    #[error("the server's certificate: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the server's certificate: {0}")]
    Name(#[from] rustls::Error),
    #[error("{found} answers where {expected} is expected")]
    UnexpectedPeer {
        found: Box<SpiffeId>,
        expected: Box<Expected>,
    },
}

/// A channel to `endpoint` (`host:port`), connected, which reconnects by itself; each time the expected peer must answer, and take
/// us for who we are.
///
/// # Errors
/// When the endpoint is no `host:port`, or the first attempt fails.
pub async fn connect(
    endpoint: &str,
    config: Arc<ClientConfig>,
    expected: Expected,
    options: ConnectOptions,
) -> Result<Channel, ConnectError> {
    let (channel, connector) = prepare(endpoint, config, expected, options)?;
    let service = tower::service_fn(move |_: Uri| connector.clone().open());
    channel
        .connect_with_connector(service)
        .await
        .map_err(|error| ConnectError::Unreachable {
            endpoint: endpoint.to_owned(),
            cause: causes(&error),
        })
}

/// As [`connect`], but the first attempt is made by the first call, and calls fail with `UNAVAILABLE` while nobody answers.
///
/// # Errors
/// When the endpoint is no `host:port`.
pub fn connect_lazy(
    endpoint: &str,
    config: Arc<ClientConfig>,
    expected: Expected,
    options: ConnectOptions,
) -> Result<Channel, ConnectError> {
    let (channel, connector) = prepare(endpoint, config, expected, options)?;
    let service = tower::service_fn(move |_: Uri| connector.clone().open());
    Ok(channel.connect_with_connector_lazy(service))
}

/// What TLS says where the dates of a certificate do not fit: of the other side's in words, of ours by an alert. They are
/// judged by the clock of whoever looks at it.
const OF_DATES: [&str; 3] = [
    "certificate not valid yet",
    "certificate expired",
    "fatal alert: CertificateExpired",
];
/// What a person can do about that.
const CHECK_THE_TIME: &str =
    "the clock of this node and that of the issuer differ, or the certificate has expired: check the time";

/// An error and all that caused it, for a log line or a message. A cause that the text before it ends with is not repeated;
/// what helps is told with it where the words do not show that.
#[must_use]
pub fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let told = cause.to_string();
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        source = cause.source();
    }
    match remedy(&text) {
        Some(remedy) if !text.contains(remedy) => format!("{text} ({remedy})"),
        _ => text,
    }
}

/// Whether a call ended because nothing was heard of the peer any more: its keepalive, or TCP, gave the connection up.
#[must_use]
pub fn fell_silent(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let of_http = error.downcast_ref::<hyper::Error>();
        let of_tcp = error.downcast_ref::<io::Error>();
        if of_http.is_some_and(hyper::Error::is_timeout)
            || of_tcp.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

fn remedy(told: &str) -> Option<&'static str> {
    OF_DATES
        .iter()
        .any(|words| told.contains(words))
        .then_some(CHECK_THE_TIME)
}

/// The host of `host:port`, without the brackets of an IPv6 address.
pub(crate) fn split(endpoint: &str) -> Result<(String, u16), ConnectError> {
    let invalid = |cause: &str| ConnectError::Endpoint {
        endpoint: endpoint.to_owned(),
        cause: cause.to_owned(),
    };
    let authority: Authority = endpoint.parse().map_err(|_| invalid("not an authority"))?;
    if authority.as_str().contains('@') {
        return Err(invalid("user information is not allowed"));
    }
    let port = authority.port_u16().ok_or_else(|| invalid("no port"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(invalid("no host"));
    }
    Ok((host.to_owned(), port))
}

fn prepare(
    endpoint: &str,
    config: Arc<ClientConfig>,
    expected: Expected,
    options: ConnectOptions,
) -> Result<(Endpoint, Connector), ConnectError> {
    let invalid = |cause: String| ConnectError::Endpoint {
        endpoint: endpoint.to_owned(),
        cause,
    };
    let (host, port) = split(endpoint)?;
    let name = if let Expected::Name(name) = &expected {
        name.clone()
    } else {
        host.clone()
    };
    let server_name = ServerName::try_from(name).map_err(|error| invalid(error.to_string()))?;
    let mut channel = Endpoint::from_shared(format!("https://{endpoint}"))
        .map_err(|error| invalid(causes(&error)))?
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES);
    if let Some(Keepalive { interval, timeout }) = options.keepalive {
        channel = channel
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(timeout)
            .keep_alive_while_idle(true);
    }
    let limit = options.connect_timeout;
    let connector = Connector {
        host,
        port,
        server_name,
        tls: TlsConnector::from(config),
        expected,
        limit,
    };
    Ok((channel, connector))
}

#[derive(Clone)]
struct Connector {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    tls: TlsConnector,
    expected: Expected,
    limit: Duration,
}

impl Connector {
    async fn open(self) -> Result<TokioIo<TlsStream<TcpStream>>, AttemptError> {
        let limit = self.limit;
        timeout(limit, self.attempt())
            .await
            .map_err(|_| AttemptError::Timeout { limit })?
    }

    async fn attempt(self) -> Result<TokioIo<TlsStream<TcpStream>>, AttemptError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(AttemptError::Dial)?;
        stream.set_nodelay(true).map_err(AttemptError::Dial)?;
        let mut stream = self
            .tls
            .connect(self.server_name.clone(), stream)
            .await
            .map_err(AttemptError::Handshake)?;
        let certificates = stream.get_ref().1.peer_certificates();
        let leaf = certificates
            .and_then(|chain| chain.first())
            .ok_or(AttemptError::NoCertificate)?;
        self.check(leaf)?;
        // A server judges our certificate when the handshake is over on this side. What it says first is the beginning of HTTP/2, or
        // why it refuses us; whoever writes sooner may hear of a broken connection alone.
        match stream.fill_buf().await.map(<[u8]>::is_empty) {
            Ok(false) => Ok(TokioIo::new(stream)),
            Ok(true) => Err(AttemptError::Closed),
            Err(error) => Err(AttemptError::Handshake(error)),
        }
    }

    /// The chain was verified in the handshake; this decides whether it is the right server. Nothing was sent to it yet.
    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), AttemptError> {
        if let Expected::Name(_) = self.expected {
            return Ok(verify_server_name(
                &ParsedCertificate::try_from(leaf)?,
                &self.server_name,
            )?);
        }
        let found = certificate::spiffe_id(leaf)?;
        let sound = match &self.expected {
            Expected::Operator => matches!(found.role, Role::Operator { .. }),
            Expected::Agent => matches!(found.role, Role::Agent { .. }),
            Expected::Exactly(id) => found == *id,
            Expected::AnyOf(ids) => ids.contains(&found),
            Expected::Name(_) => false,
        };
        if sound {
            return Ok(());
        }
        Err(AttemptError::UnexpectedPeer {
            found: Box::new(found),
            expected: Box::new(self.expected.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{AlertDescription, CertificateError, Error};
    use rustls_pki_types::UnixTime;

    fn told(error: Error) -> String {
        causes(&AttemptError::Handshake(io::Error::other(error)))
    }

    #[test]
    fn a_certificate_whose_dates_do_not_fit_is_told_with_what_to_check_and_that_once() {
        let second = |at| UnixTime::since_unix_epoch(Duration::from_secs(at));
        let early = CertificateError::NotValidYetContext {
            time: second(10),
            not_before: second(20),
        };
        let late = CertificateError::ExpiredContext {
            time: second(20),
            not_after: second(10),
        };
        for error in [
            Error::InvalidCertificate(early),
            Error::InvalidCertificate(late),
            Error::AlertReceived(AlertDescription::CertificateExpired),
        ] {
            let words = error.to_string();
            let cause = told(error);
            assert_eq!(cause, format!("handshake: {words} ({CHECK_THE_TIME})"));
            let endpoint = "a:1".to_owned();
            let again = causes(&ConnectError::Unreachable { endpoint, cause });
            assert_eq!(again.matches(CHECK_THE_TIME).count(), 1, "{again}");
        }
    }

    #[test]
    fn nobody_is_sent_to_the_clocks_for_another_fault() {
        let stranger = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for error in [stranger, Error::AlertReceived(AlertDescription::UnknownCA)] {
            let words = error.to_string();
            assert_eq!(told(error), format!("handshake: {words}"));
        }
    }
}
