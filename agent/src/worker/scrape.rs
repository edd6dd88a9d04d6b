//! What workers count, asked of them over their sockets.

use super::client::Client;
use super::places::Places;
use crate::shard::Slot;
use crate::shard::report::{Holding, Serving};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A worker answers from a thread that never computes.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Scrapes that come within so long of each other are given the same: a worker takes eight connections, and whoever scrapes must not
/// take them from the agent.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// What one worker counts, and what it serves.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// What it serves.
    pub holding: Holding,
    /// The text exposition format.
    pub text: String,
}

/// Of one worker; `None` where it does not answer within two seconds.
pub async fn of(state_dir: &Path, slot: &Slot) -> Option<String> {
    let asked = async {
        let mut client = Client::connect(&Places::new(state_dir, slot).socket).await.ok()?;
        client.metrics().await.ok()
    };
    tokio::time::timeout(ANSWER_LIMIT, asked).await.ok().flatten()
}

/// The last answers of all workers.
#[derive(Debug)]
pub struct Scraper {
    state_dir: PathBuf,
    last: Mutex<Option<(Instant, Arc<Vec<Scrape>>)>>,
}

impl Scraper {
    /// Nobody was asked yet; the workers' sockets are below `state_dir`.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        let last = Mutex::new(None);
        Self { state_dir, last }
    }

    /// What the workers that serve count: asked now, by one caller at a time, or less than a second ago.
    pub async fn all(&self, serving: &[Serving]) -> Arc<Vec<Scrape>> {
        let mut last = self.last.lock().await;
        if let Some((at, scrapes)) = last.as_ref()
            && at.elapsed() < SHARED_FOR
        {
            return Arc::clone(scrapes);
        }
        let scrapes = Arc::new(all(&self.state_dir, serving).await);
        *last = Some((Instant::now(), Arc::clone(&scrapes)));
        scrapes
    }
}

/// Of all that answer, asked at once; by model and layers.
async fn all(state_dir: &Path, serving: &[Serving]) -> Vec<Scrape> {
    let mut asked = JoinSet::new();
    for one in serving.iter().cloned() {
        let state_dir = state_dir.to_owned();
        asked.spawn(async move {
            let text = of(&state_dir, &one.slot).await?;
            let holding = one.holding;
            Some(Scrape { holding, text })
        });
    }
    let mut scrapes = Vec::new();
    while let Some(answered) = asked.join_next().await {
        scrapes.extend(answered.ok().flatten());
    }
    scrapes.sort_by(|a: &Scrape, b| order(&a.holding).cmp(&order(&b.holding)));
    scrapes
}

fn order(holding: &Holding) -> [&str; 4] {
    [&holding.namespace, &holding.model, &holding.layers, &holding.device]
}
