//! The words that health is told in.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What would mend a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// Nothing, or nothing that is known.
    None,
    /// Start what computes on it again.
    RestartShard,
    /// Reset the card.
    ResetDevice,
    /// Restart the node.
    RebootNode,
    /// Have its maker look at it.
    ContactSupport,
}

/// What is wrong with a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// One CamelCase word for conditions, events and metrics: `FellOffBus`, `UncorrectableEcc`, `ProbeHung`,
    /// `DriverMismatch`, `SelfTestFailed`, `DeviceLost`, `Gone`, `ApplicationFaults`, `UnknownXid`; else as in
    /// [`crate::xid`]'s table.
    pub reason: String,
    /// For a person; at most [`Fault::MESSAGE_LIMIT_BYTES`] long, without control characters.
    pub message: String,
    /// What would mend it.
    pub action: Action,
    /// NVIDIA's number, where the fault was told by one; the message has it not, so that whoever shows both says it once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<u32>,
}

impl Fault {
    /// Of [`Fault::message`].
    pub const MESSAGE_LIMIT_BYTES: usize = 512;

    /// A fault without a number.
    pub fn new(reason: &str, message: impl AsRef<str>, action: Action) -> Self {
        Self {
            reason: reason.to_owned(),
            message: tidy(message.as_ref()),
            action,
            xid: None,
        }
    }

    pub(super) fn with_xid(mut self, xid: u32) -> Self {
        self.xid = Some(xid);
        self
    }
}

/// For a person who knows which device it is about.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.reason)?;
        if let Some(xid) = self.xid {
            write!(f, "Xid {xid}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// What a fault says of what the device computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gravity {
    /// Whatever it still computes is right.
    Stops,
    /// It may compute what is wrong, and tell nobody.
    Spoils,
    /// The same, and a short verification may miss it: nothing but a reset mends it.
    SpoilsUntilReset,
}

/// One thing seen of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A verification passed.
    Verified,
    /// A verification was answered wrongly.
    VerificationFailed {
        /// What differed.
        reason: String,
    },
    /// A verification could not be made. Nothing follows for a device that was verified before.
    CouldNotMeasure {
        /// Why not.
        reason: String,
    },
    /// NVIDIA's driver told an event of this very device.
    Xid {
        /// Its number.
        xid: u32,
        /// What it says beside its number; may be empty.
        text: String,
    },
    /// An event that does not say of which device. It condemns none; each device is to be verified again.
    UnplacedEvent {
        /// The message, as found.
        text: String,
    },
    /// The driver has lost the device, or a context on it beyond repair. It may come back by itself.
    Lost {
        /// What the driver said.
        reason: String,
    },
    /// The driver gives no readings of the device any more, and does not say that it is lost. What computes there may well go on: inside
    /// containers the management library alone is at times cut off.
    Unread {
        /// What the driver said.
        reason: String,
    },
    /// The device left the bus, told otherwise than by Xid 79 (`NVML_ERROR_GPU_IS_LOST`).
    FellOffBus {
        /// What the driver said.
        reason: String,
    },
    /// Memory lost what was in it, told otherwise than by an Xid. It waits for a reset, which some drivers make at once.
    UncorrectedMemory {
        /// What the driver said.
        reason: String,
    },
    /// The driver took down the process that asked about this device alone, while it answered about a neighbour.
    ProbeCrashed {
        /// How the process ended.
        reason: String,
    },
    /// The driver did not answer in time.
    ProbeHung,
    /// The library and the kernel's driver are of different versions, or one has vanished.
    DriverMismatch {
        /// What the driver said.
        reason: String,
    },
    /// The device is not listed any more.
    Gone,
    /// A sensor gave what cannot be believed.
    SensorInvalid {
        /// What it said.
        reason: String,
    },
    /// All sensors gave what can be believed.
    SensorFine,
    /// The memory errors mended so far.
    EccCorrected {
        /// Since the driver was loaded.
        total: u64,
    },
    /// The node's boot id, told at the agent's start before anything else.
    Booted {
        /// `/proc/sys/kernel/random/boot_id`.
        boot_id: String,
    },
    /// The card was reset.
    Reset,
}

