//! How much of a link measuring may take. Pure: time is an argument.

/// Of each millisecond, so many microseconds: 0.2 %. A node pays for rounds that it begins out of one allowance and for those
/// that it answers out of another, so that its link gives 0.4 % to both, and what is saved up leaves it below 0.5 % over an hour.
pub const US_PER_MS: i64 = 2;
/// What is saved up at most: a few rounds at the start, when nothing is known, and no more.
pub const SAVED_US_MAX: i64 = 300_000;

/// Time of a link, as an account that fills up by itself. A round is begun while something is in it, may take more, and the
/// debt is waited off: the share holds for slow links as well, where a single round takes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    balance_us: i64,
    at_ms: u64,
}

impl Allowance {
    /// Full.
    pub fn new(now_ms: u64) -> Self {
        Self {
            balance_us: SAVED_US_MAX,
            at_ms: now_ms,
        }
    }

    /// When a round may begin.
    pub fn ready_at_ms(&self) -> u64 {
        let debt_us = u64::try_from(1_i64.saturating_sub(self.balance_us)).unwrap_or(0);
        self.at_ms.saturating_add(debt_us.div_ceil(US_PER_MS.unsigned_abs()))
    }

    /// Takes what a round took.
    pub fn spend(&mut self, us: u64, now_ms: u64) {
        let passed_ms = i64::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(i64::MAX);
        let filled_us = self.balance_us.saturating_add(passed_ms.saturating_mul(US_PER_MS));
        self.balance_us = filled_us
            .min(SAVED_US_MAX)
            .saturating_sub(i64::try_from(us).unwrap_or(i64::MAX));
        self.at_ms = self.at_ms.max(now_ms);
    }
}

#[cfg(test)]
mod tests;
