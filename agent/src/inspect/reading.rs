//! Reads a source from begin to end, once, and makes its index on the way. Nothing but headers is kept.

use crate::models::Models;
use crate::shard::observed::Fault;
use crate::source::{RangeReader, Source, SourceError, SourceFile};
use crds::conditions::reason;
use gguf::index::{IndexBuilder, WeightIndex};
use gguf::parse::ParseError;
use gguf::{Digest, Gguf, Limits};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// A small header is read in one range of this size, a large one in ranges that double up to the other.
const WINDOW_BYTES_MIN: u64 = 64 << 10;
const WINDOW_BYTES_MAX: u64 = 8 << 20;

/// Another inspection waits for this one: a source that is slower than this on the average is not read to its end.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;
/// Nothing is said of the speed before.
const SPEED_KNOWN_AFTER: Duration = Duration::from_secs(60);

/// What came of it.
pub(super) struct Readout {
    pub index: WeightIndex,
    /// One for each file.
    pub headers: Vec<Vec<u8>>,
    /// Name and file, in order.
    pub files: Vec<(String, SourceFile)>,
}

pub(super) fn read(models: &Models, source: &Source, stop: &CancellationToken) -> Result<Readout, Fault> {
    let first_name = source.first().to_owned();
    let mut limits = Limits::default();
    let first = Beginning::read(models, source, &first_name, limits, stop)?;
    let names = gguf::parse::split::file_names(&first_name, &first.gguf)
        .map_err(|error| Fault::new(reason::UNREADABLE, error.to_string()))?;
    let mut beginnings = vec![first];
    for name in names.iter().skip(1) {
        // They are all held in memory until the whole was read.
        let held = beginnings.last().map_or(0, |before| before.bytes.len() as u64);
        limits.header_bytes = limits.header_bytes.saturating_sub(held);
        beginnings.push(Beginning::read(models, source, name, limits, stop)?);
    }
    let mut parts = beginnings.iter().map(|beginning| beginning.gguf.clone());
    let Some(first) = parts.next() else {
        return Err(Fault::new(reason::UNREADABLE, "the model has no files"));
    };
    let joined =
        Gguf::merge(first, parts.collect()).map_err(|error| Fault::new(reason::UNREADABLE, error.to_string()))?;
    // Before minutes are spent on it.
    gguf::pieces(&joined).map_err(|error| crate::models::model::piece_fault(&error))?;
    let changed = |error: gguf::index::BuildError| Fault::new(reason::SOURCE_CHANGED, error.to_string());
    let mut builder = IndexBuilder::new(&joined, &names).map_err(changed)?;
    for (number, (name, beginning)) in names.iter().zip(&beginnings).enumerate() {
        let take = |bytes: &[u8]| builder.update(bytes).map_err(changed);
        beginning.read_whole(models, source, name, stop, take)?;
        builder.end_of(number).map_err(changed)?;
    }
    let index = builder.finish().map_err(changed)?;
    let headers = beginnings.iter().zip(index.files()).map(|(beginning, file)| {
        let length = (file.header_bytes as usize).min(beginning.bytes.len());
        let mut header = beginning.bytes[..length].to_vec();
        // Padding before the data section may not have been read for the header's sake.
        let missing = file.header_bytes - length as u64;
        if missing > 0 {
            header.extend(models.wait(stop, beginning.file.read_all(length as u64, missing))?);
        }
        Ok(header)
    });
    Ok(Readout {
        headers: headers.collect::<Result<_, Fault>>()?,
        files: names
            .into_iter()
            .zip(beginnings.into_iter().map(|beginning| beginning.file))
            .collect(),
        index,
    })
}

/// A file's header, and all bytes that were read for it.
struct Beginning {
    file: SourceFile,
    gguf: Gguf,
    bytes: Vec<u8>,
}

impl Beginning {
    /// Gives the whole file to `take`, in order, and fails if it is not what the source says of it, or comes too slowly.
    fn read_whole(
        &self,
        models: &Models,
        source: &Source,
        name: &str,
        stop: &CancellationToken,
        mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut check = self.file.expected().map(|expected| (Sha256::new(), expected));
        let mut hash = |bytes: &[u8]| {
            if let Some((hash, _)) = &mut check {
                hash.update(bytes);
            }
        };
        take(&self.bytes)?;
        hash(&self.bytes);
        let at = self.bytes.len() as u64;
        let mut rest = self.file.read(at, self.file.bytes() - at);
        let (began, mut came) = (Instant::now(), 0);
        while let Some(chunk) = models.wait(stop, rest.chunk())? {
            came += chunk.len() as u64;
            models.counters().received(source.kind(), chunk.len() as u64);
            take(&chunk)?;
            hash(&chunk);
            if is_too_slow(came, began.elapsed()) {
                let message = format!(
                    "{name} of {} comes at less than {} KiB/s; use a source that is nearer, or pin spec.source.indexSha256, so \
                     that it need not be read whole",
                    source.shown(),
                    SLOWEST_BYTES_PER_SECOND >> 10
                );
                return Err(Fault::new(reason::SOURCE_STALLED, message));
            }
        }
        let Some((hash, expected)) = check else { return Ok(()) };
        let found = Digest(hash.finalize().into());
        if found == expected {
            return Ok(());
        }
        let message = format!(
            "{name} of {} has SHA-256 {found}, its manifest says {expected}; push the image anew",
            source.shown()
        );
        Err(Fault::new(reason::DIGEST_MISMATCH, message))
    }