/// What placement must know. Only a device that is [`Standing::Ready`] gets new layers. [`Standing::Unproven`] keeps
/// those that it has; from all others they are moved away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "camelCase")]
pub enum Standing {
    /// Not verified yet, or not to be read since a while.
    Unproven {
        /// For a person.
        reason: String,
    },
    /// In order.
    Ready,
    /// In trouble.
    Failed {
        /// Which.
        fault: Fault,
    },
    /// It passed a verification since, and is watched.
    Recovering {
        /// What it recovers from.
        fault: Fault,
        /// When it is ready if nothing happens, in the caller's time.
        #[serde(rename = "readyAtMs")]
        ready_at_ms: u64,
    },
    /// It failed again and again, and is left alone for a while.
    HeldDown {
        /// The last one.
        fault: Fault,
        /// The end of it, in the caller's time; a passed verification and [`super::STABLE_MS`] come on top.
        #[serde(rename = "untilMs")]
        until_ms: u64,
    },
}

/// What an observation changed, told once: for events, counters and the restart of shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Verified for the first time since the agent's start.
    Proven,
    /// It had been in order, or was recovering: layers must go.
    Failed {
        /// Why.
        fault: Fault,
        /// How often it has failed again since it last was calm.
        relapses: u32,
    },
    /// It passed a verification and is watched until then, in the caller's time.
    Passed {
        /// When it is ready if nothing happens.
        ready_at_ms: u64,
    },
    /// It is ready again. Told at the first observation after the time has come.
    Recovered {
        /// From what.
        fault: Fault,
    },
    /// What computes on it must be started again; the device itself stays in use.
    RestartShards {
        /// Why.
        fault: Fault,
    },
    /// A person should know; nothing else follows.
    Noted {
        /// What.
        fault: Fault,
    },
}

/// Drivers' words are not to be trusted: control characters become spaces, and what is too long is cut.
pub(super) fn tidy(text: &str) -> String {
    let mut tidy = String::new();
    for character in text.chars() {
        if tidy.len() + character.len_utf8() > Fault::MESSAGE_LIMIT_BYTES {
            break;
        }
        tidy.push(if character.is_control() { ' ' } else { character });
    }
    tidy
}

/// What is known of a fault, and what was said of this one.
pub(super) fn joined(known: &str, said: &str) -> String {
    if said.is_empty() {
        known.to_owned()
    } else {
        format!("{known}: {said}")
    }
}

/// The fault that an observation is by itself.
pub(super) fn of(seen: &Observation) -> Option<(Fault, Gravity)> {
    let fault = match seen {
        Observation::VerificationFailed { reason } | Observation::ProbeCrashed { reason } => {
            Fault::new("SelfTestFailed", reason, Action::ResetDevice)
        }
        Observation::Lost { reason } | Observation::Unread { reason } => {
            Fault::new("DeviceLost", reason, Action::ResetDevice)
        }
        Observation::FellOffBus { reason } => Fault::new("FellOffBus", reason, Action::RebootNode),
        Observation::UncorrectedMemory { reason } => Fault::new("UncorrectableEcc", reason, Action::ResetDevice),
        Observation::ProbeHung => Fault::new(
            "ProbeHung",
            "its driver did not answer in time; look for its lines in the kernel's log",
            Action::RebootNode,
        ),
        Observation::DriverMismatch { reason } => Fault::new("DriverMismatch", reason, Action::RebootNode),
        Observation::Gone => Fault::new("Gone", "it is not listed any more", Action::None),
        _ => return None,
    };
    let gravity = match seen {
        Observation::FellOffBus { .. } | Observation::UncorrectedMemory { .. } => Gravity::SpoilsUntilReset,
        Observation::VerificationFailed { .. } | Observation::Lost { .. } => Gravity::Spoils,
        _ => Gravity::Stops,
    };
    Some((fault, gravity))
}
