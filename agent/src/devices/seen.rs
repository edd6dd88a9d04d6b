//! What [`crate::neighbours`] has to know of the devices: which there are, and who uses their memory.

use super::Devices;
use crate::neighbours::Seen;
use std::sync::Arc;
use tokio::sync::watch;

/// Tells until nobody sends devices any more. Readings come every few seconds and mostly say the same of processes; the
/// same is not told twice.
pub async fn tell(mut devices: watch::Receiver<Arc<Devices>>, seen: watch::Sender<Arc<Vec<Seen>>>) {
    loop {
        let now = of(&devices.borrow_and_update());
        seen.send_if_modified(|before| {
            let changed = **before != now;
            if changed {
                *before = Arc::new(now);
            }
            changed
        });
        if devices.changed().await.is_err() {
            return;
        }
    }
}

fn of(devices: &Devices) -> Vec<Seen> {
    devices
        .states
        .iter()
        .map(|state| Seen {
            device: state.device.clone(),
            processes: state
                .sample
                .as_ref()
                .map_or_else(Vec::new, |sample| sample.processes.clone()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::telemetry::{ProcessMemory, Sample};
    use device::{Backend, GpuDevice, Kind};

    /// A card that is as warm, and used by the process.
    fn read(celsius: f32, pid: u32) -> Arc<Devices> {
        let mut devices = Devices::of([GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)]);
        devices.states[0].sample = Some(Sample {
            temperature_celsius: Some(celsius),
            processes: vec![ProcessMemory {
                pid,
                memory_bytes: Some(1),
            }],
            ..Sample::default()
        });
        Arc::new(devices)
    }

    #[tokio::test]
    async fn who_uses_a_card_is_told_when_it_changes_and_a_reading_that_says_the_same_is_not() {
        let (devices, seen) = (watch::Sender::new(read(40.0, 7)), watch::Sender::new(Arc::default()));
        let mut told = seen.subscribe();
        let telling = tokio::spawn(tell(devices.subscribe(), seen));
        let used_by = |pid| move |seen: &Arc<Vec<Seen>>| seen.iter().any(|seen| seen.processes[0].pid == pid);
        told.wait_for(used_by(7)).await.unwrap();
        devices.send_replace(read(41.0, 8));
        let before = Arc::clone(&*told.wait_for(used_by(8)).await.unwrap());
        devices.send_replace(read(60.0, 8));
        drop(devices);
        telling.await.unwrap();
        assert!(Arc::ptr_eq(&before, &told.borrow()), "only the temperature changed");
    }
}
