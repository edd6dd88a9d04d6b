//! How many hops a link carries: those of a plan, of all replicas, and what placed pipelines put on it add up. A link is a direction
//! between two nodes, or what the devices of one node share.
//!
//! Two things limit it. At the rate that is asked for, no more of the link may be used than the model allows: without a rate there is
//! nothing to limit. And models that come before this one leave only so much to others ([`Traffic::leaves_bytes_per_second`]): there a
//! hop counts with what others will see of it, which is one stream's pace where that is above the rate. It is not known before the plan
//! is; so it is the best pace that any plan with this hop could have, and no plan puts more there.
//!
//! Everything is bytes a second, so that sums are exact.

use std::collections::BTreeMap;

use topology::{Device, Traffic};

use crate::{
    Plan, Problem,
    cost::{transfer_ns, us_to_ns},
    domain::eligible,
};

/// What may go over a link by one of its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room<'p> {
    /// What one hop takes of it.
    pub hop_bytes_per_second: u64,
    /// What all may take together; of another's leave: all others.
    pub allowed_bytes_per_second: u64,
    /// Of that, what is not taken.
    pub left_bytes_per_second: u64,
    /// Who leaves no more; `None`: it is what the model itself allows.
    pub beside: Option<&'p str>,
}

impl Room<'_> {
    /// How many hops there is room for.
    pub(crate) fn hops(&self) -> usize {
        let hops = self.left_bytes_per_second.checked_div(self.hop_bytes_per_second);
        hops.map_or(usize::MAX, |hops| usize::try_from(hops).unwrap_or(usize::MAX))
    }
}

/// What links carry of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carrying<'p> {
    problem: &'p Problem,
    /// Of one hop, at the rate that is asked for; `None` without one.
    asked_bytes_per_second: Option<u64>,
    /// No token of a plan with a hop takes less, its hops aside; `None` where nobody comes before the model.
    quickest_ns: Option<u64>,
}

impl<'p> Carrying<'p> {
    pub(crate) fn new(problem: &'p Problem) -> Self {
        let mut traffic = problem.topology.traffic.iter();
        let is_left = traffic.any(|traffic| traffic.leaves_bytes_per_second.is_some());
        let activation_bytes = problem.model.activation_bytes;
        let rate = problem.constraints.min_tokens_per_second;
        Self {
            problem,
            asked_bytes_per_second: rate.map(|tokens| activation_bytes.saturating_mul(tokens.into())),
            quickest_ns: is_left.then(|| quickest_ns(problem)),
        }
    }

    /// Whether there is a limit on any link.
    pub(crate) fn is_limited(&self) -> bool {
        self.asked_bytes_per_second.is_some() || self.quickest_ns.is_some()
    }

    /// How many hops a link carries beside what placed pipelines put on it.
    pub(crate) fn most_hops(&self, from_node: &str, to_node: &str) -> usize {
        self.tightest(from_node, to_node).map_or(usize::MAX, |room| room.hops())
    }

    /// The limit that leaves room for the fewest hops; of equals the model's own.
    pub(crate) fn tightest<'l>(&'l self, from_node: &'l str, to_node: &'l str) -> Option<Room<'l>> {
        let topology = &self.problem.topology;
        let on_link = || topology.traffic_on(from_node, to_node);
        let taken = on_link().fold(0, |sum: u64, traffic| sum.saturating_add(traffic.bytes_per_second));
        let own = self.asked_bytes_per_second.map(|hop_bytes_per_second| {
            let allowed_bytes_per_second = self.allowed_bytes_per_second(from_node, to_node);
            Room {
                hop_bytes_per_second,
                allowed_bytes_per_second,
                left_bytes_per_second: allowed_bytes_per_second.saturating_sub(taken),
                beside: None,
            }
        });
        let left = on_link().filter_map(|traffic| {
            let allowed_bytes_per_second = traffic.leaves_bytes_per_second?;
            let others = taken.saturating_sub(traffic.bytes_per_second);
            Some(Room {
                hop_bytes_per_second: self.most_bytes_per_second(from_node, to_node),
                allowed_bytes_per_second,
                left_bytes_per_second: allowed_bytes_per_second.saturating_sub(others),
                beside: Some(&traffic.by),
            })
        });
        own.into_iter().chain(left).min_by_key(Room::hops)
    }

    /// What all may put on a link together at the rate that is asked for.
    fn allowed_bytes_per_second(&self, from_node: &str, to_node: &str) -> u64 {
        let rate = self.problem.topology.link(from_node, to_node).rate.bytes_per_second;
        let percent = u128::from(self.problem.constraints.max_link_percent.unwrap_or(100).min(100));
        u64::try_from(u128::from(rate) * percent / 100).unwrap_or(rate)
    }

    /// What others see of one hop at most: it is there at the rate asked for, or at one stream's best pace if that is more.
    fn most_bytes_per_second(&self, from_node: &str, to_node: &str) -> u64 {
        let (topology, activation_bytes) = (&self.problem.topology, self.problem.model.activation_bytes);
        let (there, back) = (topology.link(from_node, to_node), topology.link(to_node, from_node));
        let carry_ns = transfer_ns(activation_bytes, there.rate.bytes_per_second);
        let hop_ns = us_to_ns(there.latency_us) + us_to_ns(back.latency_us) + carry_ns;
        let token_ns = self.quickest_ns.unwrap_or(0).saturating_add(hop_ns).max(1);
        let streamed = activation_bytes.saturating_mul(1_000_000_000_u64.div_ceil(token_ns));
        streamed.max(self.asked_bytes_per_second.unwrap_or(0))
    }
}

