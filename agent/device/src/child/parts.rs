//! Asking some devices apart from the others, each part in a child of its own: what hangs in one is no matter of the
//! others.

use super::Quota;
use super::probe::{self, Order, ProbeFault};
use crate::{Answer, Backend, Selection};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A healthy card answers within two seconds; twice that, because several are asked at once. Shorter than for all cards
/// together: layers of one that hangs wait for this.
pub const ALONE_LIMIT: Duration = Duration::from_secs(4);
/// Children at once: with a reader, and one that hangs and cannot be ended, within a [`Quota`].
const AT_ONCE: usize = 3;
/// Of a quota, what cards that are asked alone leave to the others: one that hangs for good does so every time.
const LEFT: usize = 1;

/// Which devices, and what came of asking them.
pub type Part = (Selection, Result<Answer, ProbeFault>);

/// As [`probe::ask`], of each part; in their order. One of several that is of one place waits no longer than [`ALONE_LIMIT`].
pub async fn ask(
    executable: &Path,
    backend: Backend,
    order: &Order,
    parts: Vec<Selection>,
    quota: &Quota,
) -> Vec<Part> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    for (number, only) in parts.iter().cloned().enumerate() {
        let alone = only.alone().is_some();
        let order = Order {
            limit: limit(&only, parts.len(), order.limit),
            only,
            ..order.clone()
        };
        let quota = if alone { quota.leaving(LEFT) } else { quota.clone() };
        let (executable, places) = (executable.to_owned(), Arc::clone(&places));
        asking.spawn(async move {
            // Never closed.
            let _place = places.acquire().await;
            (number, probe::ask(&executable, backend, &order, &quota).await)
        });
    }
    let mut outcomes: Vec<Option<Result<Answer, ProbeFault>>> = vec![None; parts.len()];
    while let Some(asked) = asking.join_next().await {
        if let Ok((number, outcome)) = asked {
            outcomes[number] = Some(outcome);
        }
    }
    let none = || Err(ProbeFault::Broken("the question was not asked".to_owned()));
    parts
        .into_iter()
        .zip(outcomes)
        .map(|(only, outcome)| (only, outcome.unwrap_or_else(none)))
        .collect()
}

/// How long a part of so many is waited for. For one that is asked for by itself nobody waits: on a machine that has much else to do it
/// may take its time.
fn limit(only: &Selection, parts: usize, limit: Duration) -> Duration {
    if only.alone().is_some() && parts > 1 {
        limit.min(ALONE_LIMIT)
    } else {
        limit
    }
}

/// One answer of those that came. Pure. A card that no part reaches has no number of its own in any; it gets one that no
/// other has.
pub fn join(backend: Backend, parts: &[Part]) -> Answer {
    let mut joined = Answer {
        backend,
        devices: Vec::new(),
        note: None,
    };
    let mut numbers = BTreeSet::new();
    for answer in parts.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()) {
        joined.note = joined.note.or_else(|| answer.note.clone());
        for device in &answer.devices {
            let mut device = device.clone();
            if !numbers.insert(device.index) {
                device.index = numbers.last().map_or(0, |last| last.saturating_add(1));
                numbers.insert(device.index);
            }
            joined.devices.push(device);
        }
    }
    if !joined.devices.is_empty() && parts.len() > 1 {
        // What the library says to a part that has nothing is no matter of those that have.
        joined.note = None;
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GpuDevice, Kind};

    #[test]
    fn only_a_card_that_is_asked_alone_beside_others_is_waited_for_less_long() {
        let all = Duration::from_secs(8);
        let card = Selection::one("0000:01:00.0");
        assert_eq!(limit(&card, 2, all), ALONE_LIMIT);
        assert_eq!(limit(&card, 1, all), all);
        assert_eq!(limit(&Selection::All, 2, all), all);
        assert_eq!(limit(&card, 2, Duration::from_secs(1)), Duration::from_secs(1));
    }

    #[test]
    fn devices_of_several_answers_have_numbers_of_their_own_and_notes_of_empty_ones_do_not_count() {
        let of = |index| Answer {
            backend: Backend::Cuda,
            devices: vec![GpuDevice::new(Backend::Cuda, index, Kind::Discrete)],
            note: None,
        };
        let parts: Vec<Part> = vec![
            (Selection::one("a:0"), Ok(of(2))),
            (Selection::one("a:1"), Err(ProbeFault::Hung("it hangs".into()))),
            (Selection::one("a:2"), Ok(of(2))),
            (
                Selection::one("a:3"),
                Ok(Answer::nothing(Backend::Cuda, "nothing here")),
            ),
        ];
        let joined = join(Backend::Cuda, &parts);
        let numbers: Vec<u32> = joined.devices.iter().map(|device| device.index).collect();
        assert_eq!((numbers, joined.note), (vec![2, 3], None));
        assert_eq!(join(Backend::Cuda, &parts[3..]).note.as_deref(), Some("nothing here"));
    }
}
