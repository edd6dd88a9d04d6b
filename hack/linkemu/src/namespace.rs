//! Network namespaces: hosts of their own on this machine. All takes root.
//!
//! Names follow the process id, so that two programs do not meet, and what a killed one left behind is removed by the next.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Error, Result, trying};

const FOLDER: &str = "/run/netns";
const PREFIX: &str = "shw";

/// Counts the namespaces of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// One namespace, with its loopback device up. Dropping it removes its name; it is gone when the last process in it has ended.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A fresh one; `label` is for people, in lower-case letters.
    ///
    /// # Errors
    /// What `ip` says; nothing is left behind then.
    pub fn new(label: &str) -> Result<Self> {
        let letters: String = label.chars().filter(char::is_ascii_lowercase).collect();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}{letters}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// As `ip netns` has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As `nsenter --net=` and the system have it.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Runs a function on a thread within the namespace. Sockets that it opens stay there.
    ///
    /// # Errors
    /// A system that does not let us in.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        within(&self.path(), work)
    }
}

/// The same for the namespace of this path.
pub(crate) fn within<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path).map_err(trying(path.display().to_string()))?;
    let entered = std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    entered.map_err(|errno: rustix::io::Errno| trying(path.display().to_string())(errno.into()))
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What cannot be removed now the next program removes.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

/// Runs `ip`.
///
/// # Errors
/// What it says.
pub fn ip(words: &[&str]) -> Result<()> {
    let command = format!("ip {}", words.join(" "));
    let output = Command::new("ip")
        .args(words)
        .output()
        .map_err(trying(command.as_str()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Tool {
        command,
        cause: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Removes the namespaces of programs that are gone.
pub fn remove_stale() {
    let Ok(entries) = std::fs::read_dir(FOLDER) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            // Somebody else may have done it meanwhile.
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

/// The process that made a namespace of this name, if it is one of ours.
fn owner(name: &str) -> Option<u32> {
    let (id, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn only_our_own_namespaces_have_an_owner() {
        assert_eq!(owner("shw4711-0head"), Some(4711));
        assert_eq!(owner("shw4711-12"), Some(4711));
        assert_eq!(owner("shwhead-0"), None);
        assert_eq!(owner("cni-4711"), None);
    }
}
