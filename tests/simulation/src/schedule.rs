//! PURE: which faults come when, from a seed.

use std::fmt;
use std::time::Duration;

use linkemu::random::Random;

/// Something that happens. Places are those of operators, nodes and models; each is taken modulo how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An operator dies and is started again.
    KillOperator(usize),
    /// An operator stands still.
    FreezeOperator(usize, Duration),
    /// An agent dies and is started again.
    KillAgent(usize, Duration),
    /// An agent stands still.
    FreezeAgent(usize, Duration),
    /// Nothing passes between a node and the operators.
    SilenceLink(usize, Duration),
    /// Everything between a node and the operators takes so long.
    SlowLink(usize, Duration, Duration),
    /// The connections of a node are reset.
    ResetLink(usize),
    /// An operator is told of no change.
    HoldWatches(usize, Duration),
    /// An operator is told of every change several times, and of the one before.
    RepeatWatches(usize, Duration),
    /// Every watch breaks.
    BreakWatches,
    /// Every watch breaks, and what happened is forgotten: all have to list again.
    Compact,
    /// The API server is away.
    LoseApi(Duration),
    /// One request in so many is refused, or carried out and not answered.
    FailRequests(u32, Duration),
    /// Every request takes so long.
    SlowApi(Duration, Duration),
    /// etcd is saved.
    Save,
    /// etcd is restored as it was saved last.
    Restore,
    /// A device reports a fault.
    FailDevice(usize, Duration),
    /// A node is cordoned.
    Cordon(usize, Duration),
    /// People change a model.
    Edit(usize, Edit),
}

impl Event {
    /// How long it lasts, where somebody has to end it.
    #[must_use]
    pub fn lasts(self) -> Option<Duration> {
        match self {
            Self::FreezeOperator(_, time)
            | Self::KillAgent(_, time)
            | Self::FreezeAgent(_, time)
            | Self::SilenceLink(_, time)
            | Self::SlowLink(_, _, time)
            | Self::HoldWatches(_, time)
            | Self::RepeatWatches(_, time)
            | Self::LoseApi(time)
            | Self::FailDevice(_, time)
            | Self::Cordon(_, time) => Some(time),
            _ => None,
        }
    }
}

/// What people do with a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// They ask for it; one that is there stays.
    Create,
    /// They delete it.
    Delete,
    /// They delete it and ask for it again at once.
    Recreate,
    /// They want other weights.
    Weights(u32),
    /// They want more or less context.
    Context(u32),
}

/// A fault and when it comes, after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Time since the step before.
    pub after: Duration,
    /// What happens.
    pub event: Event,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:?} {:?}", self.after, self.event)
    }
}

/// The faults of a seed.
#[must_use]
pub fn of_seed(seed: u64) -> Vec<Step> {
    let mut random = Random::new(seed);
    let count = random.between(2, 9);
    (0..count)
        .map(|_| Step {
            after: pause(&mut random),
            event: event(&mut random),
        })
        .collect()
}

/// Mostly within what is going on, sometimes after it has come to rest.
fn pause(random: &mut Random) -> Duration {
    let ms = match random.below(4) {
        0 => random.between(0, 60),
        1 => random.between(0, 1_500),
        2 => random.between(0, 6_000),
        _ => random.between(0, 30_000),
    };
    Duration::from_millis(ms)
}

fn event(random: &mut Random) -> Event {
    let place = random.below(64);
    let short = Duration::from_millis(random.between(50, 8_000));
    let long = Duration::from_millis(random.between(1_000, 60_000));
    match random.below(24) {
        0 | 1 => Event::KillOperator(place),
        2 | 3 => Event::FreezeOperator(place, long),
        4 | 5 => Event::KillAgent(place, short),
        6 => Event::KillAgent(place, long),
        7 => Event::FreezeAgent(place, long),
        8 => Event::SilenceLink(place, long),
        9 => Event::SlowLink(place, Duration::from_millis(random.between(5, 900)), long),
        10 => Event::ResetLink(place),
        11 => Event::HoldWatches(place, long),
        12 => Event::RepeatWatches(place, long),
        13 => Event::BreakWatches,
        14 => Event::Compact,
        15 => Event::LoseApi(match random.below(40) {
            0 => Duration::from_secs(random.between(1_800, 10_800)),
            _ => long,
        }),
        16 => Event::FailRequests(u32::try_from(random.between(2, 6)).unwrap_or(2), long),
        17 => Event::SlowApi(Duration::from_millis(random.between(10, 2_000)), long),
        18 => Event::Save,
        19 => Event::Restore,
        20 => Event::FailDevice(place, long),
        21 => Event::Cordon(place, long),
        _ => Event::Edit(place, edit(random)),
    }
}

fn edit(random: &mut Random) -> Edit {
    match random.below(6) {
        0 => Edit::Create,
        1 => Edit::Delete,
        2 => Edit::Recreate,
        3 | 4 => Edit::Weights(u32::try_from(random.between(1, 3)).unwrap_or(1)),
        _ => Edit::Context(if random.below(2) == 0 { 128 } else { 256 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_schedule_and_another_seed_another() {
        assert_eq!(of_seed(7), of_seed(7));
        assert_ne!(of_seed(7), of_seed(8));
    }

    #[test]
    fn every_kind_of_event_comes_among_a_thousand_seeds() {
        let kinds: std::collections::BTreeSet<String> = (0..1000)
            .flat_map(of_seed)
            .map(|step| format!("{:?}", step.event))
            .map(|text| text.split('(').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(kinds.len(), 19, "{kinds:?}");
    }
}
