//! HTTPS: what is sent to whom, where redirects may lead, and what is tried again.
//!
//! Credentials go to the host that the source names and to no other. HTTP/1.1 alone: each range has a connection of its
//! own, so that one slow reader does not hold up another.

use super::address::show;
use super::error::SourceError;
use super::oci::Challenge;
use super::{Access, Patience, Setting};
use lifecycle::backoff::jitter;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Redirects followed: a hub takes two.
const REDIRECTS_MAX: usize = 5;
/// Header lines of an answer; a content network sends some forty. Their bytes are limited by the parser's buffer.
const HEADERS_MAX: usize = 128;
/// Dialling and shaking hands.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// Connections kept for the next range of the same host.
const IDLE_MAX: usize = 4;

/// One source's way to the network.
pub struct Client {
    http: reqwest::Client,
    home: Url,
    authorization: Mutex<Option<HeaderValue>>,
    /// How to get another token when the present one has expired.
    renewal: Option<(Challenge, Access)>,
    pub(super) patience: Patience,
}

/// Why an attempt brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// Trying again changes nothing.
    Final(SourceError),
    /// The server asks for time.
    Later { status: u16, wait: Option<Duration> },
    /// No connection, or a broken one.
    Network(String),
    /// It closed before all had come.
    Ended,
    /// It went silent.
    Stalled,
}

impl Failure {
    /// Of an error while talking; nothing of the address is kept.
    pub fn of(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(at) = cause {
            let ended = at
                .downcast_ref::<std::io::Error>()
                .is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof);
            if ended {
                return Self::Ended;
            }
            cause = at.source();
        }
        Self::Network(identity::connect::causes(&error))
    }

    /// Waits before attempt number `failures` + 1, or gives up. `place` says how far it came, and of how many bytes.
    pub async fn pause(
        self,
        patience: Patience,
        shown: &str,
        failures: u32,
        place: (u64, u64),
    ) -> Result<(), SourceError> {
        let asked = match self {
            Self::Final(error) => return Err(error),
            Self::Later { wait, .. } => wait,
            _ => None,
        };
        if failures >= patience.attempts {
            return Err(self.into_error(shown, patience, failures, place.0, place.1));
        }
        tracing::debug!(source = shown, failure = ?self, failures, "reading is tried again");
        let own = patience.backoff.wait(failures, jitter());
        // A server may ask for more time than we would give it, within reason.
        tokio::time::sleep(asked.map_or(own, |asked| asked.min(patience.retry_after_max).max(own))).await;
        Ok(())
    }

    fn into_error(self, shown: &str, patience: Patience, attempts: u32, at: u64, expected: u64) -> SourceError {
        let source_name = shown.to_owned();
        match self {
            Self::Final(error) => error,
            Self::Later { status, .. } => SourceError::Unavailable {
                source_name,
                cause: format!("it answers with status {status}"),
                attempts,
            },
            Self::Network(cause) => SourceError::Unavailable {
                source_name,
                cause,
                attempts,
            },
            Self::Ended => SourceError::Truncated {
                source_name,
                at,
                expected,
            },
            Self::Stalled => SourceError::Stalled {
                source_name,
                limit: patience.progress,
                attempts,
            },
        }
    }
}

impl Client {
    /// For the source at `home`, with its credentials.
    ///
    /// # Errors
    /// The CA bundle, the proxy or a token cannot be used.
    pub fn new(setting: &Setting, access: &Access, home: &Url) -> Result<Self, SourceError> {
        // Fails only when a provider is installed already, which is then the one we want.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let shown = show(home);
        let bad = |what: &str| SourceError::bad(&shown, what);
        let mut builder = reqwest::Client::builder()
            .http1_only()
            .http1_max_headers(HEADERS_MAX)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_LIMIT)
            .pool_max_idle_per_host(IDLE_MAX)
            .tcp_nodelay(true)
            .user_agent(concat!("shardwright-agent/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        if let Some(pem) = &access.ca_bundle_pem {
            let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .map_err(|_| bad("the Secret's ca.crt is no PEM bundle of certificates"))?;
            if certificates.is_empty() {
                return Err(bad("the Secret's ca.crt holds no certificate"));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some(proxy) = access.proxy_url.as_ref().or(setting.https_proxy.as_ref()) {
            let mut proxy = reqwest::Proxy::https(proxy.as_str()).map_err(|_| bad("its proxy is no address"))?;
            if access.proxy_url.is_none() {
                proxy = proxy.no_proxy(setting.no_proxy.as_deref().and_then(reqwest::NoProxy::from_string));
            }
            builder = builder.proxy(proxy);
        }
        let http = builder
            .build()
            .map_err(|error| bad(&format!("no connection can be set up: {}", error.without_url())))?;
        Ok(Self {
            http,
            home: home.clone(),
            authorization: Mutex::new(authorization(access).map_err(|()| bad("its token is no header value"))?),
            renewal: None,
            patience: setting.patience,
        })
    }

    /// The same with a token that a registry gave, and gives anew when it has expired.
    pub(super) fn with_token(&self, token: HeaderValue, challenge: Challenge, access: Access) -> Self {
        Self {
            http: self.http.clone(),
            home: self.home.clone(),
            authorization: Mutex::new(Some(token)),
            renewal: Some((challenge, access)),
            patience: self.patience,
        }
    }

    /// Gets another token after an answer that says that the present one is good no more. Whether there is one.
    pub(super) async fn renew(&self, response: &Response) -> Result<bool, SourceError> {
        let ours = response.status() == StatusCode::UNAUTHORIZED && same_host(response.url(), &self.home);
        let Some((challenge, access)) = self.renewal.as_ref().filter(|_| ours) else {
            return Ok(false);
        };
        let token = challenge.token(self, access, &show(&self.home)).await?;
        *self.authorization() = Some(token);
        Ok(true)
    }

    fn authorization(&self) -> MutexGuard<'_, Option<HeaderValue>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the realm that a registry sends its callers to: the credentials are meant for it, wherever it is.
    pub(super) fn at(&self, realm: &Url, access: &Access) -> Self {
        Self {
            http: self.http.clone(),
            home: realm.clone(),
            // A bearer token was made for the registry; only a user's name and password are what a realm asks for.
            authorization: Mutex::new(
                authorization(access)
                    .unwrap_or_default()
                    .filter(|_| access.bearer_token.is_none() || same_host(realm, &self.home)),
            ),
            renewal: None,
            patience: self.patience,
        }
    }

    /// One request, redirects followed. Answers other than success are left to the caller.
    pub(super) async fn send(&self, url: &Url, headers: &HeaderMap) -> Result<Response, Failure> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.http.get(url.clone()).headers(headers.clone());
            request = request.header(ACCEPT_ENCODING, "identity");
            // Another host is told nothing of ours.
            let authorization = self.authorization().clone();
            if let Some(value) = authorization.filter(|_| same_host(&url, &self.home)) {
                request = request.header(AUTHORIZATION, value);
            }
            let response = match tokio::time::timeout(self.patience.progress, request.send()).await {
                Err(_) => return Err(Failure::Stalled),
                Ok(Err(error)) => return Err(Failure::of(error)),
                Ok(Ok(response)) => response,
            };
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            url = target(&url, &response).map_err(Failure::Final)?;
        }
        let what = format!("more than {REDIRECTS_MAX} redirects");
        Err(Failure::Final(SourceError::malformed(&show(&url), what)))
    }

