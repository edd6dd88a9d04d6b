//! Whether a process that says nothing could have said anything: on a node that is overloaded it waits for a processor, and its driver
//! is well.
//!
//! Two things tell: what the kernel counts as the process's wait for a processor, and how late timers of this process fire. That
//! time does not count. A driver that hangs leaves its process asleep, or spinning, and is found as soon as ever.

use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What is added to a limit at most.
const EXTRA_MAX: Duration = Duration::from_secs(20);
/// How long the timers are that are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Threads of a process that are looked at.
const THREADS_MAX: usize = 256;

/// Why nothing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// There was time enough.
    Silent,
    /// There was not.
    Starved,
}

/// Awaits what a process does for so long, not counting the time in which it, or this one, had no processor. `delay` is what the process
/// waited for one since its start, where that is known.
pub(super) async fn within<T>(
    limit: Duration,
    delay: impl Fn() -> Option<Duration>,
    what: impl Future<Output = T>,
) -> Result<T, Late> {
    let (began, before) = (Instant::now(), delay().unwrap_or_default());
    let (mut lost, mut late) = (Duration::ZERO, Duration::ZERO);
    let mut what = pin!(what);
    let mut until = began + limit;
    loop {
        let look = until.min(Instant::now() + LOOK_EVERY);
        if let Ok(done) = timeout_at(look, what.as_mut()).await {
            return Ok(done);
        }
        let now = Instant::now();
        late += now.saturating_duration_since(look);
        if now < until {
            continue;
        }
        let delayed = delay().unwrap_or_default().saturating_sub(before);
        // Of a process that has ended meanwhile nothing is told any more.
        lost = lost.max(delayed).max(late);
        until = began + judge(limit, now.saturating_duration_since(began), lost)?;
    }
}

/// For how long it is awaited, from the beginning. Pure.
fn judge(limit: Duration, elapsed: Duration, lost: Duration) -> Result<Duration, Late> {
    if elapsed.saturating_sub(lost) >= limit {
        Err(Late::Silent)
    } else if elapsed >= limit + EXTRA_MAX {
        Err(Late::Starved)
    } else {
        Ok(limit + lost.min(EXTRA_MAX))
    }
}

/// What a process waited for a processor since its start, by whichever of its threads waited longest. Nothing where the kernel does
/// not count it, or there is no such process.
pub(super) fn delay_of(pid: u32) -> Option<Duration> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let delays = threads.take(THREADS_MAX).filter_map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        delay_in(&text)
    });
    delays.max()
}

/// The second number of `/proc/<pid>/schedstat`, nanoseconds.
fn delay_in(schedstat: &str) -> Option<Duration> {
    let delay_ns = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(delay_ns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::sync::atomic::{AtomicU32, Ordering};

    const LIMIT: Duration = Duration::from_millis(10);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn who_had_a_processor_all_the_time_is_silent_at_the_limit() {
        assert_eq!(judge(seconds(5), seconds(5), Duration::ZERO), Err(Late::Silent));
    }

    #[test]
    fn time_without_a_processor_is_given_again_and_not_for_ever() {
        assert_eq!(judge(seconds(5), seconds(5), seconds(4)), Ok(seconds(9)));
        assert_eq!(
            judge(seconds(5), seconds(9), seconds(4)),
            Err(Late::Silent),
            "it had its time"
        );
        assert_eq!(judge(seconds(5), seconds(9), seconds(7)), Ok(seconds(12)));
        let most = seconds(5) + EXTRA_MAX;
        assert_eq!(judge(seconds(5), seconds(24), seconds(24)), Ok(most));
        assert_eq!(judge(seconds(5), most, most), Err(Late::Starved));
    }

    #[tokio::test]
    async fn a_process_that_could_run_and_says_nothing_is_silent_whatever_it_waited_before() {
        let waited_before = || Some(seconds(3600));
        assert_eq!(within(LIMIT, waited_before, pending::<()>()).await, Err(Late::Silent));
        assert_eq!(within(LIMIT, || None, pending::<()>()).await, Err(Late::Silent));
    }

    #[tokio::test]
    async fn an_answer_that_comes_late_since_its_process_could_not_run_is_an_answer() {
        let (began, looks) = (Instant::now(), AtomicU32::new(0));
        let delay = || {
            looks.fetch_add(1, Ordering::SeqCst);
            Some(began.elapsed())
        };
        // It comes once its limit was over twice.
        let answer = async {
            while looks.load(Ordering::SeqCst) < 3 {
                tokio::task::yield_now().await;
            }
            7
        };
        assert_eq!(within(LIMIT, delay, answer).await, Ok(7));
        assert!(began.elapsed() > LIMIT);
    }

    #[test]
    fn what_a_thread_waited_is_the_second_number_that_the_kernel_tells() {
        assert_eq!(delay_in("1044 2500000 7\n"), Some(Duration::from_micros(2500)));
        for nonsense in ["", "1044", "1044 many 7", "1044 -1 7"] {
            assert_eq!(delay_in(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(delay_of(0), None);
    }
}
