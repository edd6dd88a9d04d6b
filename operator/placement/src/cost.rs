//! What "better" means, in whole nanoseconds.

/// A cost that is never reached.
pub(crate) const NEVER_NS: u64 = u64::MAX;

/// No single piece counts for more: eleven days. It keeps sums of absurd inputs far from overflow.
const MAX_PIECE_NS: u64 = 1_000_000_000_000_000;

/// Time to move bytes at a rate, rounded up.
pub(crate) fn transfer_ns(bytes: u64, bytes_per_second: u64) -> u64 {
    let ns = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(bytes_per_second.max(1)));
    u64::try_from(ns).unwrap_or(MAX_PIECE_NS).min(MAX_PIECE_NS)
}

/// Microseconds as nanoseconds, within the same limit.
pub(crate) fn us_to_ns(us: u64) -> u64 {
    us.saturating_mul(1000).min(MAX_PIECE_NS)
}

/// What one pass of the search minimises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// All stages and hops together, where no memory pool works longer than the cap and no transfer takes longer.
    Sum { cap_ns: u64 },
    /// The memory pool that works longest, or the longest transfer.
    Slowest,
}

impl Goal {
    /// Whether a stage, a pool or a transfer of this length may be part of a plan at all.
    pub(crate) fn admits(self, ns: u64) -> bool {
        match self {
            Self::Sum { cap_ns } => ns <= cap_ns,
            Self::Slowest => true,
        }
    }

    /// Cost of a piece put before or after what already has a cost; never cheaper than either.
    pub(crate) fn join(self, cost_ns: u64, piece_ns: u64) -> u64 {
        if cost_ns == NEVER_NS || piece_ns == NEVER_NS {
            return NEVER_NS;
        }
        match self {
            Self::Sum { .. } => cost_ns.saturating_add(piece_ns),
            Self::Slowest => cost_ns.max(piece_ns),
        }
    }
}
