//! Bytes between main memory and a device's, and over themselves.

use super::super::call::CallError;
use super::super::call::session::{Buffer, Region, Session};
use super::STAGING_BYTES;
use super::pieces::Parts;

/// Bytes of main memory that go one way or the other.
pub(super) enum Host<'a> {
    Write(&'a [u8]),
    Read(&'a mut [u8]),
}

impl Host<'_> {
    pub(super) fn directly(
        &mut self,
        session: &Session,
        part: &Buffer,
        offset: u64,
        range: std::ops::Range<usize>,
    ) -> Result<(), CallError> {
        match self {
            Host::Write(bytes) => session.write(part, offset, &bytes[range]),
            Host::Read(bytes) => session.read(part, offset, &mut bytes[range]),
        }
    }

    pub(super) fn staged(
        &mut self,
        session: &mut Session,
        staging: &Buffer,
        part: &Buffer,
        offset: u64,
        range: std::ops::Range<usize>,
    ) -> Result<(), CallError> {
        let start = range.start;
        for from in range.clone().step_by(STAGING_BYTES as usize) {
            let range = from..range.end.min(from + STAGING_BYTES as usize);
            let bytes = range.len() as u64;
            let (inside, outside) = ((part, offset + (from - start) as u64), (staging, 0));
            match self {
                Host::Write(host) => {
                    session.write(staging, 0, &host[range])?;
                    session.copy(&[Region {
                        from: outside,
                        to: inside,
                        bytes,
                    }])?;
                }
                Host::Read(host) => {
                    session.copy(&[Region {
                        from: inside,
                        to: outside,
                        bytes,
                    }])?;
                    session.read(staging, 0, &mut host[range])?;
                }
            }
        }
        Ok(())
    }
}

/// Moves bytes of one block onto bytes of the same block: towards the front from the front on, else from the back.
pub(super) fn through_staging(
    session: &mut Session,
    staging: &Buffer,
    parts: &Parts<Buffer>,
    (from, to): (u64, u64),
    bytes: u64,
) -> Result<(), CallError> {
    let mut pairs: Vec<_> = parts.pairs(from, parts, to, bytes, STAGING_BYTES).collect();
    if to > from {
        pairs.reverse();
    }
    for [one, other] in pairs {
        session.copy(&[
            Region {
                from: (one.part, one.offset),
                to: (staging, 0),
                bytes: one.bytes,
            },
            Region {
                from: (staging, 0),
                to: (other.part, other.offset),
                bytes: one.bytes,
            },
        ])?;
    }
    Ok(())
}
