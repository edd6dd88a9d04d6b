//! What can be wrong with a plan, and how it is said.

use std::fmt;

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    NoStages,
    /// A stage holds nothing, or does not begin where the one before it ended.
    Gap {
        stage: usize,
        expected_first: u32,
        first_layer: u32,
        end_layer: u32,
    },
    LayersMissing {
        end_layer: u32,
        layers: u32,
    },
    CutNotAllowed {
        stage: usize,
        layer: u32,
    },
    UnknownDevice {
        stage: usize,
        device: String,
    },
    /// Node or backend are not those of the device.
    WrongIdentity {
        stage: usize,
        device: String,
    },
    DeviceTwice {
        device: String,
    },
    /// More devices work as one than `maxGroupDevices` allows.
    GroupTooLarge {
        device: String,
        members: usize,
        max: u32,
    },
    /// Nobody measured what these devices do as one.
    GroupNotMeasured {
        device: String,
    },
    /// Another stage of the plan is in a memory pool of devices that work as one.
    PoolShared {
        pool: String,
        device: String,
    },
    TooFewDevices {
        min: u32,
        used: u32,
    },
    TooManyDevices {
        max: u32,
        used: u32,
    },
    SoftwareNotAllowed {
        device: String,
    },
    VendorNotListed {
        device: String,
        vendor: String,
    },
    NodeNotSelected {
        device: String,
        node: String,
    },
    TaintNotTolerated {
        device: String,
        taint: String,
    },
    PinBroken {
        pin: usize,
        layers: u32,
    },
    DeviceMemory {
        device: String,
        needed_bytes: u128,
        usable_bytes: u64,
    },
    PoolMemory {
        pool: String,
        needed_bytes: u128,
        usable_bytes: u64,
    },
    /// The memory that a stage is said to take is not what the problem gives.
    StageMemory {
        stage: usize,
        said: u64,
        is: u128,
    },
    /// The slowest part is slower than `minTokensPerSecond` allows.
    TooSlow {
        slowest_ns: u128,
        cap_ns: u64,
    },
    /// The first or the last stage is where tokens must not be seen.
    TokensNotAllowed {
        device: String,
        node: String,
    },
    /// Hops take more of their link, beside what placed pipelines put on it, than `maxLinkPercent` allows, or than one of these leaves.
    LinkOverused {
        from: String,
        to: String,
        hops: u128,
        own_bytes_per_second: u128,
        others_bytes_per_second: u128,
        allowed_bytes_per_second: u128,
    },
    /// Several replicas use it.
    DeviceShared {
        device: String,
    },
    /// Another figure of the plan is not what the problem gives.
    WrongFigure {
        what: String,
        said: u128,
        is: u128,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStages => f.write_str("the plan has no stages"),
            Self::Gap {
                stage,
                expected_first,
                first_layer,
                end_layer,
            } => {
                write!(
                    f,
                    "stage {stage} holds [{first_layer}, {end_layer}) and must begin at {expected_first}"
                )
            }
            Self::LayersMissing { end_layer, layers } => {
                write!(f, "the stages end at layer {end_layer} of {layers}")
            }
            Self::CutNotAllowed { stage, layer } => {
                write!(
                    f,
                    "stage {stage} begins at layer {layer}, where the model must not be cut"
                )
            }
            Self::UnknownDevice { stage, device } => write!(f, "stage {stage} is on {device}, which takes no layers"),
            Self::WrongIdentity { stage, device } => {
                write!(f, "stage {stage} names another node or backend than {device} has")
            }
            Self::TokensNotAllowed { device, node } => write!(
                f,
                "{device} holds the first or the last stage and is on node {node}, which tokenNodeSelector does not select"
            ),
            Self::LinkOverused {
                from,
                to,
                hops,
                own_bytes_per_second,
                others_bytes_per_second,
                allowed_bytes_per_second,
            } => write!(
                f,
                "{hops} hops put {own_bytes_per_second} bytes a second on the link {from} -> {to}, placed pipelines \
                 {others_bytes_per_second}, and {allowed_bytes_per_second} are allowed"
            ),
            _ => self.of_constraints(f),
        }
    }
}

impl Violation {
    /// Of constraints, memory and figures.
    fn of_constraints(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeviceShared { device } => write!(f, "{device} holds stages of several replicas"),
            Self::DeviceTwice { device } => write!(f, "{device} holds two stages"),
            Self::TooFewDevices { min, used } => write!(f, "{used} devices are used and minDevices is {min}"),
            Self::TooManyDevices { max, used } => write!(f, "{used} devices are used and maxDevices is {max}"),
            Self::SoftwareNotAllowed { device } => {
                write!(f, "{device} is software and allowSoftwareDevices is false")
            }
            Self::VendorNotListed { device, vendor } => {
                write!(f, "{device} is of vendor {vendor}, which vendors does not list")
            }
            Self::NodeNotSelected { device, node } => {
                write!(f, "{device} is on node {node}, which nodeSelector does not select")
            }
            Self::TaintNotTolerated { device, taint } => {
                write!(f, "{device} is tainted {taint}, which tolerations does not list")
            }
            Self::PinBroken { pin, layers } => write!(f, "pinnedLayers[{pin}] is given {layers} layers"),
            Self::DeviceMemory {
                device,
                needed_bytes,
                usable_bytes,
            } => {
                write!(
                    f,
                    "{device} is given {needed_bytes} bytes and {usable_bytes} are usable"
                )
            }
            Self::PoolMemory {
                pool,
                needed_bytes,
                usable_bytes,
            } => {
                write!(
                    f,
                    "memory pool {pool} is given {needed_bytes} bytes and {usable_bytes} are usable"
                )
            }
            Self::StageMemory { stage, said, is } => {
                write!(f, "memory of stage {stage} is said to be {said} bytes and is {is}")
            }
            Self::TooSlow { slowest_ns, cap_ns } => write!(
                f,
                "the slowest part takes {slowest_ns} ns and minTokensPerSecond allows {cap_ns} ns"
            ),
            Self::WrongFigure { what, said, is } => write!(f, "{what} is said to be {said} and is {is}"),
            _ => self.of_groups(f),
        }
    }

    /// Of devices that work as one.
    fn of_groups(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GroupTooLarge { device, members, max } => {
                write!(f, "{device} are {members} devices and maxGroupDevices is {max}")
            }
            Self::GroupNotMeasured { device } => write!(f, "nobody measured what {device} do as one"),
            Self::PoolShared { pool, device } => {
                write!(
                    f,
                    "another stage is in memory pool {pool}, which {device} must have for themselves"
                )
            }
            _ => f.write_str("the plan is not valid"),
        }
    }
}
