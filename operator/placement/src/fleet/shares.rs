//! What stages of replicas take of what they share, and the cases in which they take less.

use super::search::{Limits, Most};

/// What stages take of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) enum Taken {
    Bytes,
    Time,
}

/// A stage in a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// Whose it is.
    pub of: usize,
    /// The place of its device.
    pub at: usize,
    /// How much it takes there.
    pub amount: u64,
    /// Of so many equal parts of all that it takes, how many are there.
    pub parts: u64,
    pub parts_there: u64,
}

impl Share {
    /// The most that the stage may take, if it takes no more than that there.
    fn whole(&self, amount: u64) -> u64 {
        (amount / self.parts_there).saturating_mul(self.parts)
    }
}

/// All that stages take.
pub(super) fn sum(shares: &[Share]) -> u64 {
    shares.iter().fold(0, |sum, share| sum.saturating_add(share.amount))
}

/// One case for each stage, in which it takes less; `None` where all together are within the limit.
pub(super) fn cases_of_less(
    node: &[Limits],
    shares: &[Share],
    limit: u64,
    part: impl Fn(&mut Most) -> &mut u64,
) -> Option<Vec<Vec<Limits>>> {
    let above = sum(shares).checked_sub(limit).filter(|above| *above > 0)?;
    let less = 1 + (above - 1) / (shares.len() as u64).max(1);
    let case = |share: &Share| {
        let mut case = node.to_vec();
        let most = part(case[share.of].most.entry(share.at).or_insert(Most::ANY));
        *most = (*most).min(share.whole(share.amount.saturating_sub(less)));
        case
    };
    Some(shares.iter().map(case).collect())
}

/// One case for each replica: the device, by itself and in groups, is for it alone.
pub(super) fn cases_of_one(node: &[Limits], devices: &[usize]) -> Vec<Vec<Limits>> {
    let only = |own: usize| {
        let mut case = node.to_vec();
        for (_, limits) in case.iter_mut().enumerate().filter(|(other, _)| *other != own) {
            limits.most.extend(devices.iter().map(|at| (*at, Most::NOTHING)));
        }
        case
    };
    (0..node.len()).map(only).collect()
}
