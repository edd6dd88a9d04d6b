//! Carries out what [`super::plan`] decides, one round after the other, and tells what came of it. No decision is made here.

use super::earlier::Earlier;
use super::gate::Gate;
use super::history::History;
use super::measure::{self, Effort, MeasureError, Measured};
use super::plan::{self, Next, Progress, Situation};
use super::{Named, Peers, Seen, SeenLink, Standing, Tally, kind};
use crds::LinkKind;
use identity::Credentials;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A peer that the operator no longer names is remembered for so long: most are being started again.
const GONE_MS: u64 = 10 * 60_000;
/// A wait without an end, in one piece: something always changes before.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Of what went wrong, for a person.
const MESSAGE_BYTES_MAX: usize = 300;

/// What the drive must know of the node.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Name of the Kubernetes node.
    pub node: String,
    /// Trust domain.
    pub trust_domain: String,
    /// Where others reach this node.
    pub advertise_ip: IpAddr,
    /// "/" but in tests.
    pub root: PathBuf,
}

/// What connects the drive with the rest of the agent.
pub struct Lines {
    /// Whom to measure to; `None` until the operator has told.
    pub peers: watch::Receiver<Option<Arc<Peers>>>,
    /// What is known.
    pub seen: watch::Sender<Arc<Seen>>,
}

/// Measures for as long as it is polled.
pub async fn run(setting: Setting, credentials: Credentials, gate: Arc<Gate>, lines: Lines) {
    let seed = plan::mixed(0, setting.node.as_bytes());
    let drive = Drive {
        setting,
        credentials,
        gate,
        seed,
        told: false,
        links: BTreeMap::new(),
        tally: Tally::default(),
        seen: lines.seen,
    };
    drive.run(lines.peers).await;
}

struct Tracked {
    endpoint: String,
    kind: LinkKind,
    progress: Progress,
    history: History,
    message: Option<String>,
    /// Since when the operator does not name it.
    unnamed_ms: Option<u64>,
}

struct Drive {
    setting: Setting,
    credentials: Credentials,
    gate: Arc<Gate>,
    seed: u64,
    told: bool,
    links: BTreeMap<String, Tracked>,
    tally: Tally,
    seen: watch::Sender<Arc<Seen>>,
}

