//! Best-first search over what each replica may use.
//!
//! In a node every replica has limits of its own (how many bytes it may take on which device) and is decided as if it were alone:
//! their bounds together are a bound on all plans of the node. Where the plans get in each other's way, the node is divided:
//!
//! - *One device, several replicas*: at most one of them has it, alone or in a group. One case for each replica that may.
//! - *A pool too small*: of `k` stages that are `e` bytes too large together, one has at most its bytes less `1 + (e - 1) / k`.
//! - *A pool too busy* for the rate that is asked for: likewise with the stages' times.
//! - *A link too full*: of one hop more than it carries, one is left out.
//! - *A pool that slows several down*: either it works less, likewise; or not, which is given up and leaves a gap.
//!
//! The cases of a division contain every plan without the conflict. Replicas are alike, so nodes that differ in their order only
//! are one.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use topology::{Device, Pool};

use super::first;
use super::shares::{Share, Taken, cases_of_less, cases_of_one, sum};
use super::together::{is_in, is_used, least_cost, take, used};
use crate::{
    Budget, Infeasible, Objective, Plan, Problem, Stage,
    domain::{MAX_CANDIDATES, Within},
    links,
    solve::{Single, single},
};

/// Nodes kept at once; what does not fit is remembered by its bound.
const MAX_NODES: usize = 4_000;

/// What it takes to set one replica's problem up, beside what grows with its devices.
const STEPS_TO_BEGIN: u64 = 200;

/// The least that one replica's problem is given.
const LEAST_STEPS: u64 = 2_000;

/// Rates are in this part of a token per nanosecond.
pub(super) const RATE: i128 = 1_000_000_000_000_000_000;

/// What is minimised: nanoseconds, or rates with the sign turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost(i128);

impl Cost {
    /// Of what is no plan.
    pub(super) const NEVER: Self = Self(i128::MAX);

    /// Of replicas that cost so much each.
    pub(super) fn of_parts(problem: &Problem, parts_ns: impl Iterator<Item = u64>) -> Self {
        let cost = |ns: u64| match is_sum(problem) {
            true => i128::from(ns),
            false => -(RATE / i128::from(ns.max(1))),
        };
        Self(parts_ns.map(cost).sum())
    }

    /// How much more than a bound it is, rounded up; of rates, how much higher they might be.
    pub(super) fn gap_percent(self, bound: Self) -> u32 {
        let above = self.0.saturating_sub(bound.0).max(0).saturating_mul(100);
        let of = if self.0 < 0 { -self.0 } else { bound.0 }.max(1);
        u32::try_from((above + of - 1) / of).unwrap_or(u32::MAX)
    }
}

/// Whether times are added up; else rates are.
pub(super) fn is_sum(problem: &Problem) -> bool {
    problem.objective == Objective::Latency || !problem.held.is_empty()
}

/// What became of a search.
#[derive(Debug)]
pub(super) struct Outcome {
    /// As many as were asked for, or none.
    pub plans: Vec<Plan>,
    cost: Cost,
    /// No plans cost less.
    bound: Cost,
    pub steps: u64,
}

impl Outcome {
    pub(super) fn is_proved(&self) -> bool {
        self.bound >= self.cost
    }

    pub(super) fn gap_percent(&self) -> u32 {
        self.cost.gap_percent(self.bound)
    }
}

/// Finds the best `replicas`, or as much as the steps allow. `known` are plans to begin with.
pub(super) fn search(problem: &Problem, replicas: u32, known: Option<&[Plan]>, budget: Budget) -> Outcome {
    let mut search = Search {
        problem,
        replicas: replicas as usize,
        seed: budget.seed,
        steps: budget.steps,
        left: budget.steps,
        best: None,
        answers: BTreeMap::new(),
        open: BTreeMap::new(),
        seen: BTreeSet::new(),
        given_up: Cost::NEVER,
    };
    if fits_at_all(problem, search.replicas) {
        match known {
            Some(plans) => search.offer(plans.to_vec()),
            None => first::offer(&mut search),
        }
        search.run();
    }
    let cost = search.best_cost();
    Outcome {
        bound: search.given_up.min(cost),
        cost,
        steps: search.steps - search.left,
        plans: search.best.map(|(_, plans)| plans).unwrap_or_default(),
    }
}

