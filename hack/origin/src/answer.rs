//! Requests and their answers on one connection.

use crate::{Content, Manner, Seen, Shared, locked};
use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Longest line of a request.
const LINE_BYTES_MAX: u64 = 16 << 10;
/// Lines of a request.
const LINES_MAX: usize = 64;
/// Of a file, what is read and sent at a time.
const CHUNK_BYTES: u64 = 64 << 10;

type Stream = TlsStream<TcpStream>;

/// Answers until the client, or a manner, ends it.
pub(crate) async fn connection(stream: Stream, shared: &Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(mut seen) = request(&mut stream).await? {
        let manner = {
            let mut all = locked(&shared.seen);
            seen.number = all.len();
            all.push(seen.clone());
            drop(all);
            (locked(&shared.script))(&seen)
        };
        if !answer(stream.get_mut(), shared, &seen, manner).await? {
            return stream.get_mut().shutdown().await;
        }
    }
    Ok(())
}

async fn request(stream: &mut BufReader<Stream>) -> std::io::Result<Option<Seen>> {
    let mut seen = Seen::default();
    for number in 0..LINES_MAX {
        let mut line = String::new();
        (&mut *stream).take(LINE_BYTES_MAX).read_line(&mut line).await?;
        let line = line.trim_end();
        if number == 0 {
            let Some(target) = line.split(' ').nth(1) else {
                return Ok(None);
            };
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            (seen.path, seen.query) = (path.to_owned(), query.to_owned());
            continue;
        }
        let Some((name, value)) = line.split_once(": ") else {
            return Ok(Some(seen));
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = range(value),
            "authorization" => seen.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok(None)
}

fn range(value: &str) -> Option<(u64, u64)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().unwrap_or(u64::MAX)))
}

fn plain(status: u16, headers: &[(String, String)], length: u64) -> String {
    let mut head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

/// Whether the connection may be used again.
async fn answer(stream: &mut Stream, shared: &Shared, seen: &Seen, manner: Manner) -> std::io::Result<bool> {
    match &manner {
        Manner::Status(status, headers) => {
            stream.write_all(plain(*status, headers, 0).as_bytes()).await?;
            return Ok(true);
        }
        Manner::Document(status, headers, body) => {
            let head = plain(*status, headers, body.len() as u64);
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body).await?;
            return Ok(true);
        }
        Manner::HugeHeader => {
            let headers = vec![("X".to_owned(), "y".repeat(1 << 20))];
            stream.write_all(plain(200, &headers, 0).as_bytes()).await?;
            return Ok(false);
        }
        Manner::Mute => std::future::pending().await,
        _ => {}
    }
    let content = locked(&shared.files).get(&seen.path).cloned();
    match content {
        Some(content) => send_file(stream, shared, &content, seen, &manner).await,
        None => {
            stream.write_all(plain(404, &[], 0).as_bytes()).await?;
            Ok(true)
        }
    }
}

async fn send_file(
    stream: &mut Stream,
    shared: &Shared,
    content: &Content,
    seen: &Seen,
    manner: &Manner,
) -> std::io::Result<bool> {
    let length = content.length()?;
    let total = match manner {
        Manner::Length(total) => *total,
        _ => length,
    };
    let etag = match manner {
        Manner::Etag(etag) => etag,
        _ => "\"one\"",
    };
    let mut headers = vec![("ETag".to_owned(), etag.to_owned())];
    let (status, first, end) = match seen.range {
        Some((first, last)) if !matches!(manner, Manner::IgnoreRange) => {
            if first >= total {
                stream.write_all(plain(416, &[], 0).as_bytes()).await?;
                return Ok(true);
            }
            let mut end = last.saturating_add(1).min(length);
            if let Manner::Cap(count) = manner {
                end = end.min(first + count);
            }
            headers.push(("Content-Range".to_owned(), format!("bytes {first}-{}/{total}", end - 1)));
            (206, first, end)
        }
        _ => (200, 0, length),
    };
    stream
        .write_all(plain(status, &headers, end - first).as_bytes())
        .await?;
    let sent_end = match manner {
        Manner::Truncate(count) | Manner::Stall(count) => end.min(first + *count as u64),
        _ => end,
    };
    let mut at = first;
    while at < sent_end {
        let mut chunk = content.part(at, (sent_end - at).min(CHUNK_BYTES))?;
        at += chunk.len() as u64;
        if let (true, Manner::Damage, Some(last)) = (at == end, manner, chunk.last_mut()) {
            *last ^= 1;
        }
        // Before whoever gets the last of it can ask how much was sent.
        shared.sent.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        stream.write_all(&chunk).await?;
    }
    stream.flush().await?;
    if matches!(manner, Manner::Stall(_)) {
        std::future::pending::<()>().await;
    }
    Ok(!matches!(manner, Manner::Truncate(_)))
}

impl Content {
    fn length(&self) -> std::io::Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(path) => Ok(std::fs::metadata(path)?.len()),
        }
    }

    /// `count` bytes from `at` on; both lie within the length.
    fn part(&self, at: u64, count: u64) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes[at as usize..(at + count) as usize].to_vec()),
            Self::File(path) => {
                let mut file = std::fs::File::open(path)?;
                file.seek(SeekFrom::Start(at))?;
                let mut part = vec![0; count as usize];
                file.read_exact(&mut part)?;
                Ok(part)
            }
        }
    }
}