    /// The whole of a small document, retried; statuses in `accepted` come back without complaint, from the home host alone.
    pub(super) async fn get_small(
        &self,
        url: &Url,
        accept: &'static str,
        limit_bytes: usize,
        accepted: &[StatusCode],
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), SourceError> {
        let shown = show(url);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        let mut failures = 0;
        loop {
            let failure = match self.document(url, &headers, limit_bytes, accepted).await {
                Ok(found) => return Ok(found),
                Err(failure) => failure,
            };
            failures += 1;
            failure.pause(self.patience, &shown, failures, (0, 0)).await?;
        }
    }

    async fn document(
        &self,
        url: &Url,
        headers: &HeaderMap,
        limit_bytes: usize,
        accepted: &[StatusCode],
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), Failure> {
        let mut response = self.send(url, headers).await?;
        let status = response.status();
        // What a host says to which a redirect led is not obeyed: its challenge would be answered with our password.
        let accepted = accepted.contains(&status) && same_host(response.url(), &self.home);
        if !status.is_success() && !accepted {
            return Err(refusal(&show(url), &response));
        }
        let told = response.headers().clone();
        let mut body = Vec::new();
        loop {
            match tokio::time::timeout(self.patience.progress, response.chunk()).await {
                Err(_) => return Err(Failure::Stalled),
                Ok(Err(error)) => return Err(Failure::of(error)),
                Ok(Ok(None)) => return Ok((status, told, body)),
                Ok(Ok(Some(chunk))) if body.len() + chunk.len() > limit_bytes => {
                    let what = format!("more than {limit_bytes} bytes");
                    return Err(Failure::Final(SourceError::malformed(&show(url), what)));
                }
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            }
        }
    }
}

fn authorization(access: &Access) -> Result<Option<HeaderValue>, ()> {
    use base64::Engine as _;
    let text = if let Some(token) = &access.bearer_token {
        format!("Bearer {token}")
    } else if let Some((name, password)) = &access.basic {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        format!("Basic {pair}")
    } else {
        return Ok(None);
    };
    let mut value = HeaderValue::try_from(text).map_err(|_| ())?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn same_host(url: &Url, home: &Url) -> bool {
    url.host_str() == home.host_str() && url.port_or_known_default() == home.port_or_known_default()
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn target(url: &Url, response: &Response) -> Result<Url, SourceError> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let next = location.and_then(|location| url.join(location).ok());
    match next {
        Some(next) if next.scheme() == "https" && next.has_host() => Ok(next),
        Some(next) => Err(SourceError::malformed(
            &show(url),
            format!("a redirect to {}://, which is not followed", next.scheme()),
        )),
        None => Err(SourceError::malformed(&show(url), "a redirect to nowhere")),
    }
}

/// What an answer that is no success means.
pub(super) fn refusal(shown: &str, response: &Response) -> Failure {
    let source_name = shown.to_owned();
    let status = response.status().as_u16();
    match status {
        401 | 403 => Failure::Final(SourceError::Denied { source_name, status }),
        404 | 410 => Failure::Final(SourceError::NotFound {
            source_name,
            note: format!(" (status {status})"),
        }),
        408 | 425 | 429 | 500..=599 => Failure::Later {
            status,
            wait: retry_after(response.headers()),
        },
        _ => Failure::Final(SourceError::malformed(shown, format!("status {status}"))),
    }
}

/// Seconds. A date is not honoured: our own waits do for it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
