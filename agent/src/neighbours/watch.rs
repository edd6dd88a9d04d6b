//! Asks the kubelet every two seconds, and says whose every device is whenever that changes.

use super::aliases::Aliases;
use super::interpret::{Own, interpret};
use super::inventory::{Inventory, Reader};
use super::kubelet::{Kubelet, KubeletError, Listing};
use super::policy::{self, Facts, Knowledge};
use super::strangers::{self, Lookout, Strangers};
use super::vendor::Vendor;
use super::{Neighbours, Seen, Setting};
use crate::kubernetes::Way;
use crate::worker::leftovers;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// A pod that was given a device starts within seconds; its images are pulled after that.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// The first word waits this long for the API server: the kubelet's alone does for most nodes.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
/// Notes name so many devices that nobody knows.
const UNKNOWN_MAX: usize = 8;

/// What the kubelet has said so far.
#[derive(Debug)]
enum Heard {
    Nothing(Quiet),
    /// The last answer, and why there is none after it. What a kubelet said holds while it is away: nobody else gives devices out.
    Told(Listing, Option<String>),
}

#[derive(Debug)]
enum Quiet {
    Absent(String),
    Silent(String),
}

/// Watches for as long as it is polled. `out` has no value until kubelet and API server were asked once, within some two seconds;
/// until then no device of a card's maker should take layers.
pub async fn watch(
    setting: Setting,
    way: Way,
    seen: watch::Receiver<Arc<Vec<Seen>>>,
    out: watch::Sender<Option<Arc<Neighbours>>>,
) {
    let inventory = watch::Sender::new(None);
    let reader = Reader {
        way,
        node: setting.node.clone(),
        namespace: setting.namespace.clone(),
    };
    let known = inventory.subscribe();
    tokio::select! {
        () = Box::pin(follow(setting, ASK_EVERY, seen, known, out)) => {}
        () = Box::pin(reader.run(inventory)) => {}
    }
}

async fn follow(
    setting: Setting,
    every: Duration,
    mut seen: watch::Receiver<Arc<Vec<Seen>>>,
    mut known: watch::Receiver<Option<Inventory>>,
    out: watch::Sender<Option<Arc<Neighbours>>>,
) {
    let mut watcher = Watcher::new(setting);
    watcher.ask().await;
    // An API server that is away must not hold devices back for good.
    let _ = tokio::time::timeout(FIRST_LIMIT, known.wait_for(Option::is_some)).await;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        let devices = Arc::clone(&seen.borrow_and_update());
        let inventory = known.borrow_and_update().clone().unwrap_or_default();
        let now = watcher.conclude(&devices, &inventory);
        out.send_if_modified(|before| {
            let news = before.as_deref() != Some(&now);
            if news {
                tell(before.as_deref(), &now);
                *before = Some(Arc::new(now));
            }
            news
        });
        tokio::select! {
            _ = ticks.tick() => watcher.ask().await,
            changed = seen.changed() => if changed.is_err() {
                return;
            },
            Ok(()) = known.changed() => {}
        }
    }
}

/// The kubelet's connection, and what must not be forgotten between two answers.
#[derive(Debug)]
struct Watcher {
    setting: Setting,
    own: Own,
    kubelet: Kubelet,
    heard: Heard,
    managed: BTreeSet<Vendor>,
    aliases: Aliases,
    lookout: Lookout,
}

impl Watcher {
    fn new(setting: Setting) -> Self {
        let own = Own {
            namespace: setting.namespace.clone(),
            pod: setting.pod.clone(),
        };
        Self {
            kubelet: Kubelet::new(&setting.socket),
            own,
            heard: Heard::Nothing(Quiet::Silent("it was not asked yet".to_owned())),
            managed: BTreeSet::new(),
            aliases: Aliases::default(),
            lookout: Lookout::default(),
            setting,
        }
    }

    async fn ask(&mut self) {
        match self.kubelet.ask().await {
            Ok(listing) => {
                // A plugin that restarts offers nothing for a while, and its devices are still its to give.
                self.managed.extend(&listing.offered);
                self.managed.extend(listing.held.iter().map(|held| held.vendor));
                // Cheap, and a card that was just plugged in has a name at once.
                if !self.managed.is_empty() {
                    self.aliases = Aliases::read(&self.setting.root);
                }
                self.heard = Heard::Told(listing, None);
            }
            Err(error) => {
                let why = error.to_string();
                match &mut self.heard {
                    Heard::Told(_, stale) => *stale = Some(why),
                    quiet @ Heard::Nothing(_) => {
                        *quiet = Heard::Nothing(match error {
                            KubeletError::Absent(_) => Quiet::Absent(why),
                            KubeletError::Silent(_) => Quiet::Silent(why),
                        });
                    }
                }
            }
        }
    }

    fn conclude(&mut self, devices: &[Seen], inventory: &Inventory) -> Neighbours {
        self.managed.extend(&inventory.managed);
        let strangers = self.strangers(devices);
        let nothing = Listing::default();
        let (listing, knowledge, quiet) = match &self.heard {
            Heard::Told(listing, stale) => (listing, Knowledge::Told, stale.as_ref()),
            Heard::Nothing(Quiet::Absent(why)) => (&nothing, Knowledge::NoKubelet, Some(why)),
            Heard::Nothing(Quiet::Silent(why)) => (&nothing, Knowledge::Silent(why), Some(why)),
        };
        let (holders, unknown) = interpret(listing, &self.own, devices, &self.aliases, inventory);
        let facts = Facts {
            sharing: self.setting.sharing,
            knowledge,
            managed: &self.managed,
            ending: &inventory.ending,
        };
        let mut claims = policy::claims(devices, &holders, facts);
        for seen in devices {
            let name = seen.device.identity();
            let found = strangers.get(&name).copied();
            if let Some(claim) = claims.remove(&name) {
                claims.insert(name, strangers::weigh(claim, seen, found, self.setting.sharing));
            }
        }
        let mut notes: Vec<String> = quiet
            .cloned()
            .into_iter()
            .chain(inventory.notes.iter().cloned())
            .collect();
        let shown = unknown.into_iter().take(UNKNOWN_MAX);
        notes.extend(shown.map(|name| format!("a pod holds {name}, which is no device that is known here")));
        Neighbours {
            claims,
            strangers: strangers
                .into_iter()
                .map(|(name, found)| (name, found.describe()))
                .collect(),
            notes,
        }
    }

    fn strangers(&mut self, devices: &[Seen]) -> BTreeMap<String, Strangers> {
        let root = &self.setting.root;
        if !strangers::numbers_are_ours(root) {
            return BTreeMap::new();
        }
        let mut own = leftovers::processes(&self.setting.workers);
        own.insert(std::process::id());
        self.lookout.look(devices, &own, |pid| strangers::parent(root, pid))
    }
}

/// Says in the log what changed, once.
fn tell(before: Option<&Neighbours>, now: &Neighbours) {
    let known = |note: &String| before.is_some_and(|before| before.notes.contains(note));
    for note in now.notes.iter().filter(|note| !known(note)) {
        tracing::info!(note, "about other pods' devices");
    }
    for (device, claim) in &now.claims {
        if before.and_then(|before| before.claims.get(device)) != Some(claim) {
            tracing::info!(device, ?claim, "whose the device is");
        }
    }
}

#[cfg(test)]
mod tests;
