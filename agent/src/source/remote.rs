//! A file on a server, read by ranges, each of which must be of the same content.

use super::Patience;
use super::address::show;
use super::error::SourceError;
use super::http::{Client, Failure, refusal};
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode, Url};
use std::sync::Arc;

/// A file on a server, as it was when first asked for.
pub struct Remote {
    client: Arc<Client>,
    url: Url,
    shown: String,
    bytes: u64,
    etag: Option<HeaderValue>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("shown", &self.shown)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Asks for one byte, and so learns length and version.
    ///
    /// # Errors
    /// There is no such file, it is not for us, or the server does not serve ranges.
    pub async fn open(client: Arc<Client>, url: Url) -> Result<Self, SourceError> {
        let mut remote = Self {
            shown: show(&url),
            client,
            url,
            bytes: 0,
            etag: None,
        };
        let patience = remote.client.patience;
        let mut failures = 0;
        loop {
            let failure = match remote.ask(0, 1).await {
                Ok((response, total)) => {
                    remote.bytes = total;
                    remote.etag = strong_etag(&response);
                    return Ok(remote);
                }
                Err(failure) => failure,
            };
            failures += 1;
            failure.pause(patience, &remote.shown, failures, (0, 0)).await?;
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn version(&self) -> Option<String> {
        let etag = self.etag.as_ref()?.to_str().ok()?;
        Some(format!("{}:{etag}", self.bytes))
    }

    pub(super) fn patience(&self) -> Patience {
        self.client.patience
    }

    /// Opens a range and checks that it is of the same content as before.
    pub(super) async fn range(&self, position: u64, end: u64) -> Result<Response, Failure> {
        let (response, total) = self.ask(position, end).await?;
        let changed = |what: String| {
            Failure::Final(SourceError::Changed {
                source_name: self.shown.clone(),
                what,
            })
        };
        if total != self.bytes {
            return Err(changed(format!("it had {} bytes and has {total}", self.bytes)));
        }
        if let (Some(before), Some(now)) = (&self.etag, strong_etag(&response))
            && *before != now
        {
            return Err(changed("its ETag is another".to_owned()));
        }
        Ok(response)
    }

    /// The answer to a range, and the length of the whole.
    async fn ask(&self, position: u64, end: u64) -> Result<(Response, u64), Failure> {
        let mut headers = HeaderMap::new();
        let range = format!("bytes={position}-{}", end - 1);
        let value = HeaderValue::try_from(range).expect("digits are a header value");
        headers.insert(RANGE, value);
        let mut response = self.client.send(&self.url, &headers).await?;
        // A registry's token lives for minutes, a fetch may take hours.
        if self.client.renew(&response).await.map_err(Failure::Final)? {
            response = self.client.send(&self.url, &headers).await?;
        }
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK => {
                return Err(Failure::Final(SourceError::RangeIgnored {
                    source_name: self.shown.clone(),
                }));
            }
            StatusCode::RANGE_NOT_SATISFIABLE if self.bytes > 0 => {
                return Err(Failure::Final(SourceError::Changed {
                    source_name: self.shown.clone(),
                    what: "it has become shorter".to_owned(),
                }));
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Failure::Final(SourceError::bad(&self.shown, "the file is empty")));
            }
            _ => return Err(refusal(&self.shown, &response)),
        }
        let told = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok());
        match told.and_then(content_range) {
            Some((first, last, total)) if first == position && last < end && total >= end => Ok((response, total)),
            Some((_, _, total)) if total < end => Err(Failure::Final(SourceError::Changed {
                source_name: self.shown.clone(),
                what: format!("it had {} bytes and has {total}", self.bytes),
            })),
            _ => Err(Failure::Final(SourceError::malformed(
                &self.shown,
                "another range than the one that was asked for",
            ))),
        }
    }
}

/// A weak ETag does not tell contents apart byte by byte.
fn strong_etag(response: &Response) -> Option<HeaderValue> {
    let etag = response.headers().get(ETAG)?;
    (!etag.as_bytes().starts_with(b"W/")).then(|| etag.clone())
}

/// `bytes first-last/total`.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
}
