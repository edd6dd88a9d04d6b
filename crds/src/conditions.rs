//! Condition types and reasons, and the one way to set a condition.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Status of a condition, as Kubernetes writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    True,
    False,
    /// Not decided yet, or the one who would know is gone.
    Unknown,
}

impl ConditionStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Condition types of an InferenceModel.
pub mod model {
    /// The source was read: facts and digests are known.
    pub const RESOLVED: &str = "Resolved";
    /// A placement is in force for this generation.
    pub const PLACED: &str = "Placed";
    /// Every stage of the placement holds its weights.
    pub const LOADED: &str = "Loaded";
    /// Requests are answered.
    pub const READY: &str = "Ready";
    /// Requests are answered, or would be, on less than was asked for.
    pub const DEGRADED: &str = "Degraded";
    /// The loss of any one node is survived, and what it takes is on the disks of others.
    pub const RECOVERY_READY: &str = "RecoveryReady";
    /// Every type above: all of them are set, `Unknown` at first.
    pub const ALL: [&str; 6] = [RESOLVED, PLACED, LOADED, READY, DEGRADED, RECOVERY_READY];
}

/// Condition types of a DeviceGPUState.
pub mod device {
    /// The device takes layers: healthy, verified, and its agent is there.
    pub const READY: &str = "Ready";
    /// No fault is known.
    pub const HEALTHY: &str = "Healthy";
    /// What was copied to the device came back unchanged, and what it computed was right.
    pub const VERIFIED: &str = "Verified";
    /// The device runs slower than it could.
    pub const THROTTLED: &str = "Throttled";
    /// Those that a device must have to take layers.
    pub const ALL: [&str; 3] = [READY, HEALTHY, VERIFIED];
}

/// Condition types of a NodeLinkState.
pub mod links {
    /// Every link that the agent is to measure was measured.
    pub const MEASURED: &str = "Measured";
    /// Some link carries far less than it did.
    pub const SLOW: &str = "Slow";
}

/// Reasons, shared by all conditions.
pub mod reason {
    /// Of `Unknown`: nothing was decided yet.
    pub const PENDING: &str = "Pending";

    // Resolved. The failures are those an inspecting agent reports.
    pub const RESOLVED: &str = "Resolved";
    pub const INSPECTING: &str = "Inspecting";
    pub const NO_AGENT: &str = "NoAgent";
    pub const SOURCE_NOT_FOUND: &str = "SourceNotFound";
    pub const TRUNCATED: &str = "Truncated";
    pub const NOT_GGUF: &str = "NotGGUF";
    pub const DIGEST_MISMATCH: &str = "DigestMismatch";
    pub const UNSUPPORTED_ARCHITECTURE: &str = "UnsupportedArchitecture";
    pub const UNREADABLE: &str = "Unreadable";
    /// The source refused what the Secret holds, or wants more.
    pub const ACCESS_DENIED: &str = "AccessDenied";
    pub const UNSUPPORTED_FORMAT: &str = "UnsupportedFormat";
    /// A pinned index does not lie beside the model.
    pub const NO_INDEX: &str = "NoIndex";
    /// The source gives no parts of a file.
    pub const RANGE_NOT_SUPPORTED: &str = "RangeNotSupported";
    /// The source was written to while it was read.
    pub const SOURCE_CHANGED: &str = "SourceChanged";
    pub const SOURCE_STALLED: &str = "SourceStalled";
    pub const SOURCE_UNAVAILABLE: &str = "SourceUnavailable";
    pub const DISK_FULL: &str = "DiskFull";
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    pub const SECRET_INVALID: &str = "SecretInvalid";
    pub const SECRET_FORBIDDEN: &str = "SecretForbidden";
    /// The API server gave no answer about the Secret.
    pub const SECRET_UNREADABLE: &str = "SecretUnreadable";

    // Placed. The failures are the words of `placement::explain`.
    pub const PLACED: &str = "Placed";
    pub const NOT_RESOLVED: &str = "NotResolved";
    pub const INSUFFICIENT_MEMORY: &str = "InsufficientMemory";
    pub const TOO_FEW_DEVICES: &str = "TooFewDevices";
    pub const TOO_FEW_LAYERS: &str = "TooFewLayers";
    pub const PIN_UNSATISFIABLE: &str = "PinUnsatisfiable";
    pub const CONSTRAINTS_CLASH: &str = "ConstraintsClash";
    pub const SEARCH_EXHAUSTED: &str = "SearchExhausted";
    pub const CHECK_FAILED: &str = "CheckFailed";
    /// The spec says what the operator does not know, or what the schema should have refused.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// Signed, the placement does not fit an envelope.
    pub const PLACEMENT_TOO_LARGE: &str = "PlacementTooLarge";
    /// `determinism: Strict` cannot be promised for models of the architecture.
    pub const STRICT_NOT_SUPPORTED: &str = "StrictNotSupported";
    /// Its memory or its links went to a model of higher priority, and it fits nowhere else.
    pub const YIELDED: &str = "Yielded";
    /// There is a plan, and its memory is about to be left by other models.
    pub const AWAITS_MEMORY: &str = "AwaitsMemory";
    /// There is a plan, and other models are about to leave its links, and no memory that it needs.
    pub const AWAITS_LINKS: &str = "AwaitsLinks";
    /// RecoveryReady: it is; a node's loss would leave too little; there is nothing to stand by for yet.
    pub const PREPARED: &str = "Prepared";
    pub const NO_SPARE_CAPACITY: &str = "NoSpareCapacity";
    pub const NOT_SERVING: &str = "NotServing";
    /// What is asked for is loaded beside what serves.
    pub const MOVING: &str = "Moving";
    /// What is asked for could not be loaded; what served before still does.
    pub const MOVE_ROLLED_BACK: &str = "MoveRolledBack";

