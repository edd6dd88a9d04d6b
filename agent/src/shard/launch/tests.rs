use super::*;
use crate::shard::{Place, Purpose};
use crate::source::Access;
use device::health::{Action, Fault as DeviceFault, Standing};
use device::{GpuDevice, Kind};
use proto::placement::v1::Runtime;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

fn cards(backend: Backend) -> Devices {
    // Their names follow the cards, and not the order in which the driver lists them today.
    Devices::of([(3, 0), (1, 1), (2, 2)].map(|(index, ordinal)| GpuDevice {
        ordinal,
        ..GpuDevice::new(backend, index, Kind::Discrete)
    }))
}

/// How a worker is started for a stage on this device, or on this group.
fn launched(devices: Devices, device: &str, backend: &str) -> Result<Launch, Fault> {
    let setting = Setting {
        node: "n".to_owned(),
        state_dir: PathBuf::from("/nonexistent"),
        worker: PathBuf::from("/nonexistent/worker"),
        trust_domain: "shardwright".to_owned(),
        listen_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        advertise_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        threads: 1,
        devices: watch::Sender::new(Arc::new(devices)).subscribe(),
    };
    let slice = Slice {
        index: gguf::Digest([7; 32]),
        first_layer: 0,
        end_layer: 10,
        total_layers: 10,
        device: device.to_owned(),
        backend: backend.to_owned(),
        runtime: Runtime::default(),
        weight_root: [1; 32],
    };
    let wanted = Desired {
        slice: slice.clone(),
        places: vec![Place {
            epoch: 1,
            pipeline: 0,
            stage: 0,
            purpose: Purpose::Load,
        }],
        in_force: None,
        uri: String::new(),
        access: Access::default(),
        peers: vec![],
        model: ("ns".to_owned(), "m".to_owned()),
        memory_budget_bytes: 9,
    };
    let prepared = Prepared {
        files: gguf::SliceFiles {
            header: PathBuf::from("header"),
            parts: vec![],
            embedding: None,
        },
        embedding_length: 8,
    };
    let slot = Slot::of("uid", &slice);
    launch(&setting, &slot, &Observed::new(&wanted), &wanted, prepared)
}

fn refusal(devices: Devices, device: &str, backend: &str) -> (String, String) {
    let fault = launched(devices, device, backend).err().unwrap();
    (fault.reason, fault.message)
}

#[test]
fn a_worker_of_one_device_is_given_its_index_of_today_and_sees_no_other() {
    let launch = launched(cards(Backend::Vulkan), "n-vulkan1", "vulkan").unwrap();
    assert_eq!((launch.config.device_index, launch.config.group_indices), (1, vec![]));
    assert_eq!(launch.vulkan_indices, [1]);
    let launch = launched(cards(Backend::Cuda), "n-cuda0", "cuda").unwrap();
    assert_eq!((launch.config.device_index, launch.vulkan_indices), (3, vec![]));
}

#[test]
fn a_worker_of_a_group_is_given_the_indices_of_its_members_in_the_order_of_their_names() {
    let group = "n-vulkan0+n-vulkan1";
    let launch = launched(cards(Backend::Vulkan), group, "vulkan").unwrap();
    assert_eq!((launch.config.device_index, launch.config.group_indices), (3, vec![1]));
    assert_eq!(launch.vulkan_indices, [3, 1]);
    assert_eq!(
        (launch.config.device.as_str(), launch.config.memory_budget_bytes),
        (group, 9)
    );
    let launch = launched(cards(Backend::Cuda), "n-cuda0+n-cuda1+n-cuda2", "cuda").unwrap();
    assert_eq!(
        (launch.config.group_indices, launch.vulkan_indices),
        (vec![1, 2], vec![])
    );
}

#[test]
fn a_group_of_which_a_member_is_missing_failed_or_reached_otherwise_is_not_started_and_the_member_named() {
    let gone = refusal(cards(Backend::Cuda), "n-cuda0+n-cuda5", "cuda");
    let message = "device n-cuda5 of the group n-cuda0+n-cuda5 is not on this node any more";
    assert_eq!(gone, ("DeviceMissing".to_owned(), message.to_owned()));
    let otherwise = refusal(cards(Backend::Vulkan), "n-vulkan0+n-vulkan1", "cuda");
    assert_eq!(otherwise.0, "DeviceMissing");
    let mut devices = cards(Backend::Cuda);
    devices.states[1].standing = Standing::Failed {
        fault: DeviceFault::new("FellOffBus", "it is gone", Action::RebootNode),
    };
    let (reason, message) = refusal(devices, "n-cuda0+n-cuda1", "cuda");
    assert_eq!(reason, "DeviceNotReady");
    assert!(
        message.starts_with("device n-cuda1 of the group n-cuda0+n-cuda1 takes no layers: FellOffBus"),
        "{message}"
    );
}

#[test]
fn of_a_single_device_no_group_is_spoken_of() {
    let gone = refusal(cards(Backend::Cuda), "n-cuda5", "cuda");
    assert_eq!(gone.1, "device n-cuda5 is not on this node any more");
    let otherwise = refusal(cards(Backend::Cuda), "n-cuda0", "vulkan");
    assert_eq!(
        otherwise.1,
        "device n-cuda0 is reached by cuda, the placement says vulkan"
    );
}
