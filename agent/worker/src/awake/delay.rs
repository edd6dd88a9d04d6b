//! How long a thread was ready to run and had to wait for a core: the kernel's count of it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// Three numbers of at most twenty digits.
const MAX_BYTES: usize = 64;

/// Of the thread that opened it.
#[derive(Debug)]
pub(super) struct RunDelay(File);

impl RunDelay {
    /// Of the calling thread; `None` where the kernel does not count.
    pub(super) fn of_this_thread() -> Option<Self> {
        let delay = Self(File::open("/proc/thread-self/schedstat").ok()?);
        delay.total_us()?;
        Some(delay)
    }

    /// Since the thread began, microseconds.
    pub(super) fn total_us(&self) -> Option<u64> {
        let mut bytes = [0; MAX_BYTES];
        let length = self.0.read_at(&mut bytes, 0).ok()?;
        parse(std::str::from_utf8(bytes.get(..length)?).ok()?)
    }
}

/// Time run and time waited in nanoseconds, and how often it was given a core: a kernel that counts nothing says never.
fn parse(schedstat: &str) -> Option<u64> {
    let mut fields = schedstat.split_ascii_whitespace().map(str::parse::<u64>);
    let (_ran_ns, waited_ns) = (fields.next()?.ok()?, fields.next()?.ok()?);
    let times = fields.next()?.ok()?;
    (times > 0).then_some(waited_ns / 1000)
}

#[cfg(test)]
mod tests {
    use super::{RunDelay, parse};

    #[test]
    fn the_second_number_is_the_time_waited() {
        assert_eq!(parse("95673 263808 2\n"), Some(263));
        assert_eq!(parse("0 40000 1\n"), Some(40), "of a thread that has just begun");
    }

    #[test]
    fn a_kernel_that_does_not_count_is_noticed() {
        assert_eq!(parse("0 0 0\n"), None);
        assert_eq!(parse(""), None);
        assert_eq!(parse("many 1 1"), None);
    }

    #[test]
    fn a_thread_knows_its_own_delay_which_only_grows() {
        let delay = RunDelay::of_this_thread().unwrap();
        let before = delay.total_us().unwrap();
        std::thread::yield_now();
        assert!(delay.total_us().unwrap() >= before);
    }
}
