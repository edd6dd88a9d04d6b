//! What devices say of themselves, and what they prove.

use crate::stage::{Played, Skip, Stage};
use device::{GpuBackend, Kind, ProbeRequest, Verification};
use std::time::Duration;

pub async fn devices_say_what_they_are(stage: &Stage) -> Played {
    let mut identities = std::collections::HashSet::new();
    for (position, device) in stage.devices.iter().enumerate() {
        assert_eq!((device.backend, device.index), (stage.backend, position as u32));
        assert!(!device.model.is_empty() && device.model.len() < 512, "{}", device.model);
        assert!(!device.model.contains(char::is_control) && !device.vendor.is_empty());
        assert!(device.memory_total_bytes > 0);
        assert!(device.memory_free_bytes <= device.memory_total_bytes);
        assert!(device.memory_usable_bytes <= device.memory_total_bytes);
        assert!(
            identities.insert(device.identity()),
            "two devices are {}",
            device.identity()
        );
        let one = stage.face.get_device(position as u32).await.unwrap();
        assert_eq!((one.identity(), one.model), (device.identity(), device.model.clone()));
        assert_ne!(device.verification, Verification::Verified, "nobody verified it yet");
        let memory = stage.face.memory_info(position as u32).await.unwrap();
        assert_eq!(memory.total_bytes, device.memory_total_bytes);
        assert!(memory.free_bytes <= memory.total_bytes);
    }
    Ok(())
}

pub async fn readings_are_believable_or_absent(stage: &Stage) -> Played {
    for device in 0..stage.devices.len() as u32 {
        if let Some(celsius) = stage.face.temperature(device).await.unwrap() {
            assert!(celsius > 0.0 && celsius < 150.0, "{celsius} degrees");
        }
        if let Some(watts) = stage.face.power_usage(device).await.unwrap() {
            assert!((0.0..2000.0).contains(&watts), "{watts} watts");
        }
        if let Some(mhz) = stage.face.clock_rate(device).await.unwrap() {
            assert!((1..20_000).contains(&mhz), "{mhz} MHz");
        }
    }
    Ok(())
}

fn probed(stage: &Stage, measure_budget: Duration) -> device::Answer {
    let request = ProbeRequest {
        measure_budget,
        known: Vec::new(),
        ..ProbeRequest::default()
    };
    device::probe(stage.backend, &stage.root, &request, 1)
}

pub async fn every_device_is_verified(stage: &Stage) -> Played {
    let answer = probed(stage, Duration::ZERO);
    assert_eq!(answer.devices.len(), stage.devices.len(), "{:?}", answer.note);
    for device in answer.devices {
        assert_eq!(device.verification, Verification::Verified, "{}", device.short_name());
    }
    Ok(())
}

pub async fn every_device_is_measured(stage: &Stage) -> Played {
    // Long enough for a machine with other things to do; the figures are not compared with a clock.
    let answer = probed(stage, Duration::from_secs(4) * stage.devices.len() as u32);
    let mut without_halves = Vec::new();
    for device in &answer.devices {
        let measured = &device.measured;
        println!("{}: {measured:?}", device.short_name());
        for figure in [
            measured.bandwidth_bytes_per_second,
            measured.f32_flops_per_second,
            measured.to_device_bytes_per_second,
            measured.from_device_bytes_per_second,
            measured.launch_ns,
        ] {
            let figure = figure.unwrap_or_else(|| panic!("{measured:?}"));
            assert!(figure.value > 0 && figure.samples > 0 && figure.measured_unix_s == 1);
        }
        assert_eq!(measured.peers.len(), answer.devices.len() - 1);
        if measured.f16_flops_per_second.is_none() {
            without_halves.push(device.short_name());
        }
    }
    let lacking = answer.devices.iter().any(|device| device.kind == Kind::Cpu) && !without_halves.is_empty();
    assert!(!lacking, "processors round to halves themselves");
    if without_halves.is_empty() {
        Ok(())
    } else {
        Err(Skip(format!("no half precision on {}", without_halves.join(", "))))
    }
}
