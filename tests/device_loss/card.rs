//! A card that computes and can be given faults: Vulkan's renderer on the processors, shown to the agent as a card of
//! AMD's whose kernel files are in a folder.
//!
//! ```text
//!  agent ──Vulkan──▶ layer that shows a card ──▶ renderer        worker ──Vulkan──▶ layer that can lose it ──▶ renderer
//!        ──files───▶ root/sys (recorded), root/proc (the machine's), root/dev/kmsg (ours)
//! ```

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where the recorded card is plugged in.
pub const ADDRESS: &str = "0000:03:00.0";
const RECORDED: &str = "agent/device/fixtures/sysfs/rx7900xtx/sys/class";

/// The folders of a node with the card.
pub struct Card {
    folder: PathBuf,
}

impl Card {
    /// Whose folders are already there.
    pub fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Makes the folders, and what agents need in their environment.
    pub fn make(folder: &Path) -> (Self, Vec<(&'static str, OsString)>) {
        let card = Self::at(folder);
        let (root, layer) = (card.root(), card.layer());
        for made in ["dev", "sys/class", "sys/bus/pci/devices", "sys/fs"] {
            fs::create_dir_all(root.join(made)).expect("a folder");
        }
        fs::create_dir_all(&layer).expect("a folder");
        symlink("/proc", root.join("proc")).expect("a link");
        for machine in ["sys/devices", "sys/fs/cgroup"] {
            symlink(Path::new("/").join(machine), root.join(machine)).expect("a link");
        }
        copy(&localplane::assets::workspace().join(RECORDED), &root.join("sys/class"));
        let slot = root.join("sys/bus/pci/devices").join(ADDRESS);
        fs::create_dir(&slot).expect("a folder");
        fs::write(slot.join("class"), "0x030000\n").expect("a file");
        fs::write(slot.join("vendor"), "0x1002\n").expect("a file");
        fs::write(card.log(), "").expect("a file");
        let mut environment = fakegpu::stand_in(&layer, ADDRESS).expect("a C compiler");
        environment.extend([
            ("SYSFS_ROOT", root.into_os_string()),
            ("POD_RESOURCES_SOCKET", card.socket().into_os_string()),
            ("VK_DRIVER_FILES", "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json".into()),
        ]);
        (card, environment)
    }

    /// Of the kubelet.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("kubelet.sock")
    }

    /// The kernel's driver gives the card up.
    pub fn lose(&self) {
        self.driver_says("GPU reset end with ret = -110");
    }

    /// The card's memory lost what was in it.
    pub fn lose_memory(&self) {
        self.driver_says("2 uncorrectable hardware errors detected in umc block");
    }

    /// What computes on the card finds it lost with its next step. Nobody else does.
    pub fn lose_in_use(&self) {
        fakegpu::lose_in_use(&self.layer()).expect("a file");
    }

    fn driver_says(&self, words: &str) {
        let line = format!("3,7,9,-;amdgpu {ADDRESS}: amdgpu: {words}\n");
        let log = fs::File::options().append(true).open(self.log());
        log.and_then(|mut log| log.write_all(line.as_bytes())).expect("a line");
    }

    fn layer(&self) -> PathBuf {
        self.folder.join("layer")
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn log(&self) -> PathBuf {
        self.root().join("dev/kmsg")
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a recorded tree") {
        let entry = entry.expect("a recorded tree");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file");
        }
    }
}
