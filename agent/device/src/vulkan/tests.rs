use super::*;
use crate::Verification;

#[test]
fn every_device_of_this_machine_is_verified_or_says_why_not() {
    let answer = probe(3);
    if answer.devices.is_empty() {
        println!("SKIPPED: {}", answer.note.unwrap());
        return;
    }
    for device in answer.devices {
        println!("{device:?}");
        match device.verification {
            Verification::Verified => {
                assert!(device.measured.bandwidth_bytes_per_second.unwrap().value > 0);
                assert!(device.measured.launch_ns.unwrap().value > 0);
                assert!(device.memory_total_bytes > 0);
            }
            Verification::Failed { reason } | Verification::CouldNotMeasure { reason } => assert!(!reason.is_empty()),
        }
    }
}

#[test]
fn devices_are_numbered_as_the_driver_enumerates_them() {
    let Ok(loader) = call::Loader::open() else {
        println!("SKIPPED: no Vulkan loader");
        return;
    };
    let facts = loader.physical_devices().unwrap();
    println!("FACTS {}", serde_json::to_string_pretty(&facts).unwrap());
    for (position, one) in facts.iter().enumerate() {
        assert_eq!(one.index as usize, position);
        assert!(!one.name.is_empty() && !one.heaps.is_empty());
    }
    assert!(
        loader.handle(facts.len() as u32).is_err(),
        "an index that is not there is an answer"
    );
}
