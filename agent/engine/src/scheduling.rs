//! Which threads give way to which.

use std::io;

use crate::ffi::scheduling;

/// From here on the calling thread runs only where its processor has nothing else to do, and gives way at once to whatever
/// wakes there.
///
/// # Errors
/// When the system refuses.
pub fn give_way_to_all() -> io::Result<()> {
    scheduling::set_idle_policy()
}

#[cfg(test)]
mod tests {
    use super::give_way_to_all;

    #[test]
    fn a_thread_that_gives_way_has_the_idle_policy() {
        let policy = std::thread::spawn(|| {
            give_way_to_all().unwrap();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // The second field, the name in brackets, may hold spaces; the policy is field 41.
            let (_, after_name) = stat.rsplit_once(") ").unwrap();
            after_name.split(' ').nth(38).unwrap().to_owned()
        });
        assert_eq!(policy.join().unwrap(), "5");
    }
}