impl Drive {
    async fn run(mut self, mut peers: watch::Receiver<Option<Arc<Peers>>>) {
        let (mut wishes, mut serves) = (self.gate.wishes().subscribe(), self.gate.serves().subscribe());
        let mut earlier = self.gate.earlier().subscribe();
        loop {
            if let Some(named) = peers.borrow_and_update().clone() {
                self.take_over(&named);
            }
            if let Some(known) = earlier.borrow_and_update().clone() {
                self.take_up(&known);
            }
            self.tell();
            let progress = self.named_progress();
            let wished = wishes.borrow_and_update().clone();
            let now_ms = self.gate.now_ms();
            let next = plan::decide(&Situation {
                now_ms,
                seed: self.seed,
                peers: &progress,
                wishes: &wished,
                serves: *serves.borrow_and_update(),
                allowed_ms: self.gate.allowed_ms(),
            });
            match next {
                Next::Measure(node) => self.measure(&node, Effort::Round).await,
                Next::Glance(node) => {
                    if let Some(effort) = self.glance(&node) {
                        self.measure(&node, effort).await;
                    }
                }
                Next::Wait { until_ms } => {
                    let wait = Duration::from_millis(until_ms.saturating_sub(now_ms)).min(WAIT_MAX);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        changed = peers.changed() => if changed.is_err() {
                            return;
                        },
                        // Their senders live as long as the gate.
                        Ok(()) = wishes.changed() => {}
                        Ok(()) = serves.changed() => {}
                        Ok(()) = earlier.changed() => {}
                    }
                }
            }
        }
    }

    fn take_over(&mut self, named: &Peers) {
        self.told = true;
        let now_ms = self.gate.now_ms();
        for (node, tracked) in &mut self.links {
            if named.contains_key(node) {
                tracked.unnamed_ms = None;
            } else {
                tracked.unnamed_ms.get_or_insert(now_ms);
            }
        }
        self.links
            .retain(|_, tracked| tracked.unnamed_ms.is_none_or(|since_ms| now_ms - since_ms < GONE_MS));
        for (node, Named { endpoint, is_neighbour }) in named {
            let known = self.links.get_mut(node).filter(|tracked| tracked.endpoint == *endpoint);
            if let Some(known) = known {
                known.progress.is_neighbour = *is_neighbour;
                continue;
            }
            let kind = kind::find(&self.setting.root, self.setting.advertise_ip, endpoint);
            let before = self.links.remove(node);
            let tracked = Tracked {
                endpoint: endpoint.clone(),
                kind,
                // Whoever comes back under another address is asked at once; what was measured of its node still holds.
                progress: Progress {
                    since_ms: now_ms,
                    rounds: before.as_ref().map_or(0, |before| before.progress.rounds),
                    is_neighbour: *is_neighbour,
                    ..Progress::default()
                },
                history: before.map(|before| before.history).unwrap_or_default(),
                message: None,
                unnamed_ms: None,
            };
            self.links.insert(node.clone(), tracked);
        }
    }

    /// Before and after its first rounds: what an earlier life knew may be read late.
    fn take_up(&mut self, earlier: &Earlier) {
        let now_unix_s = Timestamp::now().as_second();
        for (node, tracked) in &mut self.links {
            if let Some(known) = earlier.get(node) {
                known.take_up(tracked.kind, &mut tracked.progress, &mut tracked.history, now_unix_s);
            }
        }
    }

    fn named_progress(&self) -> BTreeMap<String, Progress> {
        let named = self.links.iter().filter(|(_, tracked)| tracked.unnamed_ms.is_none());
        named.map(|(node, tracked)| (node.clone(), tracked.progress)).collect()
    }

    /// With what a link is compared; of one that is not known any more there is nothing.
    fn glance(&mut self, node: &str) -> Option<Effort> {
        let tracked = self.links.get_mut(node)?;
        let Some(known) = tracked.history.figures() else {
            tracked.progress.rounds = 0;
            return None;
        };
        Some(Effort::Glance {
            send_bytes_per_second: known.send_bytes_per_second,
            receive_bytes_per_second: known.receive_bytes_per_second,
        })
    }

    async fn measure(&mut self, node: &str, effort: Effort) {
        let Some(endpoint) = self.links.get(node).map(|tracked| tracked.endpoint.clone()) else {
            return;
        };
        // While somebody else measures here, who takes twenty seconds at most.
        let Some(turn) = self.gate.begin().await else { return };
        let peer = measure::Peer {
            node,
            endpoint: &endpoint,
            trust_domain: &self.setting.trust_domain,
        };
        let outcome = measure::measure(peer, effort, &self.credentials).await;
        drop(turn);
        self.take(node, outcome);
    }

    fn take(&mut self, node: &str, outcome: Result<Measured, MeasureError>) {
        let now_ms = self.gate.now_ms();
        let Some(tracked) = self.links.get_mut(node) else {
            return;
        };
        let progress = &mut tracked.progress;
        match outcome {
            Ok(Measured { round, link_us }) => {
                self.gate.began(link_us);
                self.tally.measured += 1;
                tracing::debug!(
                    peer = node,
                    send_bytes_per_second = round.send_bytes_per_second,
                    receive_bytes_per_second = round.receive_bytes_per_second,
                    is_glance = round.is_glance,
                    link_us,
                    "a link was measured"
                );
                let was_glance = round.is_glance;
                progress.found(was_glance, (node, self.seed), now_ms);
                tracked.history.add(round);
                progress.doubt(&tracked.history, was_glance);
                tracked.message = None;
            }
            Err(MeasureError::PutOff(why)) => {
                self.tally.refused += 1;
                tracing::debug!(peer = node, why, "a peer puts measuring off");
                progress.was_put_off(now_ms);
                tracked.message = Some(cut(why));
            }
            Err(MeasureError::Failed(why)) => {
                self.tally.failed += 1;
                progress.failed(now_ms);
                let told = progress.failures == super::history::GONE_AFTER;
                if told {
                    tracing::warn!(peer = node, why, "the link to a peer cannot be measured");
                } else {
                    tracing::debug!(peer = node, why, "a link was not measured");
                }
                tracked.message = Some(cut(why));
            }
        }
    }

    fn tell(&mut self) {
        (self.tally.began_us, self.tally.answered_us) = self.gate.spent_us();
        let seen = Seen {
            told: self.told,
            links: self
                .links
                .iter()
                .map(|(node, tracked)| (node.clone(), see(tracked)))
                .collect(),
            tally: self.tally,
        };
        self.seen.send_if_modified(|current| {
            let changed = **current != seen;
            if changed {
                *current = Arc::new(seen);
            }
            changed
        });
    }
}

fn see(tracked: &Tracked) -> SeenLink {
    let figures = tracked.history.figures();
    let standing = if tracked.progress.is_gone() {
        Standing::Unreachable
    } else if figures.is_some() {
        Standing::Measured
    } else {
        Standing::Pending
    };
    SeenLink {
        standing,
        kind: tracked.kind,
        figures,
        // A link that is measured has nothing to explain: one attempt that failed or was put off is no news.
        message: tracked.message.clone().filter(|_| standing != Standing::Measured),
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MESSAGE_BYTES_MAX));
    text
}
