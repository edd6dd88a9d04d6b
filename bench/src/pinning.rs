//! Where a child process runs: its network namespace, its core, its priority.
//!
//! All by the system's own programs in front of the child's (`setpriv`, `ip netns exec`, `nice`, `taskset`), each of which
//! becomes the next one: the process id is the child's, and every thread that it starts inherits all of it.

use std::path::Path;
use std::process::Command;

use rustix::process::{getpriority_process, setpriority_process};

use crate::error::{Result, trying};

/// Priority of the process that drives and listens: below that of what is measured, so that it runs where a core is idle.
const DRIVER_NICENESS: i32 = 5;

/// Lowers the priority of the calling thread, which drives a measurement of throughput.
///
/// # Errors
/// When the system refuses.
pub fn stand_back() -> Result<()> {
    setpriority_process(None, DRIVER_NICENESS).map_err(trying("lowering the driver's priority"))
}

/// Where a child runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seat {
    /// Name of a network namespace; `None`: our own.
    pub namespace: Option<String>,
    /// The one core for all its threads; `None`: any.
    pub core: Option<usize>,
    /// Scheduled before everything else, as a piece of hardware would be; takes root.
    pub realtime: bool,
}

impl Seat {
    /// Any core, our own network.
    pub fn anywhere() -> Self {
        Self::default()
    }

    /// A command that runs `program` there, and dies with the thread that starts it.
    pub fn command(&self, program: &Path) -> Command {
        let own = getpriority_process(None).unwrap_or(0);
        let mut words = self.words(own).into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg(program);
        command
    }

    fn words(&self, own_niceness: i32) -> Vec<String> {
        let mut words: Vec<String> = ["setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned).into();
        if let Some(namespace) = &self.namespace {
            words.extend(["ip", "netns", "exec", namespace].map(str::to_owned));
        }
        if self.realtime {
            words.extend(["chrt", "--fifo", "1"].map(str::to_owned));
        } else {
            // `nice` adds to what the child would inherit.
            words.extend(["nice".to_owned(), "-n".to_owned(), (-own_niceness).to_string()]);
        }
        if let Some(core) = self.core {
            words.extend(["taskset".to_owned(), "-c".to_owned(), core.to_string()]);
        }
        words
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Seat;

    #[test]
    fn each_program_in_front_hands_over_to_the_next() {
        let seat = Seat {
            namespace: Some("sw1head".to_owned()),
            core: Some(1),
            realtime: false,
        };
        assert_eq!(
            seat.words(5).join(" "),
            "setpriv --pdeathsig KILL -- ip netns exec sw1head nice -n -5 taskset -c 1"
        );
    }

    #[test]
    fn a_link_goes_before_everything_else() {
        let seat = Seat {
            realtime: true,
            ..Seat::anywhere()
        };
        assert_eq!(seat.words(5).join(" "), "setpriv --pdeathsig KILL -- chrt --fifo 1");
    }

    #[test]
    fn the_program_comes_last() {
        let command = Seat::anywhere().command(Path::new("/bin/worker"));
        assert_eq!(command.get_args().last().unwrap(), "/bin/worker");
    }
}
