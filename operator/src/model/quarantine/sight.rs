//! PURE: what the limit is held against, and what a hold means for each model.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crds::conditions::{ConditionStatus, device as device_kind, find, model as kind, reason};
use crds::names::members;
use crds::{DeviceGPUState, InferenceModel};
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;
use topology::DeviceReport;

use super::{Held, Limit, Quarantine, Seen, State};
use crate::agents::AgentView;
use crate::model::in_force::InForce;
use crate::model::observe::Observed;
use crate::model::reports::Reports;
use crate::model::stages;
use crate::model::term::ModelState;

/// Held devices that are told by name: more say nothing new.
const TOLD: usize = 3;
/// The clocks of an agent and of the operator may differ by so much: beyond that the certificates that the one issues do not stand for
/// the other.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);

/// What a device's agent says against it, though it is there and nobody else's: reads on after its name.
#[must_use]
pub fn unfit(report: &DeviceReport) -> Option<String> {
    if let Some(fault) = &report.fault {
        Some(format!("is not healthy ({fault})"))
    } else if !report.verified {
        Some("failed its test".to_owned())
    } else if report.memory_usable_bytes == 0 {
        Some("reports no usable memory".to_owned())
    } else {
        None
    }
}

/// The same device as it counts for what serves on it, where that stays: it serves, so it is fit to.
#[must_use]
pub fn as_if_fit(report: &DeviceReport) -> DeviceReport {
    DeviceReport {
        fault: None,
        verified: true,
        memory_usable_bytes: match report.memory_usable_bytes {
            0 => u64::MAX,
            bytes => bytes,
        },
        ..report.clone()
    }
}

/// What stays on held devices, of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Devices that count as if they were fit. A pipeline stays as a whole: with one held device, all of it.
    pub devices: BTreeSet<String>,
    /// What happened and what to do about it, for people.
    pub message: String,
}

/// Everything that a look depends on.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// Models and devices as they stand in the API.
    pub observed: &'a Observed,
    /// The devices, translated.
    pub reports: &'a Reports,
    /// The agents.
    pub agents: &'a BTreeMap<String, AgentView>,
    /// Nodes whose agents may still be on their way to this leader.
    pub awaited: &'a BTreeSet<String>,
    /// What is remembered of models, by uid.
    pub models: &'a HashMap<String, ModelState>,
    /// The date.
    pub wall: Timestamp,
}

/// Looks at all devices, and says what stays where it is on those that are held, by the uid of its model.
pub fn look(
    around: Around<'_>,
    quarantine: &mut Quarantine,
    limit: Limit,
    now: std::time::Instant,
) -> HashMap<String, Kept> {
    let pipelines = serving(around);
    let on: BTreeSet<&str> = pipelines
        .iter()
        .flat_map(|(_, devices)| devices.iter().copied())
        .collect();
    // Only the first look asks what stood before it, and there are tens of thousands of objects.
    let before = match quarantine.has_looked() {
        true => Before::default(),
        false => Before::of(around),
    };
    let unfit: Vec<Option<String>> = around.reports.all().map(unfit).collect();
    let mut seen = Vec::with_capacity(unfit.len());
    for (report, why) in around.reports.all().zip(&unfit) {
        let name = report.name.as_str();
        let serves = on.contains(name);
        // A person's, the cluster's, or never in service.
        if report.cordoned || report.barred.is_some() || (report.no_new_layers.is_some() && !serves) {
            continue;
        }
        let is_there = around.agents.contains_key(&report.node) || around.awaited.contains(&report.node);
        let stood = before.stood.get(name).copied().unwrap_or_default();
        let state = match why {
            _ if !is_there => State::Lost,
            None => State::Sound,
            Some(why) if serves => State::Serving {
                stood,
                why,
                was_held: before.held.contains(name),
            },
            Some(_) => State::Idle { stood },
        };
        seen.push(Seen {
            device: name,
            backend: &report.backend,
            state,
        });
    }
    quarantine.look(&seen, limit, now);
    let judged = seen.iter().filter(|seen| matches!(seen.state, State::Serving { .. }));
    kept(
        &pipelines,
        &judged.map(|seen| seen.device).collect(),
        quarantine.held(),
        limit,
    )
}

