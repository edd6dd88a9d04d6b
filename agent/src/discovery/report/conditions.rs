//! What a device's conditions say. `Ready` is about layers, `Healthy` about the device, `Verified` about its last test,
//! `Throttled` about its speed.

use super::{Seen, cut, throttle_name};
use crate::devices::{Availability, DeviceState};
use crds::DeviceGPUStateStatus;
use crds::conditions::{self, ConditionStatus, NewCondition, device as kind, reason};
use device::health::{Action, Fault, Standing};
use device::telemetry::Throttle;
use device::{GpuDevice, Unverified, Verification};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Of why another backend cannot be used.
const CAUSE_CHARACTERS: usize = 256;
/// How `device::health` marks a device that is unproven for its sensor's sake.
const SENSOR_PREFIX: &str = "SensorInvalid: ";

/// What one condition shall say.
#[derive(Debug, PartialEq, Eq)]
struct Says {
    status: ConditionStatus,
    reason: String,
    message: String,
}

impl Says {
    fn new(status: ConditionStatus, reason: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            reason: word(reason),
            message: message.into(),
        }
    }
}

/// All conditions. Transition times are taken over from `before` where the status is the same.
pub(super) fn of(
    seen: &Seen<'_>,
    power_limit_watts: Option<i32>,
    before: Option<&DeviceGPUStateStatus>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut list = before.map(|before| before.conditions.clone()).unwrap_or_default();
    let healthy = healthy(seen.state);
    let verified = verified(&seen.state.device);
    let mut ready = ready(seen.state, &healthy, &verified);
    if let (ConditionStatus::True, Some(above)) = (ready.status, above_wish(seen, power_limit_watts)) {
        ready.message.push_str(&above);
    }
    for (kind, says) in [
        (kind::READY, ready),
        (kind::HEALTHY, healthy),
        (kind::VERIFIED, verified),
        (kind::THROTTLED, throttled(seen.state)),
    ] {
        let new = NewCondition {
            kind,
            status: says.status,
            reason: &says.reason,
            message: &says.message,
        };
        conditions::set_condition(&mut list, new, generation, &Time(now));
    }
    list
}

fn healthy(state: &DeviceState) -> Says {
    let told = |fault: &Fault| told(fault, &state.device);
    match (&state.standing, &state.device.verification) {
        (Standing::Failed { fault }, _) => Says::new(ConditionStatus::False, &fault.reason, told(fault)),
        (Standing::Recovering { fault, ready_at_ms }, _) => Says::new(
            ConditionStatus::False,
            reason::RECOVERING,
            format!(
                "it passed a verification after {} and is watched until {}: {}",
                word(&fault.reason),
                moment(*ready_at_ms),
                told(fault)
            ),
        ),
        (Standing::HeldDown { fault, until_ms }, _) => Says::new(
            ConditionStatus::False,
            reason::HELD_DOWN,
            format!(
                "it failed again and again and is left alone until {}; the last time for {}: {}",
                moment(*until_ms),
                word(&fault.reason),
                told(fault)
            ),
        ),
        (_, Verification::Failed { reason: cause }) => {
            Says::new(ConditionStatus::False, reason::SELF_TEST_FAILED, cause.as_str())
        }
        (Standing::Unproven { reason: cause }, _) => match cause.strip_prefix(SENSOR_PREFIX) {
            Some(sensor) => Says::new(
                ConditionStatus::Unknown,
                reason::SENSOR_INVALID,
                format!("{sensor}; it counts as hot"),
            ),
            None => Says::new(ConditionStatus::Unknown, reason::UNPROVEN, cause.as_str()),
        },
        (Standing::Ready, _) => match (&state.note, &state.last_fault) {
            (Some(note), _) => Says::new(
                ConditionStatus::True,
                &note.reason,
                format!("it stays in use: {}", told(note)),
            ),
            (None, Some(last)) => Says::new(
                ConditionStatus::True,
                reason::NO_FAULT,
                format!(
                    "no fault is known; the last one was {}: {}",
                    word(&last.reason),
                    told(last)
                ),
            ),
            (None, None) => Says::new(ConditionStatus::True, reason::NO_FAULT, "no fault is known"),
        },
    }
}

fn verified(device: &GpuDevice) -> Says {
    let mut says = match &device.verification {
        Verification::Verified => Says::new(
            ConditionStatus::True,
            reason::SELF_TEST_PASSED,
            "1 MiB came back unchanged, and what the device computed was right",
        ),
        Verification::Failed { reason: cause } => {
            Says::new(ConditionStatus::False, reason::SELF_TEST_FAILED, cause.as_str())
        }
        Verification::CouldNotMeasure { reason: cause } => {
            Says::new(ConditionStatus::Unknown, reason::COULD_NOT_MEASURE, cause.as_str())
        }
    };
    for other in &device.unverified {
        says.message.push_str(&of_another(other));
    }
    says
}

