//! A device that fails and recovers again and again, and what that costs the API server.

use super::*;
use device::health::{Health, Observation, Standing};
use device::{Backend, GpuDevice, Kind, Verification};

const FAULTS: u64 = 20;
/// Ten minutes of faults.
const BETWEEN_FAULTS_S: u64 = 30;
/// What its driver does to it takes so long.
const WELL_AGAIN_AFTER_S: u64 = 10;

fn card() -> GpuDevice {
    GpuDevice {
        verification: Verification::Verified,
        ..GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_fails_and_recovers_twenty_times_in_ten_minutes_is_three_events_and_a_write_a_minute() {
    let lost = Observation::Lost {
        reason: "Unknown Error".into(),
    };
    let mut health = Health::new();
    health.observe(&Observation::Verified, 0);
    let mut written = Written::of(&object("n-cuda0", "cuda", "7"));
    let (mut writes, mut notes) = (0, Vec::new());
    // And a minute after the last of them.
    let seconds = FAULTS * BETWEEN_FAULTS_S + 60;
    for second in 0..seconds {
        let now_ms = second * 1000;
        match second % BETWEEN_FAULTS_S {
            0 if (1..=FAULTS).contains(&(second / BETWEEN_FAULTS_S)) => drop(health.observe(&lost, now_ms)),
            WELL_AGAIN_AFTER_S => drop(health.observe(&Observation::Verified, now_ms)),
            _ => {}
        }
        let state = DeviceState::new(card(), health.standing(now_ms));
        let seen = Seen {
            state: &state,
            spec: None,
            host_free_bytes: None,
            holdings: &[],
            rates: None,
        };
        let now = Timestamp::from_second(second as i64).unwrap();
        let status = report::status("n", &seen, written.status.as_ref(), Some(1), now);
        if written.wants(&status) {
            writes += 1;
            notes.extend(events::transitions(written.status.as_ref(), &status));
            written.status = Some(status);
            written.at = Some(Instant::now());
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(u64::from(health.relapses()), FAULTS - 1);
    assert!(matches!(health.standing(seconds * 1000), Standing::HeldDown { .. }));
    let told: Vec<&str> = notes.iter().map(|note| note.reason.as_str()).collect();
    assert_eq!(told, ["DeviceLost", "Recovering", "HeldDown"], "its {FAULTS} faults");
    // Each event has a write, at once; the first write says that it is well; what changed in words only can wait.
    let most = 1 + notes.len() as u64 + seconds / thresholds::CALM.as_secs();
    println!("{writes} writes, {} events", notes.len());
    assert!(writes <= most, "{writes} writes are more than {most}");
}
