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