/// What may not be given away of a link for one hop of the model, whatever plan it will be part of; `None` where nobody comes before the
/// model: then the plan itself says what it puts there.
pub fn reserved_bytes_per_second(problem: &Problem, from_node: &str, to_node: &str) -> Option<u64> {
    let carrying = Carrying::new(problem);
    carrying.quickest_ns?;
    Some(carrying.most_bytes_per_second(from_node, to_node))
}

/// All layers on the fastest of what two devices are.
fn quickest_ns(problem: &Problem) -> u64 {
    let model = &problem.model;
    let devices = eligible(problem).into_iter();
    let devices: Vec<&Device> = devices.map(|device| &problem.topology.devices[device]).collect();
    let rate = devices.iter().map(|device| device.bandwidth.bytes_per_second).max();
    let launch_ns = devices.iter().map(|device| us_to_ns(device.launch_us)).min();
    let layer_ns = devices.iter().map(|device| device.layer_ns()).min();
    let bytes = model
        .layers
        .iter()
        .map(|layer| layer.active_bytes.saturating_add(layer.kv_read_bytes))
        .fold(model.output_bytes, u64::saturating_add);
    let layers = model.layers.len() as u64;
    transfer_ns(bytes, rate.unwrap_or(0))
        .saturating_add(launch_ns.unwrap_or(0).saturating_mul(2))
        .saturating_add(layer_ns.unwrap_or(0).saturating_mul(layers))
}

/// A way from a device to the next, by the nodes it joins.
pub(crate) type Link<'p> = (&'p str, &'p str);

/// The hops of plans over each link: whose, and from which stage on.
pub(crate) fn hops_over(plans: &[Plan]) -> BTreeMap<Link<'_>, Vec<(usize, usize)>> {
    let mut over: BTreeMap<Link<'_>, Vec<(usize, usize)>> = BTreeMap::new();
    for (of, plan) in plans.iter().enumerate() {
        for (stage, pair) in plan.stages.windows(2).enumerate() {
            if let [from, to] = pair {
                over.entry((&from.node, &to.node)).or_default().push((of, stage));
            }
        }
    }
    over
}

/// The first link that carries fewer hops than plans have there, with one hop more than it carries.
pub(crate) fn overfull(problem: &Problem, plans: &[Plan]) -> Option<Vec<(usize, usize)>> {
    let carrying = Carrying::new(problem);
    if !carrying.is_limited() {
        return None;
    }
    hops_over(plans).into_iter().find_map(|((from, to), mut hops)| {
        let most = carrying.most_hops(from, to);
        hops.truncate(most.saturating_add(1));
        (hops.len() > most).then_some(hops)
    })
}

/// What plans put on links is gone for further ones of the same model.
pub(crate) fn take(problem: &mut Problem, plans: &[Plan]) {
    let carrying = Carrying::new(problem);
    if !carrying.is_limited() {
        return;
    }
    let asked = carrying.asked_bytes_per_second.unwrap_or(0);
    let taken = hops_over(plans).into_iter().map(|((from, to), hops)| {
        let hops = hops.len() as u64;
        let most = carrying.most_bytes_per_second(from, to);
        let own = Traffic {
            from_node: from.to_owned(),
            to_node: to.to_owned(),
            bytes_per_second: asked.saturating_mul(hops),
            by: "another replica".to_owned(),
            leaves_bytes_per_second: None,
        };
        (own, most.saturating_sub(asked).saturating_mul(hops))
    });
    let taken: Vec<(Traffic, u64)> = taken.collect();
    for (own, beyond_bytes_per_second) in taken {
        problem.topology.put(own, beyond_bytes_per_second);
    }
}
