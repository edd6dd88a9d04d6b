//! Makes the index of a model on a server as its bytes stream by: nothing is stored here.

use std::error::Error as _;
use std::io::Cursor;
use std::time::Duration;

use gguf::parse::split::file_names;
use gguf::{Gguf, IndexBuilder, Limits, ParseError, WeightIndex};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Certificate, Client, Response, StatusCode, Url};

use crate::args::AccessArgs;
use crate::failure::{Failure, reading};
use crate::progress::Progress;

/// A server that does not take a connection in this time is not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// A server that sends nothing for this long has stalled; what is missing is asked for again.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// Tries without a single byte more before giving up.
const FRUITLESS_TRIES: u32 = 5;
/// Before the second try; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// First try for a header: holds all of most models'.
const HEADER_BYTES: u64 = 1 << 20;

/// Makes the index of the model whose first or only file is at `url`.
pub fn index(url: &Url, access: &AccessArgs) -> Result<WeightIndex, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Io(format!("no thread for the network: {error}")))?;
    runtime.block_on(async { Server::new(access)?.index(url).await })
}

struct Server {
    client: Client,
    token: Option<String>,
}

/// One file on the server.
struct RemoteFile {
    url: Url,
    bytes: u64,
    /// So that a file replaced while it is read is noticed.
    etag: Option<HeaderValue>,
}

impl Server {
    fn new(access: &AccessArgs) -> Result<Self, Failure> {
        let mut builder = Client::builder()
            .https_only(true)
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(READ_LIMIT);
        if let Some(path) = &access.cacert {
            let name = path.display().to_string();
            let pem = std::fs::read(path).map_err(|error| reading(&name, &error))?;
            let authorities = Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|found| !found.is_empty())
                .ok_or_else(|| Failure::BadData(format!("{name} holds no PEM certificate; give the authority's")))?;
            builder = builder.tls_certs_merge(authorities);
        }
        let client = builder
            .build()
            .map_err(|error| Failure::Unavailable(format!("no HTTPS client: {}", explain(error))))?;
        Ok(Self {
            client,
            token: access.token.clone(),
        })
    }

    async fn index(&self, url: &Url) -> Result<WeightIndex, Failure> {
        let (first, header) = self.header(url.clone()).await?;
        let names = file_names(&file_name(url)?, &header)?;
        let mut files = vec![first];
        let mut others = Vec::new();
        for name in names.iter().skip(1) {
            let (file, header) = self.header(sibling(url, name)?).await?;
            files.push(file);
            others.push(header);
        }
        let gguf = Gguf::merge(header, others)?;
        let mut builder = IndexBuilder::new(&gguf, &names)?;
        let mut progress = Progress::new("reading the model", gguf.total_bytes());
        for (number, file) in files.iter().enumerate() {
            self.stream(file, &mut builder, &mut progress).await?;
            builder.end_of(number)?;
        }
        Ok(builder.finish()?)
    }

    /// Reads the header of a file, asking for more until it is whole.
    async fn header(&self, url: Url) -> Result<(RemoteFile, Gguf), Failure> {
        let mut wanted = HEADER_BYTES;
        let mut prefix = Vec::new();
        let mut tries = 0;
        loop {
            let before = prefix.len();
            let (bytes, etag, broken) = self.read_ahead(&url, &mut prefix, wanted).await?;
            let limit = Limits::default().header_bytes;
            match Gguf::parse(&mut Cursor::new(&prefix), bytes, Limits::default()) {
                Ok(header) => return Ok((RemoteFile { url, bytes, etag }, header)),
                Err(ParseError::Truncated { actual, .. }) if actual < bytes && wanted < limit => {
                    tries = if prefix.len() > before { 0 } else { tries + 1 };
                    match broken {
                        Some(failure) if tries >= FRUITLESS_TRIES => return Err(failure),
                        Some(_) => tokio::time::sleep(FIRST_PAUSE * (1 << tries)).await,
                        None => wanted *= 4,
                    }
                }
                Err(error) => return Err(Failure::BadData(format!("{}: {error}", shown(&url)))),
            }
        }
    }

    /// Extends the beginning of a file to `wanted` bytes, or to where the connection broke. Gives the file's length and
    /// tag, and how the connection broke.
    async fn read_ahead(
        &self,
        url: &Url,
        prefix: &mut Vec<u8>,
        wanted: u64,
    ) -> Result<(u64, Option<HeaderValue>, Option<Failure>), Failure> {
        let have = prefix.len() as u64;
        let mut response = self.get(url, have, Some(wanted - have), None).await?;
        let bytes = length(url, &response)?;
        let etag = response.headers().get(ETAG).cloned();
        if response.status() != StatusCode::PARTIAL_CONTENT {
            // The server begins anew whatever it was asked for.
            prefix.clear();
        }
        while (prefix.len() as u64) < wanted {
            match response.chunk().await {
                Ok(Some(chunk)) => prefix.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Ok((bytes, etag, Some(unavailable(url, &explain(error))))),
            }
        }
        Ok((bytes, etag, None))
    }

    /// Feeds all bytes of a file to the builder, and takes up again where a connection broke.
    async fn stream(
        &self,
        file: &RemoteFile,
        builder: &mut IndexBuilder,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut position = 0;
        let mut tries = 0;
        while position < file.bytes {
            let before = position;
            let outcome = self.stream_from(file, &mut position, builder, progress).await;
            match outcome {
                Ok(()) if position > before => tries = 0,
                Err(failure) if !matches!(failure, Failure::Unavailable(_)) => return Err(failure),
                outcome => {
                    tries = if position > before { 0 } else { tries + 1 };
                    if tries >= FRUITLESS_TRIES {
                        outcome?;
                        return Err(unavailable(&file.url, "it sends nothing"));
                    }
                    tokio::time::sleep(FIRST_PAUSE * (1 << tries)).await;
                }
            }
        }
        Ok(())
    }

    async fn stream_from(
        &self,
        file: &RemoteFile,
        position: &mut u64,
        builder: &mut IndexBuilder,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut response = self.get(&file.url, *position, None, file.etag.as_ref()).await?;
        let changed = || {
            Failure::BadData(format!(
                "{} changed while it was read; run this again",
                shown(&file.url)
            ))
        };
        if length(&file.url, &response)? != file.bytes {
            return Err(changed());
        }
        if file.etag.is_some() && response.headers().get(ETAG) != file.etag.as_ref() {
            return Err(changed());
        }
        if *position > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            // Either the file is another one now, or the server cannot begin in the middle.
            return Err(changed());
        }
        loop {
            let chunk = response.chunk().await;
            let Some(chunk) = chunk.map_err(|error| unavailable(&file.url, &explain(error)))? else {
                return Ok(());
            };
            builder.update(&chunk)?;
            *position += chunk.len() as u64;
            progress.advance(chunk.len() as u64);
        }
    }

    /// Asks for a file from `first` on, `count` bytes of it or all.
    async fn get(
        &self,
        url: &Url,
        first: u64,
        count: Option<u64>,
        etag: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        let range = match count {
            Some(count) => format!("bytes={first}-{}", first + count - 1),
            None => format!("bytes={first}-"),
        };
        let mut request = self.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if first > 0 || count.is_some() {
            request = request.header(RANGE, range);
        }
        // A weak tag is no promise of equal bytes.
        if let Some(etag) = etag.filter(|etag| first > 0 && !etag.as_bytes().starts_with(b"W/")) {
            request = request.header(IF_RANGE, etag);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request
            .send()
            .await
            .map_err(|error| unavailable(url, &explain(error)))?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::MissingInput(format!(
                "{} may not be read ({}); give a token by --token or SHARDWRIGHT_SOURCE_TOKEN",
                shown(url),
                response.status()
            ))),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(Failure::MissingInput(format!(
                "{} is not there ({})",
                shown(url),
                response.status()
            ))),
            status => Err(unavailable(url, &format!("it answers {status}"))),
        }
    }
}

