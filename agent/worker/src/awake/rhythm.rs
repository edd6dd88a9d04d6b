//! For how long the next step is expected, by when the last ones came and whether others want the core.

/// Steps that are further apart are not waited for: the stage gains nothing that anybody would notice, and a core would be
/// busy for the sake of it. Also the longest that cores are kept awake for nothing.
const LONGEST_US: u64 = 50_000;

/// The next step is given up once so many usual ones could have come.
const PATIENCE: u64 = 4;

/// Weight of the usual against the last step: one that carries somebody's prompt, or that a housekeeper of the system
/// disturbed, is forgotten after a few others.
const INERTIA: u64 = 3;

/// A core is crowded where the thread that computes waits for it for one part in so many: others run there. It needs no
/// keeping awake, and what turns on it would be counted against this process's share of it, which computing needs.
const CROWDED_PART: u64 = 8;

/// How long nothing is tried after a crowd was met, and again after the next one, at most. A trial costs a step or two the time
/// that others take; a crowd that has gone costs a stream a few seconds at its usual pace.
const AWAY_US: (u64, u64) = (1_000_000, 32_000_000);

/// The steps of a stage in time; microseconds of clocks that do not run backwards.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    last: Option<Moment>,
    usual: Option<Usual>,
    crowd: Crowd,
}

/// When a step was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now_us: u64,
    /// How long the thread that computes has been ready and had no core, since it began.
    pub(super) delayed_us: u64,
}

#[derive(Clone, Copy, Debug)]
struct Usual {
    between_us: u64,
    delayed_us: u64,
}

impl Rhythm {
    /// A step is done: for how long to keep cores awake for the next one. `None` where steps do not follow each other
    /// closely, or the cores are awake for others.
    pub(super) fn step(&mut self, now: Moment) -> Option<u64> {
        let last = self.last.replace(now)?;
        let between_us = now.now_us.saturating_sub(last.now_us);
        if between_us > LONGEST_US {
            self.usual = None;
            return None;
        }
        let delayed_us = now.delayed_us.saturating_sub(last.delayed_us);
        let latest = Usual { between_us, delayed_us };
        let usual = self.usual.map_or(latest, |usual| usual.and(latest));
        self.usual = Some(usual);
        if self.crowd.keeps_away(usual, now.now_us) {
            return None;
        }
        Some((PATIENCE * usual.between_us).min(LONGEST_US))
    }
}

/// Others on the core, as far as they were met.
#[derive(Debug, Default)]
struct Crowd {
    /// Until when nothing is tried.
    until_us: u64,
    /// How long it was stayed away last; 0 where no crowd was met for as long.
    away_us: u64,
}

impl Crowd {
    fn keeps_away(&mut self, usual: Usual, now_us: u64) -> bool {
        if now_us < self.until_us {
            return true;
        }
        if usual.delayed_us * CROWDED_PART > usual.between_us {
            let (first_us, last_us) = AWAY_US;
            self.away_us = (2 * self.away_us).clamp(first_us, last_us);
            self.until_us = now_us + self.away_us;
            return true;
        }
        if now_us - self.until_us > self.away_us {
            self.away_us = 0;
        }
        false
    }
}

impl Usual {
    fn and(self, latest: Self) -> Self {
        let mean = |usual: u64, latest: u64| (INERTIA * usual + latest) / (INERTIA + 1);
        Self {
            between_us: mean(self.between_us, latest.between_us),
            delayed_us: mean(self.delayed_us, latest.delayed_us),
        }
    }
}

#[cfg(test)]
mod tests;