/// Whether all memory together holds so many copies, and there are devices enough: what no division changes.
fn fits_at_all(problem: &Problem, replicas: usize) -> bool {
    let (model, topology) = (&problem.model, &problem.topology);
    let layers = model
        .layers
        .iter()
        .map(|l| u128::from(l.weight_bytes) + u128::from(l.kv_bytes));
    let output = u128::from(model.output_bytes) + u128::from(model.output_buffer_bytes);
    let fixed = topology.devices.iter().map(|d| d.fixed_bytes).min().unwrap_or(0);
    let one = layers.sum::<u128>() + output + u128::from(fixed) + u128::from(model.compute_buffer_bytes);
    let pool = |(at, pool): (usize, &topology::Pool)| {
        let devices = topology.single_devices().filter(|device| device.pool == at);
        let together: u128 = devices.map(|device| u128::from(device.usable_bytes)).sum();
        together.min(u128::from(pool.usable_bytes))
    };
    let all: u128 = topology.pools.iter().enumerate().map(pool).sum();
    let devices = topology.single_devices().count() / problem.constraints.min_devices.max(1) as usize;
    replicas <= devices && one * replicas as u128 <= all
}

/// What a stage of one replica may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Most {
    pub bytes: u64,
    pub ns: u64,
}

impl Most {
    pub(super) const ANY: Self = Self {
        bytes: u64::MAX,
        ns: u64::MAX,
    };
    /// The device is not for it.
    pub(super) const NOTHING: Self = Self { bytes: 0, ns: 0 };
}

/// What one replica may take, by the places of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Limits {
    /// At most; where a device is absent, all that is usable.
    pub most: BTreeMap<usize, Most>,
    /// From the first device it does not go to the second.
    pub closed: BTreeSet<(usize, usize)>,
}

impl Limits {
    /// These devices are not for it.
    pub(super) fn without(devices: impl IntoIterator<Item = usize>) -> Self {
        Self {
            most: devices.into_iter().map(|at| (at, Most::NOTHING)).collect(),
            closed: BTreeSet::new(),
        }
    }
}

/// One replica's answer within its limits.
#[derive(Debug)]
struct Answer {
    plan: Plan,
    cost_ns: u64,
    bound_ns: u64,
}

pub(super) struct Search<'p> {
    pub problem: &'p Problem,
    pub replicas: usize,
    pub seed: u64,
    pub steps: u64,
    left: u64,
    best: Option<(Cost, Vec<Plan>)>,
    answers: BTreeMap<Limits, Rc<Result<Answer, Infeasible>>>,
    /// Nodes not yet looked at, by their bound and the order in which they arose.
    open: BTreeMap<(Cost, usize), Vec<Limits>>,
    seen: BTreeSet<Vec<Limits>>,
    /// The least bound of what was not followed to its end.
    given_up: Cost,
}