    fn read(
        models: &Models,
        source: &Source,
        name: &str,
        limits: Limits,
        stop: &CancellationToken,
    ) -> Result<Self, Fault> {
        let file = models.wait(stop, source.file(name))?;
        let mut reader = Recorder {
            models,
            stop,
            file: file.clone(),
            window: file.read(0, 0),
            bytes: Vec::new(),
            position: 0,
            fault: None,
        };
        let parsed = Gguf::parse(&mut reader, file.bytes(), limits);
        if parsed.is_ok() {
            reader.drain()?;
        }
        models.counters().received(source.kind(), reader.bytes.len() as u64);
        match parsed {
            Ok(gguf) => Ok(Self {
                file,
                gguf,
                bytes: reader.bytes,
            }),
            Err(error) => Err(reader.fault.take().unwrap_or_else(|| {
                if looks_like_safetensors(&reader.bytes) {
                    return SourceError::Safetensors {
                        source_name: source.shown().to_owned(),
                    }
                    .into();
                }
                let reason = match error {
                    ParseError::Io(_) => reason::UNREADABLE,
                    ParseError::Truncated { .. } => reason::TRUNCATED,
                    _ => reason::NOT_GGUF,
                };
                Fault::new(reason, format!("{name} of {}: {error}", source.shown()))
            })),
        }
    }
}

fn is_too_slow(bytes: u64, elapsed: Duration) -> bool {
    elapsed >= SPEED_KNOWN_AFTER && bytes < SLOWEST_BYTES_PER_SECOND.saturating_mul(elapsed.as_secs())
}

/// The length of a JSON header in 64 bits, and the header.
fn looks_like_safetensors(bytes: &[u8]) -> bool {
    bytes.get(6..9) == Some(b"\0\0{")
}

/// Gives a file's bytes from its start, and keeps them.
struct Recorder<'a> {
    models: &'a Models,
    stop: &'a CancellationToken,
    file: SourceFile,
    /// The range that is being read. Ranges grow, so that little is asked for that a header does not need.
    window: RangeReader,
    bytes: Vec<u8>,
    position: usize,
    /// Why reading failed, in our own words.
    fault: Option<Fault>,
}

impl Recorder<'_> {
    /// Takes what was asked for and not needed: it is on its way.
    fn drain(&mut self) -> Result<(), Fault> {
        while let Some(chunk) = self.models.wait(self.stop, self.window.chunk())? {
            self.bytes.extend_from_slice(&chunk);
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Bytes, Fault> {
        if let Some(chunk) = self.models.wait(self.stop, self.window.chunk())? {
            return Ok(chunk);
        }
        let at = self.bytes.len() as u64;
        let length = at.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX).min(self.file.bytes() - at);
        self.window = self.file.read(at, length);
        Ok(self.models.wait(self.stop, self.window.chunk())?.unwrap_or_default())
    }
}

impl Read for Recorder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.bytes.len() && self.position as u64 != self.file.bytes() {
            let chunk = self.next().map_err(|fault| {
                let told = io::Error::other(fault.message.clone());
                self.fault = Some(fault);
                told
            })?;
            self.bytes.extend_from_slice(&chunk);
        }
        let mut left = &self.bytes[self.position..];
        let count = left.read(buffer)?;
        self.position += count;
        Ok(count)
    }
}

impl Seek for Recorder<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(place) if place <= self.bytes.len() as u64 => {
                self.position = place as usize;
                Ok(place)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_too_slow_only_once_its_speed_is_known() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let floor = SLOWEST_BYTES_PER_SECOND * 60;
        for (bytes, elapsed, expected) in [
            (0, Duration::from_secs(59), false),
            (floor, minutes(1), false),
            (floor - 1, minutes(1), true),
            (floor, minutes(2), true),
            (u64::MAX, minutes(10_000), false),
        ] {
            assert_eq!(is_too_slow(bytes, elapsed), expected, "{bytes} {elapsed:?}");
        }
    }
}