/// Length of the whole file that a response is of.
fn length(url: &Url, response: &Response) -> Result<u64, Failure> {
    let whole = match response.status() {
        StatusCode::PARTIAL_CONTENT => response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|range| range.to_str().ok()?.rsplit_once('/')?.1.parse().ok()),
        _ => response.content_length(),
    };
    whole.ok_or_else(|| unavailable(url, "it does not tell the file's length"))
}

/// The file's name in an address.
fn file_name(url: &Url) -> Result<String, Failure> {
    let encoded = url
        .path_segments()
        .and_then(|mut parts| parts.next_back())
        .unwrap_or_default();
    decoded(encoded)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Failure::Usage(format!("{} does not end in a file's name", shown(url))))
}

fn decoded(encoded: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            bytes.push((digit(rest.next())? * 16 + digit(rest.next())?) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn sibling(url: &Url, name: &str) -> Result<Url, Failure> {
    let mut sibling = url.clone();
    sibling
        .path_segments_mut()
        .map_err(|()| Failure::Usage(format!("{} has no folder to look for {name} in", shown(url))))?
        .pop()
        .push(name);
    Ok(sibling)
}

/// An address without its query, which may hold a secret.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    shown.into()
}

fn unavailable(url: &Url, why: &str) -> Failure {
    Failure::Unavailable(format!("{} cannot be read: {why}", shown(url)))
}

/// An error with its causes, without the address, which may hold a secret.
fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}
