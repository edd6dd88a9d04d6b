//! A range of a file, read piece by piece. A connection that breaks is taken up where it broke.

use super::error::SourceError;
use super::http::Failure;
use super::local::LocalFile;
use super::remote::Remote;
use reqwest::Response;
use std::sync::Arc;
use tokio_util::bytes::Bytes;

/// A local file is read in steps of this size: few hops between threads, little memory.
const LOCAL_STEP_BYTES: u64 = 1 << 20;
/// An attempt that brings so much has not failed, however it ends; one that brings less has, or a source that drips would be
/// read for ever.
const ATTEMPT_BYTES_MIN: u64 = 64 << 10;

/// Gives exactly the bytes that were asked for, in order, or an error.
pub struct RangeReader {
    position: u64,
    end: u64,
    from: From,
}

enum From {
    Local(Arc<LocalFile>),
    Remote {
        remote: Arc<Remote>,
        response: Option<Box<Response>>,
        /// In a row, without [`ATTEMPT_BYTES_MIN`] between them.
        failures: u32,
        /// Came since the last failure.
        since_failure: u64,
        /// Came since the range was last asked for.
        since_open: u64,
    },
}

impl RangeReader {
    pub(super) fn local(file: Arc<LocalFile>, position: u64, end: u64) -> Self {
        Self {
            position,
            end,
            from: From::Local(file),
        }
    }

    pub(super) fn remote(remote: Arc<Remote>, position: u64, end: u64) -> Self {
        Self {
            position,
            end,
            from: From::Remote {
                remote,
                response: None,
                failures: 0,
                since_failure: 0,
                since_open: 0,
            },
        }
    }

    /// The next bytes; `None` at the end of the range.
    ///
    /// # Errors
    /// The source changed, denies access, or brought nothing in several attempts.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let left = self.end - self.position;
        let chunk = match &mut self.from {
            From::Local(file) => {
                let length = left.min(LOCAL_STEP_BYTES) as usize;
                Bytes::from(Arc::clone(file).read(self.position, length).await?)
            }
            From::Remote {
                remote,
                response,
                failures,
                since_failure,
                since_open,
            } => loop {
                let failure = match next(remote, response, self.position, self.end).await {
                    Ok(Some(chunk)) => {
                        *since_failure += chunk.len() as u64;
                        *since_open += chunk.len() as u64;
                        if *since_failure >= ATTEMPT_BYTES_MIN {
                            *failures = 0;
                        }
                        break chunk;
                    }
                    // A server may give less than was asked for, and is asked for the rest.
                    Ok(None) if *since_open >= ATTEMPT_BYTES_MIN => {
                        (*response, *since_open) = (None, 0);
                        continue;
                    }
                    Ok(None) => Failure::Ended,
                    Err(failure) => failure,
                };
                (*response, *since_open, *since_failure) = (None, 0, 0);
                *failures += 1;
                let place = (self.position, remote.bytes());
                failure
                    .pause(remote.patience(), remote.shown(), *failures, place)
                    .await?;
            },
        };
        if chunk.len() as u64 > left {
            return Err(SourceError::malformed(self.shown(), "more bytes than it announced"));
        }
        self.position += chunk.len() as u64;
        Ok(Some(chunk))
    }

    fn shown(&self) -> &str {
        match &self.from {
            From::Local(_) => "the file",
            From::Remote { remote, .. } => remote.shown(),
        }
    }
}

/// The next bytes; `None` where the answer ends, as its server meant it to.
async fn next(
    remote: &Remote,
    response: &mut Option<Box<Response>>,
    position: u64,
    end: u64,
) -> Result<Option<Bytes>, Failure> {
    let open = match response {
        Some(open) => open,
        None => response.insert(Box::new(remote.range(position, end).await?)),
    };
    match tokio::time::timeout(remote.patience().progress, open.chunk()).await {
        Err(_) => Err(Failure::Stalled),
        Ok(Err(error)) => Err(Failure::of(error)),
        Ok(Ok(chunk)) => Ok(chunk.filter(|chunk| !chunk.is_empty())),
    }
}
