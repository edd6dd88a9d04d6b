//! Lines of bounded length from a child process.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::ChildStdout;

/// Safe to cancel: what was read of a line stays for the next call.
#[derive(Debug)]
pub(crate) struct Lines {
    reader: BufReader<ChildStdout>,
    partial: Vec<u8>,
    longest_bytes: u64,
}

impl Lines {
    /// No line may be longer than this, its line feed included.
    pub(crate) fn new(stdout: ChildStdout, longest_bytes: u64) -> Self {
        Self {
            reader: BufReader::new(stdout),
            partial: Vec::new(),
            longest_bytes,
        }
    }

    /// The next line; an error at the end of the output.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<u8>> {
        let room = self.longest_bytes.saturating_sub(self.partial.len() as u64);
        let mut limited = (&mut self.reader).take(room);
        limited.read_until(b'\n', &mut self.partial).await?;
        if self.partial.last() == Some(&b'\n') {
            return Ok(std::mem::take(&mut self.partial));
        }
        if self.partial.len() as u64 >= self.longest_bytes {
            let longest = self.longest_bytes;
            return Err(io::Error::other(format!("a line of more than {longest} bytes")));
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended"))
    }
}
