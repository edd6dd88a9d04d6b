//! Disks of a test's own: of the size it says, filled by somebody else, read-only, or with less behind them than they promise.
//!
//! They are mounted nowhere: a path leads to them through the descriptor that holds them, for every process that may look there,
//! and they are gone with it, however the test ends.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, statvfs, syncfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, fspick,
};

/// The file that takes the room which a test does not leave.
const FILLER: &str = "filler";

/// A disk.
#[derive(Debug)]
pub struct Disk {
    mount: OwnedFd,
    path: PathBuf,
}

impl Disk {
    /// A disk of so many bytes. `None`, and `SKIPPED` is printed, where this process may not have one.
    pub fn of(bytes: u64) -> Option<Self> {
        unless_skipped(Self::in_memory(bytes))
    }

    fn in_memory(bytes: u64) -> io::Result<Self> {
        Self::mounted("tmpfs", ("size", bytes.to_string()))
    }

    /// With one option, its name and its value.
    fn mounted(kind: &str, option: (&str, String)) -> io::Result<Self> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, option.0, option.1)?;
        fsconfig_create(&context)?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd()));
        Ok(Self { mount, path })
    }

    /// Its root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes all of its room but so many bytes, as a file of somebody else would. Others may write meanwhile.
    ///
    /// # Errors
    /// Of the file system.
    pub fn fill_but(&self, left_bytes: u64) -> io::Result<()> {
        let filler = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path.join(FILLER))?;
        loop {
            let found = statvfs(&self.path)?;
            let over = (found.f_bavail * found.f_frsize).saturating_sub(left_bytes);
            if over == 0 {
                return Ok(());
            }
            match fallocate(&filler, FallocateFlags::empty(), filler.metadata()?.len(), over) {
                // Somebody else was quicker.
                Ok(()) | Err(Errno::NOSPC) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives back what [`fill_but`](Self::fill_but) has taken.
    ///
    /// # Errors
    /// Of the file system.
    pub fn make_room(&self) -> io::Result<()> {
        fs::remove_file(self.path.join(FILLER))
    }

    /// As an administrator would, or the system after an error; and back.
    ///
    /// # Errors
    /// A file is open for writing.
    pub fn set_read_only(&self, read_only: bool) -> io::Result<()> {
        let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
        let context = fspick(&self.mount, "", flags)?;
        fsconfig_set_flag(&context, if read_only { "ro" } else { "rw" })?;
        Ok(fsconfig_reconfigure(&context)?)
    }
}

/// What a thin disk promises.
const PROMISED_BYTES: u64 = 64 << 20;
/// How it is made: a file system whose description is in one place, written now, so that later only files need new room.
const LAYOUT: [&str; 9] = [
    "-q",
    "-b",
    "4096",
    "-N",
    "256",
    "-O",
    "^has_journal,^resize_inode,^flex_bg",
    "-E",
    "lazy_itable_init=0,nodiscard",
];
/// Of [`LAYOUT`]: super block, groups, two maps, 16 blocks of inodes, and the first two directories.
const DESCRIPTION_BYTES: u64 = 25 * 4096;

/// A disk that promises more than is behind it, as thin volumes do: what is written is taken, and that it cannot be kept is
/// told when it is synchronised. From then on the system shows what was written as if it were there, for as long as it has it in memory.
#[derive(Debug)]
pub struct Thin {
    // Dropped first: it is on what is behind it.
    disk: Disk,
    behind: Disk,
}

impl Thin {
    /// A disk of 64 MiB with so many bytes behind it. `None`, and `SKIPPED` is printed, where this process may not have one.
    pub fn of(bytes: u64) -> Option<Self> {
        unless_skipped(Self::made(bytes))
    }

    fn made(bytes: u64) -> io::Result<Self> {
        let behind = Disk::in_memory(bytes)?;
        let image = behind.path.join("image");
        let file = File::create(&image)?;
        file.set_len(PROMISED_BYTES)?;
        run(Command::new("mkfs.ext4").args(LAYOUT).arg(&image))?;
        fallocate(&file, FallocateFlags::empty(), 0, DESCRIPTION_BYTES)?;
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&image))?;
        let disk = Disk::mounted("ext4", ("source", device.clone()));
        // One in use stays until its disk is gone.
        run(Command::new("losetup").arg("--detach").arg(&device))?;
        Ok(Self { disk: disk?, behind })
    }

    /// Its root.
    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// From now on nothing new can be kept, and the disk says that it has room.
    ///
    /// # Errors
    /// Of the file system.
    pub fn exhaust(&self) -> io::Result<()> {
        // What was written before is kept.
        syncfs(File::open(self.path())?)?;
        self.behind.fill_but(0)
    }

    /// What is written from now on can be kept again.
    ///
    /// # Errors
    /// Of the file system.
    pub fn relieve(&self) -> io::Result<()> {
        self.behind.make_room()
    }
}

/// Makes what is read next of the files in a folder come from the disk, as after a loss of power.
///
/// # Errors
/// Of the file system.
pub fn forget_cached(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            fadvise(File::open(path)?, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

fn unless_skipped<T>(made: io::Result<T>) -> Option<T> {
    made.inspect_err(|error| println!("SKIPPED: no disk of the test's own: {error}"))
        .ok()
}

/// What the program says, without its line end.
fn run(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}", said.trim_end())))
}

#[cfg(test)]
mod tests;
