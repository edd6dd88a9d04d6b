//! Constraints that are lifted to see whether they matter.

use crate::{Problem, Toleration, links::Carrying, solve::is_feasible};

/// Steps of the search for each "and what if" that is asked.
pub(super) const STEPS_PER_QUESTION: u64 = 20_000;

/// Memory that is as good as endless, and far from overflow when added up.
pub(super) const ENDLESS_BYTES: u64 = 1 << 55;

/// A constraint that can be lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifted {
    Memory,
    MaxDevices,
    MinDevices,
    Rate,
    Pin(usize),
    LinkShare,
    Traffic,
    Vendors,
    NodeSelector,
    TokenNodes,
    Software,
    Taints,
    GroupSize,
}

impl Lifted {
    /// Those that a problem has, memory aside.
    pub(super) fn all(problem: &Problem) -> Vec<Self> {
        let constraints = &problem.constraints;
        let devices = &problem.topology.devices;
        let pins = (0..constraints.pinned_layers.len()).map(Self::Pin);
        let is_tainted = devices.iter().any(|device| constraints.untolerated(device).is_some());
        let is_software = |device: &topology::Device| device.kind == topology::Kind::Software;
        [
            (constraints.max_devices.is_some(), Self::MaxDevices),
            (constraints.min_devices > 1, Self::MinDevices),
            (constraints.min_tokens_per_second.is_some(), Self::Rate),
        ]
        .into_iter()
        .chain(pins.map(|pin| (true, pin)))
        .chain([
            (constraints.max_link_percent.is_some(), Self::LinkShare),
            (
                !problem.topology.traffic.is_empty() && Carrying::new(problem).is_limited(),
                Self::Traffic,
            ),
            (!constraints.vendors.is_empty(), Self::Vendors),
            (!constraints.node_selector.is_empty(), Self::NodeSelector),
            (!constraints.token_node_selector.is_empty(), Self::TokenNodes),
            (
                !constraints.allow_software_devices && devices.iter().any(is_software),
                Self::Software,
            ),
            (is_tainted, Self::Taints),
            (
                devices.iter().any(|device| !constraints.may_group(device)),
                Self::GroupSize,
            ),
        ])
        .filter_map(|(is_there, lifted)| is_there.then_some(lifted))
        .collect()
    }

    fn lift(self, eased: &mut Problem) {
        let constraints = &mut eased.constraints;
        match self {
            Self::Memory => add_memory(eased, ENDLESS_BYTES),
            Self::MaxDevices => constraints.max_devices = None,
            Self::MinDevices => constraints.min_devices = 1,
            Self::Rate => constraints.min_tokens_per_second = None,
            Self::LinkShare => constraints.max_link_percent = None,
            Self::Traffic => eased.topology.traffic.clear(),
            Self::Vendors => constraints.vendors.clear(),
            Self::NodeSelector => constraints.node_selector.clear(),
            Self::TokenNodes => constraints.token_node_selector.clear(),
            Self::Software => constraints.allow_software_devices = true,
            Self::Taints => constraints.tolerations.push(Toleration {
                exists: true,
                ..Toleration::default()
            }),
            Self::GroupSize => constraints.max_group_devices = u32::MAX,
            Self::Pin(pin) => {
                if let Some(pin) = constraints.pinned_layers.get_mut(pin) {
                    (pin.min_layers, pin.max_layers) = (0, None);
                }
            }
        }
    }

    /// As the API writes it.
    pub(super) fn name(self, problem: &Problem) -> String {
        let constraints = &problem.constraints;
        match self {
            Self::Memory => "the memory of the devices".to_owned(),
            Self::MaxDevices => format!("maxDevices {}", constraints.max_devices.unwrap_or(u32::MAX)),
            Self::MinDevices => format!("minDevices {}", constraints.min_devices),
            Self::Rate => format!("minTokensPerSecond {}", constraints.min_tokens_per_second.unwrap_or(0)),
            Self::LinkShare => format!("maxLinkPercent {}", constraints.max_link_percent.unwrap_or(100)),
            Self::Traffic => "what placed pipelines put on links".to_owned(),
            Self::Vendors => "vendors".to_owned(),
            Self::NodeSelector => "nodeSelector".to_owned(),
            Self::TokenNodes => "tokenNodeSelector".to_owned(),
            Self::Software => "allowSoftwareDevices false".to_owned(),
            Self::Taints => "taints that tolerations does not list".to_owned(),
            Self::GroupSize => format!("maxGroupDevices {}", constraints.max_group_devices),
            Self::Pin(pin) => match constraints.pinned_layers.get(pin) {
                Some(wanted) => format!("pinnedLayers[{pin}] ({wanted})"),
                None => format!("pinnedLayers[{pin}]"),
            },
        }
    }
}

impl Lifted {
    /// What to change, as it follows "it would fit".
    pub(super) fn change(self, problem: &Problem) -> String {
        match self {
            Self::Software => "with allowSoftwareDevices true".to_owned(),
            Self::Taints => "with a toleration of every taint".to_owned(),
            Self::GroupSize => {
                let sizes = problem.topology.devices.iter().map(topology::Device::size);
                format!("with maxGroupDevices {}", sizes.max().unwrap_or(1))
            }
            _ => format!("without {}", self.name(problem)),
        }
    }
}

/// Lifts constraints as long as the rest still clash: what remains is needed for the clash, every part of it.
pub(super) fn smallest_clash(problem: &Problem) -> Vec<Lifted> {
    let mut lifted: Vec<Lifted> = Vec::new();
    let mut kept: Vec<Lifted> = Vec::new();
    for constraint in [Lifted::Memory].into_iter().chain(Lifted::all(problem)) {
        lifted.push(constraint);
        if feasible_without(problem, &lifted) {
            lifted.pop();
            kept.push(constraint);
        }
    }
    kept
}

/// Whether there is a plan without these; what is not found soon counts as none.
pub(super) fn feasible_without(problem: &Problem, lifted: &[Lifted]) -> bool {
    let mut eased = problem.clone();
    lifted.iter().for_each(|constraint| constraint.lift(&mut eased));
    has_plan(&eased)
}

/// Whether a plan is found soon.
pub(super) fn has_plan(problem: &Problem) -> bool {
    is_feasible(problem, STEPS_PER_QUESTION)
}

/// More memory on every device; a pool grows by as much for each of its devices, and a group for each of its members.
pub(super) fn add_memory(problem: &mut Problem, bytes: u64) {
    for at in 0..problem.topology.devices.len() {
        let device = &mut problem.topology.devices[at];
        if device.is_group() {
            let of_members = bytes.saturating_mul(device.size() as u64);
            device.usable_bytes = device.usable_bytes.saturating_add(of_members);
        } else {
            add_memory_on(problem, at, bytes);
        }
    }
}

/// More memory on one device, and in its pool. Groups gain nothing: their members have as much as the smallest.
pub(super) fn add_memory_on(problem: &mut Problem, device: usize, bytes: u64) {
    let device = &mut problem.topology.devices[device];
    device.usable_bytes = device.usable_bytes.saturating_add(bytes);
    if let Some(pool) = problem.topology.pools.get_mut(device.pool) {
        pool.usable_bytes = pool.usable_bytes.saturating_add(bytes);
    }
}