    // Loaded and Ready.
    pub const LOADED: &str = "Loaded";
    pub const FETCHING: &str = "Fetching";
    pub const LOADING: &str = "Loading";
    pub const LOAD_FAILED: &str = "LoadFailed";
    /// A worker ends again and again, and does not say why.
    pub const CRASH_LOOP: &str = "CrashLoop";
    pub const NOT_PLACED: &str = "NotPlaced";
    pub const NOT_LOADED: &str = "NotLoaded";
    pub const SERVING: &str = "Serving";

    // Degraded.
    pub const AS_EXPECTED: &str = "AsExpected";
    pub const STAGE_LOST: &str = "StageLost";
    /// Devices that are judged unfit are not left, for too many were left of late: a person has to decide.
    pub const QUARANTINE_LIMIT_REACHED: &str = "QuarantineLimitReached";
    /// Most agents are not heard and say by other ways that they are there: what they serve is not touched.
    pub const AGENTS_UNHEARD: &str = "AgentsUnheard";
    /// Two stages that serve do not reach each other; also of the stage that dials.
    pub const LINK_DOWN: &str = "LinkDown";
    /// Fewer replicas serve than are asked for, for no fault.
    pub const FEWER_REPLICAS: &str = "FewerReplicas";

    // Devices: Ready.
    pub const AVAILABLE: &str = "Available";
    pub const NOT_VERIFIED: &str = "NotVerified";
    /// Its temperature cannot be believed, so it counts as hot.
    pub const SENSOR_INVALID: &str = "SensorInvalid";
    /// The container runtime gave the device to a pod that is not ours.
    pub const FOREIGN: &str = "Foreign";
    /// The cluster gives such devices out, and has given this one to nobody.
    pub const UNCLAIMED: &str = "Unclaimed";
    /// It is reached only by what cannot compute layers.
    pub const DESCRIBED_ONLY: &str = "DescribedOnly";
    /// Event: a device that held layers was given to somebody else.
    pub const DEVICE_PREEMPTED: &str = "DevicePreempted";

    // Devices: Healthy. The other reasons are those of the fault, which `device::health` and its table of Xids name.
    pub const NO_FAULT: &str = "NoFault";
    /// A fault whose name is not a word.
    pub const FAULT: &str = "Fault";
    /// It passed a verification after a fault, and is watched for a while.
    pub const RECOVERING: &str = "Recovering";
    /// Event: it takes layers again after a fault.
    pub const RECOVERED: &str = "Recovered";
    /// It failed again and again, and is left alone for a while.
    pub const HELD_DOWN: &str = "HeldDown";
    pub const UNPROVEN: &str = "Unproven";

    // Devices: Verified.
    pub const SELF_TEST_PASSED: &str = "SelfTestPassed";
    pub const SELF_TEST_FAILED: &str = "SelfTestFailed";
    pub const COULD_NOT_MEASURE: &str = "CouldNotMeasure";

    // Devices: Throttled. The other reasons are those of the device.
    pub const FULL_SPEED: &str = "FullSpeed";
    /// It runs at the power limit or the clock that is set for it.
    pub const WITHIN_LIMITS: &str = "WithinLimits";
    /// Event: it began to run slower than it could.
    pub const DEVICE_THROTTLED: &str = "DeviceThrottled";
    pub const NOT_REPORTED: &str = "NotReported";

    // Links: Measured.
    pub const ALL_MEASURED: &str = "AllMeasured";
    /// Some links are still to be measured for the first time.
    pub const MEASURING: &str = "Measuring";
    pub const PEER_UNREACHABLE: &str = "PeerUnreachable";
    /// There is no other node to measure to.
    pub const NO_PEERS: &str = "NoPeers";
    pub const PAUSED: &str = "Paused";

    // Links: Slow.
    /// Also an event, once for each direction of a link.
    pub const LINK_SLOW: &str = "LinkSlow";
}

/// Longest message the schema accepts, in bytes; longer ones are cut.
pub const MAX_MESSAGE_BYTES: usize = 32_768;

/// What a condition shall say.
#[derive(Clone, Copy, Debug)]
pub struct NewCondition<'a> {
    /// One of the types in [`model`] or [`device`].
    pub kind: &'a str,
    pub status: ConditionStatus,
    /// One CamelCase word, of [`reason`].
    pub reason: &'a str,
    /// For a person.
    pub message: &'a str,
}

/// Sets one condition in a list and leaves the others alone.
///
/// `lastTransitionTime` becomes `now` only if the status differs from before; `observedGeneration`, reason and message are
/// always taken over. Returns whether anything but the observed generation changed: when to send an event.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    new: NewCondition<'_>,
    observed_generation: Option<i64>,
    now: &Time,
) -> bool {
    let mut next = Condition {
        last_transition_time: now.clone(),
        message: clipped(new.message),
        observed_generation,
        reason: new.reason.to_owned(),
        status: new.status.as_str().to_owned(),
        type_: new.kind.to_owned(),
    };
    let Some(present) = conditions.iter_mut().find(|c| c.type_ == new.kind) else {
        conditions.push(next);
        return true;
    };
    if present.status == next.status {
        next.last_transition_time = present.last_transition_time.clone();
    }
    let changed = (&present.status, &present.reason, &present.message) != (&next.status, &next.reason, &next.message);
    *present = next;
    changed
}

/// The condition of a type, if it was ever set.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}

/// Whether the condition of a type is `True`. One that is absent is not.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|c| c.status == ConditionStatus::True.as_str())
}

fn clipped(message: &str) -> String {
    let end = message.floor_char_boundary(MAX_MESSAGE_BYTES);
    message[..end].to_owned()
}

#[cfg(test)]
mod tests;
