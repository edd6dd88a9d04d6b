//! Jobs that visit servers, each first come, first served; time goes from event to event.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

/// One step of a job's route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visit {
    /// `None`: a delay that nobody waits for.
    pub server: Option<usize>,
    pub ns: u64,
}

/// A visit that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub at_ns: u64,
    pub job: usize,
    /// Index in its route.
    pub visit: usize,
    /// Whether it was the last one.
    pub is_last: bool,
}

#[derive(Clone, Debug, Default)]
struct Server {
    is_busy: bool,
    /// Jobs and their visits.
    waiting: VecDeque<(usize, usize)>,
}

/// All servers, all jobs, and what happens next.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    servers: Vec<Server>,
    routes: Vec<Vec<Visit>>,
    /// Ends of visits: time, then the order in which they were begun, so that equal times have one order.
    ends: BinaryHeap<Reverse<(u64, u64, usize, usize)>>,
    begun: u64,
}

impl Queues {
    pub fn new(servers: usize) -> Self {
        Self {
            servers: vec![Server::default(); servers],
            routes: Vec::new(),
            ends: BinaryHeap::new(),
            begun: 0,
        }
    }

    /// Adds a job, which rests until it is started. A route has at least one visit.
    pub fn add(&mut self, route: Vec<Visit>) -> usize {
        self.routes.push(route);
        self.routes.len() - 1
    }

    pub fn visit(&self, job: usize, visit: usize) -> Visit {
        self.routes[job][visit]
    }

    /// Sends a resting job on its route.
    pub fn start(&mut self, job: usize, at_ns: u64) {
        self.arrive(job, 0, at_ns);
    }

    /// Goes on to the end of the next visit; `None` when every job rests.
    pub fn next(&mut self) -> Option<Ended> {
        let Reverse((at_ns, _, job, visit)) = self.ends.pop()?;
        if let Some(server) = self.routes[job][visit].server {
            self.servers[server].is_busy = false;
            // Whoever waited goes first: the job itself may come back to the same server at once.
            if let Some((other, its_visit)) = self.servers[server].waiting.pop_front() {
                self.begin(other, its_visit, at_ns);
            }
        }
        let is_last = visit + 1 == self.routes[job].len();
        if !is_last {
            self.arrive(job, visit + 1, at_ns);
        }
        Some(Ended {
            at_ns,
            job,
            visit,
            is_last,
        })
    }

    fn arrive(&mut self, job: usize, visit: usize, at_ns: u64) {
        match self.routes[job][visit].server {
            Some(server) if self.servers[server].is_busy => self.servers[server].waiting.push_back((job, visit)),
            _ => self.begin(job, visit, at_ns),
        }
    }

    fn begin(&mut self, job: usize, visit: usize, at_ns: u64) {
        let Visit { server, ns } = self.routes[job][visit];
        if let Some(server) = server {
            self.servers[server].is_busy = true;
        }
        self.begun += 1;
        self.ends
            .push(Reverse((at_ns.saturating_add(ns), self.begun, job, visit)));
    }
}

#[cfg(test)]
mod tests {
    use super::{Queues, Visit};

    fn at(server: usize, ns: u64) -> Visit {
        Visit {
            server: Some(server),
            ns,
        }
    }

    fn ends(queues: &mut Queues) -> Vec<(u64, usize, usize)> {
        std::iter::from_fn(|| queues.next())
            .map(|ended| (ended.at_ns, ended.job, ended.visit))
            .collect()
    }

    #[test]
    fn who_comes_first_is_served_first_and_the_other_waits() {
        let mut queues = Queues::new(1);
        let (a, b) = (queues.add(vec![at(0, 10)]), queues.add(vec![at(0, 3)]));
        queues.start(a, 0);
        queues.start(b, 1);
        assert_eq!(ends(&mut queues), [(10, a, 0), (13, b, 0)]);
    }

    #[test]
    fn nobody_waits_for_a_delay() {
        let mut queues = Queues::new(1);
        let delay = Visit { server: None, ns: 10 };
        let (a, b) = (queues.add(vec![delay]), queues.add(vec![delay]));
        queues.start(a, 0);
        queues.start(b, 0);
        assert_eq!(ends(&mut queues), [(10, a, 0), (10, b, 0)]);
    }

    #[test]
    fn a_job_that_comes_back_to_a_server_queues_behind_who_waited() {
        let mut queues = Queues::new(1);
        let (a, b) = (queues.add(vec![at(0, 5), at(0, 5)]), queues.add(vec![at(0, 5)]));
        queues.start(a, 0);
        queues.start(b, 0);
        assert_eq!(ends(&mut queues), [(5, a, 0), (10, b, 0), (15, a, 1)]);
    }
}
