//! What workers count, asked of them over their sockets.

use super::client::Client;
use super::config::Places;
use crate::shard::Slot;
use crate::shard::report::{Holding, Serving};
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;

/// A worker answers from a thread that never computes.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

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

/// Of all that answer, asked at once; by model and layers.
pub async fn all(state_dir: &Path, serving: &[Serving]) -> Vec<Scrape> {
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
