use super::super::fixture::{FakeKubelet, Script, devices, pod};
use super::super::{Claim, Sharing};
use super::*;
use device::telemetry::ProcessMemory;
use device::{Backend, GpuDevice, Kind};
use rustix::process::Pid;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Longer than anything on this machine takes.
const LIMIT: Duration = Duration::from_secs(20);
const OURS: &str = "shardwright-system/shardwright-reserve-worker-1-nvidia-com-gpu-0";

fn uuid(digit: u8) -> String {
    format!("GPU-{digit}f2c1a90-0b1c-4a5e-9d52-0f6f6a3a9b11")
}

fn card(digit: u8) -> Seen {
    Seen {
        device: GpuDevice {
            vendor: "nvidia".to_owned(),
            uuid: Some(uuid(digit)),
            ..GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)
        },
        processes: Vec::new(),
    }
}

/// A watch over two cards of one node.
struct Rig {
    kubelet: FakeKubelet,
    inventory: watch::Sender<Option<Inventory>>,
    now: watch::Receiver<Option<Arc<Neighbours>>>,
    seen: watch::Sender<Arc<Vec<Seen>>>,
    following: tokio::task::JoinHandle<()>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Rig {
    fn new(kubelet: FakeKubelet, sharing: Sharing) -> Self {
        let setting = Setting {
            node: "worker-1".to_owned(),
            pod: "shardwright-agent-x".to_owned(),
            namespace: "shardwright-system".to_owned(),
            socket: kubelet.socket(),
            sharing,
            root: kubelet.root().to_owned(),
            workers: kubelet.root().join("workers"),
        };
        let inventory = watch::Sender::new(Some(Inventory::default()));
        let seen = watch::Sender::new(Arc::new(vec![card(1), card(2)]));
        let out = watch::Sender::new(None);
        let now = out.subscribe();
        let every = Duration::from_millis(10);
        let following = tokio::spawn(follow(setting, every, seen.subscribe(), inventory.subscribe(), out));
        Self {
            kubelet,
            inventory,
            now,
            seen,
            following,
        }
    }

    async fn until(&mut self, what: impl Fn(&Neighbours) -> bool) -> Arc<Neighbours> {
        let found = self.now.wait_for(|now| now.as_deref().is_some_and(&what));
        let found = tokio::time::timeout(LIMIT, found).await;
        let found = found.expect("it is seen in time").expect("the watch runs");
        Arc::clone(found.as_ref().expect("there is one"))
    }
}

fn claim(now: &Neighbours, digit: u8) -> &Claim {
    &now.claims[&card(digit).device.identity()]
}

fn reserved() -> Script {
    Script {
        pods: vec![pod(OURS, vec![devices("nvidia.com/gpu", &[&uuid(1)])])],
        offered: vec![devices("nvidia.com/gpu", &[&uuid(1), &uuid(2)])],
        ..Script::default()
    }
}

fn preempted() -> Script {
    Script {
        pods: vec![pod("science/train", vec![devices("nvidia.com/gpu", &[&uuid(1)])])],
        ..reserved()
    }
}

#[tokio::test]
async fn a_foreign_pod_on_a_device_in_use_is_seen_with_the_next_question() {
    let mut rig = Rig::new(FakeKubelet::saying(reserved()), Sharing::Reserve);
    let first = rig.until(|now| *claim(now, 1) == Claim::Ours).await;
    assert!(matches!(claim(&first, 2), Claim::Unclaimed { .. }), "{first:?}");
    rig.kubelet.says(preempted());
    let after = rig.until(|now| *claim(now, 1) != Claim::Ours).await;
    assert_eq!(
        *claim(&after, 1),
        Claim::Foreign {
            by: "science/train".to_owned()
        }
    );
    rig.kubelet.says(reserved());
    rig.until(|now| *claim(now, 1) == Claim::Ours).await;
}

#[tokio::test]
async fn shared_devices_are_left_to_the_pod_that_is_given_one() {
    let mut rig = Rig::new(
        FakeKubelet::saying(Script {
            pods: Vec::new(),
            ..reserved()
        }),
        Sharing::Share,
    );
    rig.until(|now| *claim(now, 1) == Claim::Shared && *claim(now, 2) == Claim::Shared)
        .await;
    rig.kubelet.says(preempted());
    let after = rig.until(|now| !claim(now, 1).allows_layers()).await;
    assert_eq!(*claim(&after, 2), Claim::Shared, "its neighbour stays");
}

#[tokio::test]
async fn without_a_kubelet_everything_is_ours_and_a_note_says_why() {
    let mut rig = Rig::new(FakeKubelet::absent(), Sharing::Reserve);
    let now = rig.until(|_| true).await;
    assert_eq!((claim(&now, 1), claim(&now, 2)), (&Claim::Ours, &Claim::Ours));
    assert!(now.notes.iter().any(|note| note.contains("no socket at")), "{now:?}");
}

#[tokio::test]
async fn what_a_kubelet_said_holds_while_it_restarts() {
    let mut rig = Rig::new(FakeKubelet::saying(reserved()), Sharing::Reserve);
    rig.until(|now| *claim(now, 1) == Claim::Ours).await;
    rig.kubelet.stop();
    let away = rig.until(|now| !now.notes.is_empty()).await;
    assert_eq!(*claim(&away, 1), Claim::Ours);
    assert!(matches!(claim(&away, 2), Claim::Unclaimed { .. }));
    rig.kubelet.says(preempted());
    rig.kubelet.start();
    let back = rig.until(|now| now.notes.is_empty()).await;
    assert!(matches!(claim(&back, 1), Claim::Foreign { .. }));
}

#[tokio::test]
async fn a_plugin_that_restarts_gives_nobody_its_devices() {
    let mut rig = Rig::new(FakeKubelet::saying(reserved()), Sharing::Reserve);
    rig.until(|now| matches!(claim(now, 2), Claim::Unclaimed { .. })).await;
    rig.kubelet.says(Script::default());
    let after = rig.until(|now| !matches!(claim(now, 1), Claim::Ours)).await;
    assert!(matches!(claim(&after, 1), Claim::Unclaimed { .. }));
    assert!(matches!(claim(&after, 2), Claim::Unclaimed { .. }));
}

#[tokio::test]
async fn a_reservation_that_is_being_ended_gives_its_device_back_before_another_pod_has_it() {
    let mut rig = Rig::new(FakeKubelet::saying(reserved()), Sharing::Reserve);
    rig.until(|now| *claim(now, 1) == Claim::Ours).await;
    rig.inventory.send_modify(|known| {
        let name = OURS.split_once('/').expect("a namespace").1.to_owned();
        known.get_or_insert_default().ending.insert(name);
    });
    let after = rig.until(|now| *claim(now, 1) != Claim::Ours).await;
    assert!(matches!(claim(&after, 1), Claim::Unclaimed { reason } if reason.contains("being ended")));
}

#[tokio::test]
async fn a_name_that_is_no_device_is_noted_and_harms_nothing() {
    let mut script = reserved();
    let garbage = ["", "GPU-", "\u{0}", "../../etc/passwd"];
    script
        .pods
        .push(pod("science/odd", vec![devices("nvidia.com/gpu", &garbage)]));
    let mut rig = Rig::new(FakeKubelet::saying(script), Sharing::Reserve);
    let now = rig.until(|now| *claim(now, 1) == Claim::Ours).await;
    assert!(
        now.notes.iter().any(|note| note.contains("no device that is known")),
        "{now:?}"
    );
}

/// A process that lives until it is dropped, with a worker's configuration on its command line.
struct Process(Child);

impl Process {
    fn start(config: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "read line", "worker"]).arg(config);
        Self(command.stdin(Stdio::piped()).spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_worker_that_an_earlier_life_noted_is_no_stranger_on_a_bare_host_and_a_process_that_nobody_noted_is() {
    let kubelet = FakeKubelet::absent();
    let root = kubelet.root().to_owned();
    // A host on which nobody is our child: the numbers are the driver's, and no process has a parent there.
    let namespaces = root.join("proc/self/ns");
    std::fs::create_dir_all(&namespaces).unwrap();
    std::os::unix::fs::symlink("pid:[4026531836]", namespaces.join("pid")).unwrap();
    let directory = root.join("workers/slot");
    std::fs::create_dir_all(&directory).unwrap();
    let [worker, other] = [0; 2].map(|_| Process::start(&directory.join("config.json")));
    let pid = Pid::from_raw(i32::try_from(worker.id()).unwrap()).unwrap();
    leftovers::note(&directory, pid, "a worker");
    let mut rig = Rig::new(kubelet, Sharing::Share);
    let process = |process: &Process, mebibytes: u64| ProcessMemory {
        pid: process.id(),
        memory_bytes: Some(mebibytes << 20),
    };
    let seen = Seen {
        processes: vec![process(&worker, 60_000), process(&other, 300)],
        ..card(1)
    };
    let name = seen.device.identity();
    rig.seen.send_replace(Arc::new(vec![seen]));
    let now = rig.until(|now| now.strangers.contains_key(&name)).await;
    let told = format!("process {}, which is not ours, uses 300 MiB of its memory", other.id());
    assert_eq!(now.strangers[&name], told);
    assert!(
        claim(&now, 1).allows_layers(),
        "what its own worker uses takes it from nobody"
    );
}