/// The single devices of each pipeline all of whose stages serve, or are awaited, with the uid of its model.
fn serving(around: Around<'_>) -> Vec<(&str, Vec<&str>)> {
    let mut pipelines = Vec::new();
    for (uid, state) in around.models {
        let Some(in_force) = &state.in_force else { continue };
        let sights = stages::look(in_force, around.agents);
        for (number, pipeline) in in_force.pipelines().iter().enumerate() {
            let own = sights.iter().filter(|sight| sight.pipeline == number);
            let serves = pipeline
                .stages
                .iter()
                .zip(own)
                .all(|(stage, sight)| sight.serves() || around.awaited.contains(&stage.node));
            if serves {
                let devices = pipeline.stages.iter().flat_map(|stage| members(&stage.device));
                pipelines.push((uid.as_str(), devices.collect()));
            }
        }
    }
    pipelines
}

/// What stood before this leader.
#[derive(Default)]
struct Before<'b> {
    stood: HashMap<&'b str, Duration>,
    held: BTreeSet<String>,
}

impl<'b> Before<'b> {
    fn of(around: Around<'b>) -> Self {
        let stood = around.observed.devices.iter().filter_map(|device| {
            let name = device.metadata.name.as_deref()?;
            Some((name, stood(device, around.wall)?))
        });
        let is_held = |model: &&std::sync::Arc<InferenceModel>| {
            let conditions = model.status.as_ref().map(|status| status.conditions.as_slice());
            let degraded = find(conditions.unwrap_or_default(), kind::DEGRADED);
            degraded.is_some_and(|degraded| degraded.reason == reason::QUARANTINE_LIMIT_REACHED)
        };
        let models = around.observed.models.iter().filter(is_held);
        let in_force = models.filter_map(|model| {
            let state = around.models.get(model.metadata.uid.as_deref()?)?;
            state.in_force.as_ref()
        });
        Self {
            stood: stood.collect(),
            held: in_force.flat_map(InForce::members).map(str::to_owned).collect(),
        }
    }
}

/// For how long a device's agent has said that it is unfit, and no longer than that is sure, whose clock may differ. A date to come counts
/// as now.
fn stood(device: &DeviceGPUState, wall: Timestamp) -> Option<Duration> {
    let conditions = &device.status.as_ref()?.conditions;
    let against = [device_kind::HEALTHY, device_kind::VERIFIED]
        .into_iter()
        .filter_map(|kind| find(conditions, kind))
        .filter(|condition| condition.status == ConditionStatus::False.as_str());
    let since = against.map(|condition| condition.last_transition_time.0).min()?;
    let seconds = wall.as_second().saturating_sub(since.as_second());
    let told = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Some(told.saturating_sub(CLOCKS_DIFFER))
}

fn kept(
    pipelines: &[(&str, Vec<&str>)],
    judged: &BTreeSet<&str>,
    held: &BTreeMap<String, Held>,
    limit: Limit,
) -> HashMap<String, Kept> {
    let mut kept: HashMap<String, Kept> = HashMap::new();
    let mut named: HashMap<&str, BTreeMap<&str, &Held>> = HashMap::new();
    for (uid, devices) in pipelines {
        let own = devices.iter().filter_map(|device| held.get_key_value(*device));
        let own: Vec<(&str, &Held)> = own.map(|(device, held)| (device.as_str(), held)).collect();
        if own.is_empty() {
            continue;
        }
        named.entry(uid).or_default().extend(own);
        let stays = devices.iter().filter(|device| judged.contains(*device));
        kept.entry((*uid).to_owned())
            .or_default()
            .devices
            .extend(stays.map(|device| (*device).to_owned()));
    }
    for (uid, held) in named {
        if let Some(kept) = kept.get_mut(uid) {
            kept.message = message(&held, limit);
        }
    }
    kept
}

