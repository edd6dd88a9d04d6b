//! The log's reader: thin, so that all that decides is in the parser.

use super::{Record, record};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The kernel's own limit of a record (`PRINTK_MESSAGE_MAX`), four times over.
const RECORD_LIMIT_BYTES: usize = 8 << 10;
/// Records that one call reads at most: a log that is flooded must not hold its reader for ever.
const RECORDS_AT_ONCE: usize = 4096;

/// What was heard since the last call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// [`Record::Xid`] and [`Record::Driver`] only, in order.
    pub records: Vec<Record>,
    /// Records written by processes that read like a driver's.
    pub spoofed: u64,
    /// How often the log was overwritten faster than it was read: events may be missing.
    pub overrun: u64,
}

/// Reads records as they are written, without ever waiting for one.
#[derive(Debug)]
pub struct Reader<R = File> {
    log: R,
}

impl Reader<File> {
    /// Opens the log, usually `/dev/kmsg`, at its end.
    ///
    /// # Errors
    /// The file is not there, or this process may not read it (`CAP_SYSLOG` where `dmesg_restrict` is set).
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut log = File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(path)?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self { log })
    }
}

impl<R: Read> Reader<R> {
    /// Reads from anything of which each read gives one record, or [`ErrorKind::WouldBlock`].
    pub fn new(log: R) -> Self {
        Self { log }
    }

    /// What was written since the last call.
    ///
    /// # Errors
    /// The log cannot be read any more. What was heard before the error is lost.
    pub fn poll(&mut self) -> io::Result<Heard> {
        let mut heard = Heard::default();
        let mut buffer = [0; RECORD_LIMIT_BYTES];
        for _ in 0..RECORDS_AT_ONCE {
            match self.log.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => match record(&buffer[..length]) {
                    Record::Other => {}
                    Record::Spoofed => heard.spoofed += 1,
                    event => heard.records.push(event),
                },
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    // Overwritten before it was read; the next read gives the oldest that is still there.
                    ErrorKind::BrokenPipe => heard.overrun += 1,
                    // A record longer than the buffer is skipped, a signal changes nothing.
                    ErrorKind::InvalidInput | ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(heard)
    }
}
