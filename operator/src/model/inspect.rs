//! PURE: whom to ask about a model's source, and what came of it.
//!
//! One agent at a time, until one can read the source. Each model begins with another one, so that many models do not
//! wait for the same. When none can, all are asked again later; an agent that is new is asked at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::ModelSource;
use crds::conditions::reason;

use super::facts::Facts;
use crate::agents::registry::INSPECTIONS_MAX;
use crate::retry;

/// Digesting a file of 500 GB from a slow disk takes less than this.
const WHOLE_LIMIT: Duration = Duration::from_secs(3600);
/// Reading index and headers takes seconds.
const INDEXED_LIMIT: Duration = Duration::from_secs(600);

/// How long an agent may take to answer. Without a pinned index it reads everything, one source after another, and what
/// it was asked about before comes first.
#[must_use]
pub fn answer_limit(source: &ModelSource) -> Duration {
    match source.index_sha256 {
        Some(_) => INDEXED_LIMIT,
        None => WHOLE_LIMIT * INSPECTIONS_MAX as u32,
    }
}

/// Why an agent cannot read a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One CamelCase word.
    pub reason: String,
    /// For a person.
    pub message: String,
}

/// What is known of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Everything.
    Resolved(Arc<Facts>),
    /// Nothing yet; the node that looks at it.
    Inspecting(String),
    /// Nobody is there to look at it.
    NoAgent,
    /// No agent can read it.
    Failed(Failure),
}

#[derive(Debug)]
enum Phase {
    Idle,
    Asked {
        node: String,
        session: u64,
        generation: i64,
        since: Instant,
    },
    AllFailed {
        retry_at: Instant,
    },
    Resolved(Arc<Facts>),
}

/// The inspection of one model's source.
#[derive(Debug)]
pub struct Inspection {
    source: ModelSource,
    /// Which agent is asked first.
    start: usize,
    phase: Phase,
    tried: BTreeMap<String, Failure>,
    rounds_failed: u32,
    /// What the last whole round came to: shown while the next one goes on.
    standing: Option<Failure>,
}

impl Inspection {
    /// Nothing is known. The uid of the model decides which agent is asked first.
    #[must_use]
    pub fn new(source: ModelSource, uid: &str) -> Self {
        let start = uid
            .bytes()
            .fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        Self {
            source,
            start,
            phase: Phase::Idle,
            tried: BTreeMap::new(),
            rounds_failed: 0,
            standing: None,
        }
    }

    /// What is inspected.
    #[must_use]
    pub fn source(&self) -> &ModelSource {
        &self.source
    }

    /// What was in the way may be gone: whoever failed is asked again at once.
    pub fn retry(&mut self) {
        if let Phase::AllFailed { .. } = self.phase {
            self.tried.clear();
            self.phase = Phase::Idle;
        }
    }

    /// The same weights by another way.
    pub fn reached_by(&mut self, source: ModelSource) {
        self.source = source;
    }

    /// The nodes that may be asked now, in this order, until one takes the question; follow with [`Inspection::asked`].
    /// `attached`: sessions by node.
    pub fn candidates(&mut self, attached: &BTreeMap<String, u64>, now: Instant, jitter: f64) -> Vec<String> {
        let limit = answer_limit(&self.source);
        match &self.phase {
            Phase::Resolved(_) => return Vec::new(),
            Phase::Asked {
                node, session, since, ..
            } => {
                let there = attached.get(node) == Some(session);
                if there && now.saturating_duration_since(*since) < limit {
                    return Vec::new();
                }
                if there {
                    let message = format!("no answer within {} minutes", limit.as_secs() / 60);
                    self.tried.insert(
                        node.clone(),
                        Failure {
                            reason: reason::UNREADABLE.into(),
                            message,
                        },
                    );
                }
                self.phase = Phase::Idle;
            }
            Phase::AllFailed { retry_at } if now >= *retry_at => {
                self.tried.clear();
                self.phase = Phase::Idle;
            }
            Phase::AllFailed { .. } | Phase::Idle => {}
        }
        let start = self.start.checked_rem(attached.len()).unwrap_or_default();
        let untried: Vec<String> = attached
            .keys()
            .cycle()
            .skip(start)
            .take(attached.len())
            .filter(|node| !self.tried.contains_key(*node))
            .cloned()
            .collect();
        if untried.is_empty() && matches!(self.phase, Phase::Idle) && !self.tried.is_empty() {
            self.rounds_failed = self.rounds_failed.saturating_add(1);
            self.standing = self.worst();
            self.phase = Phase::AllFailed {
                retry_at: now + retry::INSPECTION.wait(self.rounds_failed, jitter),
            };
        }
        untried
    }

    /// Whether an answer is waited for that takes seconds: of a source whose index is pinned.
    #[must_use]
    pub fn ends_soon(&self) -> bool {
        matches!(self.phase, Phase::Asked { .. }) && self.source.index_sha256.is_some()
    }

    /// The node was asked.
    pub fn asked(&mut self, node: String, session: u64, generation: i64, now: Instant) {
        self.phase = Phase::Asked {
            node,
            session,
            generation,
            since: now,
        };
    }

    /// Takes an answer; false if it is not the one that is waited for.
    pub fn answered(&mut self, from: &str, answered_generation: i64, answer: Result<Arc<Facts>, Failure>) -> bool {
        let Phase::Asked { node, generation, .. } = &self.phase else {
            return false;
        };
        if node != from || *generation != answered_generation {
            return false;
        }
        match answer {
            Ok(facts) => {
                self.tried.clear();
                self.rounds_failed = 0;
                self.standing = None;
                self.phase = Phase::Resolved(facts);
            }
            Err(failure) => {
                self.tried.insert(from.to_owned(), failure);
                self.phase = Phase::Idle;
            }
        }
        true
    }

    /// What is known now.
    #[must_use]
    pub fn resolution(&self) -> Resolution {
        match (&self.phase, &self.standing, self.worst()) {
            (Phase::Resolved(facts), ..) => Resolution::Resolved(facts.clone()),
            // Agents that are asked once more do not hide why all failed before.
            (_, Some(failure), _) => Resolution::Failed(failure.clone()),
            (Phase::Asked { node, .. }, ..) => Resolution::Inspecting(node.clone()),
            (_, None, Some(failure)) => Resolution::Failed(failure),
            (_, None, None) => Resolution::NoAgent,
        }
    }

    /// When to look again, if nothing else happens.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::AllFailed { retry_at } => Some(*retry_at),
            Phase::Asked { since, .. } => Some(*since + answer_limit(&self.source)),
            Phase::Idle | Phase::Resolved(_) => None,
        }
    }

    /// The failure that says most: a file that was read and is wrong, before one that was not found.
    fn worst(&self) -> Option<Failure> {
        let telling = |failure: &Failure| failure.reason != reason::SOURCE_NOT_FOUND;
        let (node, failure) = self
            .tried
            .iter()
            .find(|(_, failure)| telling(failure))
            .or_else(|| self.tried.iter().next())?;
        let others = match self.tried.len() {
            1 => String::new(),
            count => format!(" ({count} nodes were asked)"),
        };
        Some(Failure {
            reason: failure.reason.clone(),
            message: format!("node {node}: {}{others}", failure.message),
        })
    }
}

#[cfg(test)]
mod tests;