fn message(held: &BTreeMap<&str, &Held>, limit: Limit) -> String {
    let Some((device, first)) = held.first_key_value() else {
        return String::new();
    };
    let told: Vec<String> = held
        .iter()
        .take(TOLD)
        .map(|(device, held)| format!("{device} {}", held.why))
        .collect();
    let more = match held.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let of = match &first.backend {
        Some(backend) => format!("{} {backend} devices", first.of),
        None => format!("{} devices", first.of),
    };
    let minutes = super::WINDOW.as_secs() / 60;
    format!(
        "{}{more}; what serves there stays, for {} of {of} were left or lost within {minutes} minutes and the limit is {} %. \
         If the fault is real, have it left: kubectl patch gpu {device} --type=merge -p '{{\"spec\":{{\"cordoned\":true}}}}'; \
         or raise the operator's --quarantine-limit-percent",
        told.join(", "),
        first.out,
        limit.percent,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use identity::{PlacementSigner, PlacementVerifier};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proto::control::v1::ShardPhase;

    use super::*;
    use crate::model::fixture;
    use crate::model::term::Term;

    /// Its agent says that it is unfit, since then.
    fn judge(device: &mut DeviceGPUState, since: Timestamp) {
        let conditions = &mut device.status.as_mut().expect("a status").conditions;
        let mut conditions = conditions.iter_mut();
        let healthy = conditions.find(|condition| condition.type_ == device_kind::HEALTHY);
        let healthy = healthy.expect("Healthy");
        healthy.status = ConditionStatus::False.as_str().to_owned();
        healthy.last_transition_time = Time(since);
    }

    #[test]
    fn devices_that_work_as_one_are_judged_each_by_itself_and_held_for_what_serves_on_all_of_them() {
        let mut placement = fixture::in_force(1, &["a"]).placement;
        placement.pipelines[0].stages[0].device = "a-cuda0+a-cuda1".to_owned();
        let mut agents = fixture::agents(&["a"]);
        fixture::report(&mut agents, "a", 1, 0, ShardPhase::Serving);
        let mut term = Term::begin(Instant::now());
        let verifier = PlacementVerifier::new([PlacementSigner::generate().unwrap().public_key()]).unwrap();
        term.recall(&[Arc::new(fixture::model())], &verifier);
        let state = term.models.get_mut(fixture::UID).expect("the model");
        state.in_force = Some(fixture::signed(placement));
        let mut devices = [0, 1].map(|index| fixture::card("a", index, 1 << 30));
        judge(Arc::make_mut(&mut devices[1]), Timestamp::UNIX_EPOCH);
        let (observed, awaited) = (Observed::default(), BTreeSet::new());
        let around = Around {
            observed: &observed,
            reports: &Reports::of(&devices),
            agents: &agents,
            awaited: &awaited,
            models: &term.models,
            wall: Timestamp::UNIX_EPOCH,
        };
        let nothing_is_left = Limit { percent: 0 };
        let kept = look(around, &mut term.quarantine, nothing_is_left, Instant::now());
        let kept = &kept[fixture::UID];
        assert_eq!(kept.devices, BTreeSet::from(["a-cuda1".to_owned()]));
        assert!(kept.message.starts_with("a-cuda1 is not healthy"), "{}", kept.message);
    }

    #[test]
    fn how_long_ago_a_device_was_judged_is_the_least_that_clocks_allow_which_differ() {
        let mut device = (*fixture::cpu("a", 1 << 30)).clone();
        judge(&mut device, Timestamp::from_second(1000).unwrap());
        for (second, at_least) in [(900, 0), (1000, 0), (1300, 0), (1301, 1), (1600, 300)] {
            let stood = stood(&device, Timestamp::from_second(second).unwrap());
            assert_eq!(stood, Some(Duration::from_secs(at_least)), "at {second}");
        }
    }
}
