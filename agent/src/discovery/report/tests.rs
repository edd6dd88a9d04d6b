use super::*;

fn gpu() -> GpuDevice {
    GpuDevice {
        vendor: "mesa".into(),
        model: "llvmpipe".into(),
        memory_total_bytes: 1000,
        memory_free_bytes: 900,
        memory_usable_bytes: 800,
        verification: Verification::Verified,
        measured: device::Measured {
            bandwidth_bytes_per_second: Some(device::Figure {
                value: 5,
                samples: 2,
                measured_unix_s: 100,
            }),
            ..Default::default()
        },
        ..GpuDevice::new(Backend::Vulkan, 1, Kind::Software)
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn seen<'a>(device: &'a GpuDevice, free_bytes: u64, holdings: &'a [Holding]) -> Seen<'a> {
    Seen {
        device,
        free_bytes,
        holdings,
    }
}

fn condition<'a>(status: &'a DeviceGPUStateStatus, kind: &str) -> (&'a str, &'a str) {
    let found = conditions::find(&status.conditions, kind).unwrap();
    (found.status.as_str(), found.reason.as_str())
}

#[test]
fn a_verified_device_is_ready_and_shares_its_hosts_memory() {
    let device = gpu();
    let status = status("node-a", &seen(&device, 900, &[]), None, Some(1), at(7));
    assert_eq!(object_name("node-a", &device), "node-a-vulkan1");
    assert_eq!(status.memory_pool, "node-a-host");
    assert_eq!(condition(&status, "Ready"), ("True", "Available"));
    assert_eq!(condition(&status, "Verified"), ("True", "RoundTripMatched"));
    assert_eq!(status.bandwidth_bytes_per_second.unwrap().samples, 2);
}

#[test]
fn a_card_has_a_pool_of_its_own() {
    let card = GpuDevice {
        pool: Pool::Own,
        kind: Kind::Discrete,
        ..gpu()
    };
    assert_eq!(memory_pool("node-a", &card), "node-a-vulkan1");
}

#[test]
fn a_device_that_failed_is_neither_healthy_nor_ready_and_one_that_could_not_be_asked_is_unknown() {
    let failed = GpuDevice {
        verification: Verification::Failed {
            reason: "changed".into(),
        },
        ..gpu()
    };
    let told = status("n", &seen(&failed, 1, &[]), None, None, at(1));
    assert_eq!(condition(&told, "Healthy"), ("False", "RoundTripDiffered"));
    assert_eq!(condition(&told, "Ready"), ("False", "NotVerified"));
    let silent = GpuDevice {
        verification: Verification::CouldNotMeasure { reason: "busy".into() },
        ..gpu()
    };
    let told = status("n", &seen(&silent, 1, &[]), None, None, at(1));
    assert_eq!(condition(&told, "Verified"), ("Unknown", "CouldNotMeasure"));
    assert_eq!(condition(&told, "Ready"), ("False", "NotVerified"));
}

#[test]
fn only_shards_on_the_device_are_shown() {
    let device = gpu();
    let holding = |device: &str| Holding {
        device: device.into(),
        namespace: "ns".into(),
        model: "m".into(),
        layers: "0-9".into(),
        memory_bytes: 3,
    };
    let holdings = [holding("n-vulkan1"), holding("n-cpu0")];
    let told = status("n", &seen(&device, 1, &holdings), None, None, at(1));
    assert_eq!(told.shards.len(), 1);
    assert_eq!(told.shards[0].layers, "0-9");
}

#[test]
fn small_moves_of_free_memory_are_no_news_and_all_else_is() {
    let device = gpu();
    let before = status("n", &seen(&device, 900, &[]), None, Some(1), at(1));
    let again = |free, generation, now| status("n", &seen(&device, free, &[]), Some(&before), generation, at(now));
    assert!(!is_news(&before, &again(900, Some(1), 50)), "time alone is no news");
    assert!(!is_news(&before, &again(801, Some(1), 50)));
    assert!(is_news(&before, &again(800, Some(1), 50)));
    assert!(is_news(&before, &again(900, Some(2), 50)));
}