/// What came of testing the device by way of another backend.
fn of_another(other: &Unverified) -> String {
    let name = other.backend.name();
    match &other.verification {
        Verification::Verified => String::new(),
        Verification::Failed { reason } => format!("; by way of {name} it failed: {}", cut(reason, CAUSE_CHARACTERS)),
        Verification::CouldNotMeasure { reason } => {
            format!(
                "; by way of {name} it could not be tested: {}",
                cut(reason, CAUSE_CHARACTERS)
            )
        }
    }
}

/// Whose fault it is that the device takes no layers: its own first, then its owner's.
fn ready(state: &DeviceState, healthy: &Says, verified: &Says) -> Says {
    let no = |reason: &str, message: &str| Says::new(ConditionStatus::False, reason, message);
    if healthy.status == ConditionStatus::False {
        return no(&healthy.reason, &healthy.message);
    }
    match &state.availability {
        Availability::Foreign { by } => return no(reason::FOREIGN, &format!("the device was given to {by}")),
        Availability::Unclaimed { reason: why } => return no(reason::UNCLAIMED, why),
        Availability::Ours | Availability::Shared => {}
    }
    if verified.status != ConditionStatus::True {
        return no(reason::NOT_VERIFIED, &verified.message);
    }
    if healthy.status != ConditionStatus::True {
        let why = if healthy.reason == reason::SENSOR_INVALID {
            reason::SENSOR_INVALID
        } else {
            reason::NOT_VERIFIED
        };
        return no(why, &healthy.message);
    }
    if !state.device.backend.holds_layers() {
        let message = format!("no layers can be computed by way of {}", state.device.backend.name());
        return no(reason::DESCRIBED_ONLY, &message);
    }
    let stranger = state.stranger.as_ref().map(|stranger| format!("; {stranger}"));
    Says::new(
        ConditionStatus::True,
        reason::AVAILABLE,
        format!("the device takes layers{}", stranger.unwrap_or_default()),
    )
}

/// Heat and a failing supply slow a device below what was measured of it. Its own power limit and a clock that somebody
/// set were in force when it was measured.
fn throttled(state: &DeviceState) -> Says {
    let reasons = state.sample.as_ref().and_then(|sample| sample.throttled_by.as_ref());
    let Some(reasons) = reasons else {
        return Says::new(
            ConditionStatus::Unknown,
            reason::NOT_REPORTED,
            "the device does not say whether it is slowed",
        );
    };
    let names = |reasons: &[Throttle]| -> String {
        let mut sorted = reasons.to_vec();
        sorted.sort_unstable();
        let names: Vec<&str> = sorted.into_iter().map(throttle_name).collect();
        names.join(", ")
    };
    let slows = |reason: &&Throttle| !matches!(reason, Throttle::Power | Throttle::Setting);
    match reasons.iter().filter(slows).min() {
        Some(worst) => Says::new(
            ConditionStatus::True,
            throttle_name(*worst),
            format!("the device is slowed: {}", names(reasons)),
        ),
        None if reasons.is_empty() => Says::new(ConditionStatus::False, reason::FULL_SPEED, "nothing slows it"),
        None => Says::new(
            ConditionStatus::False,
            reason::WITHIN_LIMITS,
            format!("it runs at the limits that are set for it: {}", names(reasons)),
        ),
    }
}

fn above_wish(seen: &Seen<'_>, power_limit_watts: Option<i32>) -> Option<String> {
    let wish = seen.spec?.power_limit_watts?;
    Some(match power_limit_watts {
        Some(limit) if limit > wish => {
            format!("; its power limit is {limit} W and spec.powerLimitWatts asks for {wish} W")
        }
        Some(_) => return None,
        None => format!("; spec.powerLimitWatts asks for {wish} W, and the device does not tell its limit"),
    })
}

/// A fault with what a person needs to find the card and to mend it.
fn told(fault: &Fault, device: &GpuDevice) -> String {
    let place = match (fault.xid, &device.pci_address) {
        (Some(xid), Some(address)) => format!("Xid {xid} at {address}: "),
        (Some(xid), None) => format!("Xid {xid}: "),
        (None, Some(address)) => format!("{address}: "),
        (None, None) => String::new(),
    };
    let remedy = match fault.action {
        Action::None => "",
        Action::RestartShard => " (RestartShard: what computes on it is started again)",
        Action::ResetDevice => " (ResetDevice: reset the card)",
        Action::RebootNode => " (RebootNode: restart the node)",
        Action::ContactSupport => " (ContactSupport: have its maker look at it)",
    };
    format!("{place}{}{remedy}", fault.message)
}

/// Whole seconds.
fn moment(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| "an unknown time".to_owned(), |moment| moment.to_string())
}

/// A reason as the API accepts it: what came from elsewhere and is no word is [`reason::FAULT`].
fn word(text: &str) -> String {
    let good = text.len() <= 128
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if good { text } else { reason::FAULT }.to_owned()
}