impl Search<'_> {
    fn run(&mut self) {
        let parts = std::iter::repeat_n(0, self.replicas);
        let lowest = Cost::of_parts(self.problem, parts);
        self.push(lowest, vec![Limits::default(); self.replicas]);
        while let Some(((bound, _), node)) = self.open.pop_first() {
            if bound >= self.best_cost() {
                return;
            }
            if self.left == 0 {
                self.given_up = self.given_up.min(bound);
                return;
            }
            self.follow(bound, &node);
        }
    }

    pub(super) fn best_cost(&self) -> Cost {
        self.best.as_ref().map_or(Cost::NEVER, |(cost, _)| *cost)
    }

    pub(super) fn best(&self) -> Option<&[Plan]> {
        self.best.as_ref().map(|(_, plans)| plans.as_slice())
    }

    /// Takes plans that are better than what is known.
    pub(super) fn offer(&mut self, plans: Vec<Plan>) {
        let cost = least_cost(self.problem, &plans);
        if plans.len() == self.replicas && cost < self.best_cost() {
            self.best = Some((cost, plans));
        }
    }

    /// Steps are spent elsewhere.
    pub(super) fn spend(&mut self, steps: u64) {
        self.left = self.left.saturating_sub(steps);
    }

    fn push(&mut self, bound: Cost, mut node: Vec<Limits>) {
        node.sort();
        if !self.seen.insert(node.clone()) {
            return;
        }
        self.open.insert((bound, self.seen.len()), node);
        if self.open.len() > MAX_NODES
            && let Some(((bound, _), _)) = self.open.pop_last()
        {
            self.given_up = self.given_up.min(bound);
        }
    }

    /// Decides a node and opens those it is divided into.
    fn follow(&mut self, bound: Cost, node: &[Limits]) {
        let mut answers = Vec::with_capacity(node.len());
        for limits in node {
            let answer = self.answer(limits);
            match answer.as_ref() {
                Ok(_) => answers.push(answer),
                Err(Infeasible::Exhausted { .. }) => {
                    self.given_up = self.given_up.min(bound);
                    return;
                }
                Err(_) => return,
            }
        }
        let answers: Vec<&Answer> = answers
            .iter()
            .filter_map(|answer| answer.as_ref().as_ref().ok())
            .collect();
        let bound = bound.max(Cost::of_parts(
            self.problem,
            answers.iter().map(|answer| answer.bound_ns),
        ));
        if bound >= self.best_cost() {
            return;
        }
        let plans: Vec<Plan> = answers.iter().map(|answer| answer.plan.clone()).collect();
        if let Some(cases) = self
            .cases_of_shared(node, &plans)
            .or_else(|| self.cases_of_full(node, &plans))
            .or_else(|| self.cases_of_full_link(node, &plans))
        {
            cases.into_iter().for_each(|case| self.push(bound, case));
            if self.best.is_none() {
                self.repair(node);
            }
            return;
        }
        let relaxed = Cost::of_parts(self.problem, answers.iter().map(|answer| answer.cost_ns));
        let cost = least_cost(self.problem, &plans);
        self.offer(plans.clone());
        if cost > relaxed
            && let Some(cases) = self.cases_of_busy(node, &plans)
        {
            cases.into_iter().for_each(|case| self.push(bound, case));
            // What breaks a rate is no answer; what only slows down may be the best there is.
            if cost < Cost::NEVER {
                self.given_up = self.given_up.min(bound);
            }
        } else if cost > bound {
            self.given_up = self.given_up.min(bound);
        }
    }

    /// One replica within its limits.
    fn answer(&mut self, limits: &Limits) -> Rc<Result<Answer, Infeasible>> {
        if let Some(known) = self.answers.get(limits) {
            return known.clone();
        }
        let answer = Rc::new(
            self.decide(self.problem, limits, (self.steps / 8).max(LEAST_STEPS))
                .map(
                    |Single {
                         plan,
                         cost_ns,
                         bound_ns,
                         ..
                     }| Answer {
                        plan,
                        cost_ns,
                        bound_ns,
                    },
                ),
        );
        self.answers.insert(limits.clone(), answer.clone());
        answer
    }

    /// One replica of a problem, within limits and at most so many steps.
    pub(super) fn decide(&mut self, problem: &Problem, limits: &Limits, steps: u64) -> Result<Single, Infeasible> {
        let budget = Budget {
            steps: steps.min(self.left),
            seed: self.seed,
        };
        let devices = problem.topology.devices.len() as u64;
        // Two figures of each device, and a way between every two that are looked at.
        self.spend(STEPS_TO_BEGIN + 2 * devices + devices.min(MAX_CANDIDATES as u64).pow(2));
        let decided = if *limits == Limits::default() {
            single(problem, &Within::default(), budget)
        } else {
            let (own, within) = limited(problem, limits);
            single(&own, &within, budget)
        };
        self.spend(match &decided {
            Ok(single) => single.steps,
            Err(Infeasible::Exhausted { steps }) => *steps,
            Err(_) => 0,
        });
        decided
    }

    /// One replica after the other, each within the limits of the node beside those before it.
    fn repair(&mut self, node: &[Limits]) {
        let mut plans: Vec<Plan> = Vec::new();
        for limits in node {
            // Indices of devices are those of the whole problem, so devices stay and are closed.
            let taken = used(self.problem, &plans);
            let mut limits = limits.clone();
            let devices = self.problem.topology.devices.iter().enumerate();
            let closed = devices.filter(|(_, device)| is_used(device, &taken));
            limits.most.extend(closed.map(|(at, _)| (at, Most::NOTHING)));
            let mut rest = self.problem.clone();
            take(&mut rest, &plans);
            match self.decide(&rest, &limits, LEAST_STEPS) {
                Ok(single) => plans.push(single.plan),
                Err(_) => return,
            }
        }
        self.offer(plans);
    }

    fn at(&self, name: &str) -> Option<usize> {
        self.problem
            .topology
            .devices
            .iter()
            .position(|device| device.name == name)
    }

    /// The cases of a device that several plans use.
    fn cases_of_shared(&self, node: &[Limits], plans: &[Plan]) -> Option<Vec<Vec<Limits>>> {
        let topology = &self.problem.topology;
        let mut users: BTreeMap<&str, usize> = BTreeMap::new();
        let stages = plans.iter().flat_map(|plan| &plan.stages);
        for device in stages.filter_map(|stage| topology.device(&stage.device)) {
            for part in device.parts() {
                *users.entry(part).or_default() += 1;
            }
        }
        // What most of them want decides the most.
        let (name, _) = users
            .iter()
            .filter(|(_, count)| **count > 1)
            .max_by_key(|(name, count)| (**count, std::cmp::Reverse(**name)))?;
        let devices = topology.devices.iter().enumerate();
        let with_it = devices.filter(|(_, device)| device.parts().any(|part| part == *name));
        let with_it: Vec<usize> = with_it.map(|(at, _)| at).collect();
        Some(cases_of_one(node, &with_it))
    }

    /// The cases of a pool that is too small for all stages in it.
    fn cases_of_full(&self, node: &[Limits], plans: &[Plan]) -> Option<Vec<Vec<Limits>>> {
        let pools = self.problem.topology.pools.iter().enumerate();
        pools.into_iter().find_map(|(pool, Pool { usable_bytes, .. })| {
            let shares = self.shares(plans, pool, Taken::Bytes);
            cases_of_less(node, &shares, *usable_bytes, |most| &mut most.bytes)
        })
    }

    /// The cases of a link over which plans go more often than it carries.
    fn cases_of_full_link(&self, node: &[Limits], plans: &[Plan]) -> Option<Vec<Vec<Limits>>> {
        let hops = links::overfull(self.problem, plans)?;
        let case = |(of, stage): &(usize, usize)| {
            let stages = plans[*of].stages.get(*stage..)?;
            let [from, to, ..] = stages else { return None };
            let mut case = node.to_vec();
            case[*of].closed.insert((self.at(&from.device)?, self.at(&to.device)?));
            Some(case)
        };
        hops.iter().map(case).collect()
    }

    /// The cases of a pool in which several replicas work, for longer than the rate allows or than one of them by itself: it works
    /// less.
    fn cases_of_busy(&self, node: &[Limits], plans: &[Plan]) -> Option<Vec<Vec<Limits>>> {
        let in_several = |pool: &usize| plans.iter().filter(|plan| is_in(self.problem, plan, *pool)).count() > 1;
        let shared = (0..self.problem.topology.pools.len()).filter(in_several);
        let (load_ns, _, shares) = shared
            .map(|pool| {
                let shares = self.shares(plans, pool, Taken::Time);
                (sum(&shares), std::cmp::Reverse(pool), shares)
            })
            .max_by_key(|(load_ns, pool, _)| (*load_ns, *pool))?;
        let cap_ns = self.problem.constraints.cap_ns().unwrap_or(u64::MAX);
        cases_of_less(node, &shares, cap_ns.min(load_ns.saturating_sub(1)), |most| {
            &mut most.ns
        })
    }

    /// The stages in a pool.
    fn shares(&self, plans: &[Plan], pool: usize, taken: Taken) -> Vec<Share> {
        let numbered = plans.iter().enumerate();
        let stages = numbered.flat_map(|(of, plan)| plan.stages.iter().map(move |stage| (of, stage)));
        stages
            .filter_map(|(of, stage)| self.share(of, stage, pool, taken))
            .collect()
    }

    /// What a stage takes of a pool; `None` if it is not there. Of its memory each part of its device has the same, in time all work
    /// alike.
    fn share(&self, of: usize, stage: &Stage, pool: usize, taken: Taken) -> Option<Share> {
        let at = self.at(&stage.device)?;
        let device = &self.problem.topology.devices[at];
        let (_, parts_there) = device.pools().find(|(other, _)| *other == pool)?;
        let parts = device.size() as u64;
        Some(match taken {
            Taken::Bytes => Share {
                of,
                at,
                amount: stage.memory_bytes.div_ceil(parts).saturating_mul(parts_there),
                parts,
                parts_there,
            },
            Taken::Time => Share {
                of,
                at,
                amount: stage.time_ns,
                parts: 1,
                parts_there: 1,
            },
        })
    }
}

/// The problem of one replica within its limits, and what of these is by the places of devices in it.
fn limited(problem: &Problem, limits: &Limits) -> (Problem, Within) {
    let mut own = problem.clone();
    let mut within = Within::default();
    let mut places = BTreeMap::new();
    own.topology.devices.clear();
    for (at, device) in problem.topology.devices.iter().enumerate() {
        let most = limits.most.get(&at).copied().unwrap_or(Most::ANY);
        if most.bytes == 0 || most.ns == 0 {
            continue;
        }
        let place = own.topology.devices.len();
        places.insert(at, place);
        within.most_ns.insert(place, most.ns);
        own.topology.devices.push(Device {
            usable_bytes: device.usable_bytes.min(most.bytes),
            ..device.clone()
        });
    }
    let place = |at: &usize| places.get(at).copied();
    let closed = limits.closed.iter();
    within.closed = closed
        .filter_map(|(from, to)| Some((place(from)?, place(to)?)))
        .collect();
    (own, within)
}
