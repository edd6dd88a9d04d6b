//! What the calling thread is to the kernel's scheduler.

use std::io;

/// Gives the calling thread the policy `SCHED_IDLE`.
pub(crate) fn set_idle_policy() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: a plain struct that lives for the call; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
