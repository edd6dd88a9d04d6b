//! Where a body plays: an open backend, its devices, and the account of how it ended.

use device::queued::Queued;
use device::{Backend, BackendError, GpuBackend, GpuDevice, Kind, factory};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;

/// What a recorded machine has free.
pub const RECORDED_FREE_BYTES: u64 = 256 << 20;

/// A card's driver allocates in pieces of 2 MiB and keeps some; kernels are loaded at their first use.
const CARD_KEEPS_BYTES: u64 = 64 << 20;

/// Free memory is shared by all bodies, so one plays at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Why a body has nothing to show: a fact of the hardware.
pub struct Skip(pub String);

/// How a body ends when nothing is wrong.
pub type Played = Result<(), Skip>;

/// An open backend.
pub struct Stage {
    pub backend: Backend,
    pub face: Queued,
    pub devices: Vec<GpuDevice>,
    pub root: PathBuf,
    _recorded: tempfile::TempDir,
}

impl Stage {
    /// A backend on a machine whose main memory stands still: what a real kernel calls free changes with every other
    /// process, so exactly that much cannot be asked for. Cards are the real ones.
    async fn set(backend: Backend) -> Result<Self, String> {
        let recorded = machine();
        let root = match backend {
            Backend::Cpu | Backend::Vulkan => recorded.path().to_owned(),
            _ => PathBuf::from("/"),
        };
        let (face, devices) = open(backend, &root).await?;
        Ok(Self {
            backend,
            face,
            devices,
            root,
            _recorded: recorded,
        })
    }

    /// Whether this backend's memory is handed out by this process alone, page by page, from the recorded machine: then
    /// every byte that is called free is to be had. A card's driver keeps and rounds as it likes.
    pub fn counts_every_byte(&self) -> bool {
        matches!(self.devices[0].kind, Kind::Cpu | Kind::Software)
    }

    pub async fn free_bytes(&self) -> u64 {
        self.face.memory_info(0).await.unwrap().free_bytes
    }

    /// Free memory is what it was: to the byte where every byte is counted; a card's driver may have taken a little for
    /// itself meanwhile, and so may whoever else uses the card.
    pub async fn is_free_again(&self, before: u64) {
        let kept = if self.counts_every_byte() { 0 } else { CARD_KEEPS_BYTES };
        let now = self.free_bytes().await;
        assert!(
            now + kept >= before && now <= before + kept,
            "{before} bytes were free, now {now} are"
        );
    }
}

async fn open(backend: Backend, root: &Path) -> Result<(Queued, Vec<GpuDevice>), String> {
    let driver = factory::driver(backend, root).ok_or("this build has no driver for it")?;
    let face = Queued::new(driver).map_err(reason)?;
    face.initialize().await.map_err(reason)?;
    let devices = face.list_devices().await.map_err(reason)?;
    if devices.is_empty() {
        return Err("it has no device".to_owned());
    }
    Ok((face, devices))
}

fn reason(error: BackendError) -> String {
    match error {
        BackendError::Unavailable { reason, .. } => reason,
        other => other.to_string(),
    }
}

/// A machine with a gibibyte of memory, a quarter of it free, and this machine's processor.
fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let proc = root.path().join("proc");
    std::fs::create_dir(&proc).unwrap();
    let meminfo = format!(
        "MemTotal: 1048576 kB\nMemAvailable: {} kB\n",
        RECORDED_FREE_BYTES / 1024
    );
    std::fs::write(proc.join("meminfo"), meminfo).unwrap();
    let cpuinfo = std::fs::read("/proc/cpuinfo").unwrap_or_default();
    std::fs::write(proc.join("cpuinfo"), cpuinfo).unwrap();
    root
}

/// Another instance of a backend, on the same machine.
pub async fn another(backend: Backend, root: &Path) -> Result<Queued, Skip> {
    match open(backend, root).await {
        Ok((face, _)) => Ok(face),
        Err(reason) => Err(Skip(reason)),
    }
}

type Body = for<'a> fn(&'a Stage) -> Pin<Box<dyn Future<Output = Played> + 'a>>;

/// Plays a body on a backend and prints its line of the matrix, whatever happens.
pub fn run(backend: Backend, name: &'static str, body: Body) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut line = Line {
        backend,
        name,
        outcome: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let played = runtime.block_on(async {
        let stage = Stage::set(backend).await.map_err(Skip)?;
        let played = body(&stage).await;
        stage.face.shutdown().await.unwrap();
        played
    });
    line.outcome = Some(match played {
        Ok(()) => "pass".to_owned(),
        Err(Skip(reason)) => {
            println!("\nSKIPPED: {}: {reason}", backend.name());
            format!("skipped: {reason}")
        }
    });
}

/// Printed when it is dropped, so that a body that panics has a line as well.
struct Line {
    backend: Backend,
    name: &'static str,
    outcome: Option<String>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let outcome = self.outcome.as_deref().unwrap_or("FAILED");
        let outcome = outcome.replace(['\n', '\t'], " ");
        println!("\nMATRIX\t{}\t{}\t{outcome}", self.backend.name(), self.name);
    }
}

/// Bytes without pattern, other ones for another seed.
pub fn pattern(seed: u32, length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|i| (i.wrapping_add(seed.wrapping_mul(0x85EB_CA6B)).wrapping_mul(0x9E37_79B1) >> 24) as u8)
        .collect()
}
