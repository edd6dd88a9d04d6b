//! Reads a source from begin to end, once, and makes its index on the way. Nothing but headers is kept.

use crate::models::Models;
use crate::shard::observed::Fault;
use crate::source::{RangeReader, Source, SourceError, SourceFile};
use gguf::index::{IndexBuilder, WeightIndex};
use gguf::parse::ParseError;
use gguf::{Gguf, Limits};
use std::io::{self, Read, Seek, SeekFrom};
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// A small header is read in one range of this size, a large one in ranges that double up to the other.
const WINDOW_BYTES_MIN: u64 = 64 << 10;
const WINDOW_BYTES_MAX: u64 = 8 << 20;

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
    let first = Beginning::read(models, source, &first_name, stop)?;
    let names = gguf::parse::split::file_names(&first_name, &first.gguf)
        .map_err(|error| Fault::new("Unreadable", error.to_string()))?;
    let mut beginnings = vec![first];
    for name in names.iter().skip(1) {
        beginnings.push(Beginning::read(models, source, name, stop)?);
    }
    let mut parts = beginnings.iter().map(|beginning| beginning.gguf.clone());
    let Some(first) = parts.next() else {
        return Err(Fault::new("Unreadable", "the model has no files"));
    };
    let joined = Gguf::merge(first, parts.collect()).map_err(|error| Fault::new("Unreadable", error.to_string()))?;
    // Before minutes are spent on it.
    gguf::pieces(&joined).map_err(|error| crate::models::model::piece_fault(&error))?;
    let changed = |error: gguf::index::BuildError| Fault::new("SourceChanged", error.to_string());
    let mut builder = IndexBuilder::new(&joined, &names).map_err(changed)?;
    for (number, beginning) in beginnings.iter().enumerate() {
        builder.update(&beginning.bytes).map_err(changed)?;
        let at = beginning.bytes.len() as u64;
        let mut rest = beginning.file.read(at, beginning.file.bytes() - at);
        while let Some(chunk) = models.wait(stop, rest.chunk())? {
            models.counters().received(source.kind(), chunk.len() as u64);
            builder.update(&chunk).map_err(changed)?;
        }
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
    fn read(models: &Models, source: &Source, name: &str, stop: &CancellationToken) -> Result<Self, Fault> {
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
        let parsed = Gguf::parse(&mut reader, file.bytes(), Limits::default());
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
                    ParseError::Io(_) => "Unreadable",
                    ParseError::Truncated { .. } => "Truncated",
                    _ => "NotGGUF",
                };
                Fault::new(reason, format!("{name} of {}: {error}", source.shown()))
            })),
        }
    }
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
