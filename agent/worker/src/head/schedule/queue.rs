//! Requests that wait for a seat: first come, first seated, but for answers that had begun elsewhere, which come before those that
//! had not, and for small ones that may pass a big one for which there is no room yet, a bounded number of times.

use std::collections::VecDeque;

use super::event::Event;
use super::request::{Request, RequestId};

/// Requests that wait for a sequence slot. At some seconds a request this is minutes of waiting already: better told at
/// once that there is no room than answered after the client has gone.
pub const MAX_WAITING: usize = 64;

/// How long a request waits for a seat before it is turned away: longer than people and their clients wait for a first token.
pub const MAX_WAIT_US: u64 = 60_000_000;

/// How often a request is passed by later ones that need fewer cells. Then nobody is seated until it is: those that run end, and
/// what they held is left to it.
pub const MAX_OVERTAKINGS: u32 = 8;

/// A request and what it waits for.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) request: Request,
    /// Cells that it may come to fill.
    pub(super) needs: u32,
    pub(super) since_us: u64,
    deadline_us: u64,
    overtaken: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn push(&mut self, request: Request, needs: u32, now_us: u64) {
        let deadline_us = now_us.saturating_add(request.max_wait_us.min(MAX_WAIT_US));
        let behind = |waiting: &Waiting| request.resumed && !waiting.request.resumed;
        let place = self.waiting.iter().position(behind).unwrap_or(self.waiting.len());
        let waiting = Waiting {
            request,
            needs,
            since_us: now_us,
            deadline_us,
            overtaken: 0,
        };
        self.waiting.insert(place, waiting);
    }

    /// Cells that the first in the queue needs.
    pub(super) fn first_needs(&self) -> Option<u32> {
        self.waiting.front().map(|first| first.needs)
    }

    /// Who is seated next, given so many cells.
    pub(super) fn next(&mut self, free_cells: u64) -> Option<Waiting> {
        let first = self.waiting.front()?;
        let may_pass = first.overtaken < MAX_OVERTAKINGS;
        let fits = |waiting: &Waiting| u64::from(waiting.needs) <= free_cells;
        let chosen = if fits(first) {
            0
        } else if may_pass {
            self.waiting.iter().position(fits)?
        } else {
            return None;
        };
        // Whoever is passed was passed no more often than the one that came first.
        for passed in self.waiting.iter_mut().take(chosen) {
            passed.overtaken += 1;
        }
        self.waiting.remove(chosen)
    }

    pub(super) fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|waiting| waiting.request.id != id);
    }

    /// Turns away those that have waited too long.
    pub(super) fn expire(&mut self, now_us: u64) -> Vec<Event> {
        let mut events = Vec::new();
        self.waiting.retain(|waiting| {
            let keep = now_us <= waiting.deadline_us;
            if !keep {
                events.push(Event::TimedOut {
                    id: waiting.request.id,
                    waited_us: now_us - waiting.since_us,
                });
            }
            keep
        });
        events
    }

    /// When the next request will have waited too long.
    pub(super) fn next_deadline_us(&self) -> Option<u64> {
        self.waiting.iter().map(|waiting| waiting.deadline_us).min()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = RequestId> {
        self.waiting.iter().map(|waiting| waiting.request.id)
    }
}
