use super::*;
use crate::devices::DeviceState;
use crate::discovery::report::{Seen, status};
use device::health::{Action, Fault, Standing};
use device::telemetry::{Sample, Throttle};
use device::{Backend, GpuDevice, Kind, Pool, Verification};
use k8s_openapi::jiff::Timestamp;

const TOTAL_BYTES: u64 = 100_000;

fn idle() -> Sample {
    Sample {
        memory_total_bytes: Some(TOTAL_BYTES),
        memory_used_bytes: Some(1_000),
        utilisation_ratio: Some(0.02),
        temperature_celsius: Some(40.0),
        power_watts: Some(70.0),
        throttled_by: Some(Vec::new()),
        ecc_uncorrected: Some(0),
        ..Sample::default()
    }
}

fn card(sample: Sample) -> DeviceState {
    let device = GpuDevice {
        pool: Pool::Own,
        memory_total_bytes: TOTAL_BYTES,
        memory_usable_bytes: 90_000,
        verification: Verification::Verified,
        ..GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)
    };
    DeviceState {
        sample: Some(sample),
        ..DeviceState::new(device, Standing::Ready)
    }
}

fn written(state: &DeviceState, before: Option<&DeviceGPUStateStatus>, second: i64) -> DeviceGPUStateStatus {
    let seen = Seen {
        state,
        spec: None,
        host_free_bytes: None,
        holdings: &[],
        rates: None,
    };
    status("n", &seen, before, Some(1), Timestamp::from_second(second).unwrap())
}

fn news_of(change: impl Fn(&mut DeviceState)) -> News {
    let before = written(&card(idle()), None, 1);
    let mut state = card(idle());
    change(&mut state);
    news(&before, &written(&state, Some(&before), 1_000))
}

fn sampled(change: impl Fn(&mut Sample)) -> News {
    news_of(|state| change(state.sample.as_mut().unwrap()))
}

#[test]
fn time_alone_is_no_news() {
    assert_eq!(news_of(|_| ()), News::None);
}

#[test]
fn readings_are_news_from_their_threshold_on_and_can_wait() {
    assert_eq!(sampled(|s| s.temperature_celsius = Some(44.0)), News::None);
    assert_eq!(sampled(|s| s.temperature_celsius = Some(45.0)), News::CanWait);
    assert_eq!(sampled(|s| s.temperature_celsius = Some(35.0)), News::CanWait);
    assert_eq!(sampled(|s| s.power_watts = Some(83.0)), News::None);
    assert_eq!(sampled(|s| s.power_watts = Some(84.0)), News::CanWait);
    assert_eq!(sampled(|s| s.utilisation_ratio = Some(0.26)), News::None);
    assert_eq!(sampled(|s| s.utilisation_ratio = Some(0.27)), News::CanWait);
    assert_eq!(sampled(|s| s.memory_used_bytes = Some(10_999)), News::None);
    assert_eq!(sampled(|s| s.memory_used_bytes = Some(11_000)), News::CanWait);
    assert_eq!(sampled(|s| s.temperature_celsius = None), News::CanWait);
}

#[test]
fn a_card_that_draws_little_does_not_tell_of_every_watt() {
    let draws = |watts| {
        written(
            &card(Sample {
                power_watts: Some(watts),
                ..idle()
            }),
            None,
            1,
        )
    };
    assert_eq!(news(&draws(8.0), &draws(17.0)), News::None);
    assert_eq!(news(&draws(8.0), &draws(18.0)), News::CanWait);
}

#[test]
fn slow_drift_is_measured_from_what_was_written() {
    let before = written(&card(idle()), None, 1);
    let told: Vec<News> = (1..=5)
        .map(|degrees| {
            let sample = Sample {
                temperature_celsius: Some(40.0 + degrees as f32),
                ..idle()
            };
            news(&before, &written(&card(sample), Some(&before), 2))
        })
        .collect();
    assert_eq!(told.last(), Some(&News::CanWait));
    assert!(told[..4].iter().all(|news| *news == News::None));
}

#[test]
fn what_somebody_acts_on_is_told_at_once() {
    assert_eq!(sampled(|s| s.ecc_uncorrected = Some(1)), News::Urgent);
    let fault = Fault::new("ProbeHung", "no answer", Action::None);
    assert_eq!(
        news_of(|state| state.standing = Standing::Failed { fault: fault.clone() }),
        News::Urgent
    );
    assert_eq!(news_of(|state| state.device.driver = Some("580".into())), News::Urgent);
    assert_eq!(news_of(|state| state.device.memory_usable_bytes = 85_001), News::None);
    assert_eq!(news_of(|state| state.device.memory_usable_bytes = 85_000), News::Urgent);
    let before = written(&card(idle()), None, 1);
    let answered = DeviceGPUStateStatus {
        observed_generation: Some(2),
        ..before.clone()
    };
    assert_eq!(news(&before, &answered), News::Urgent, "a person waits for it");
}

#[test]
fn throttling_and_other_words_for_the_same_can_wait() {
    assert_eq!(sampled(|s| s.throttled_by = Some(vec![Throttle::Power])), News::CanWait);
    assert_eq!(
        sampled(|s| s.throttled_by = Some(vec![Throttle::Thermal])),
        News::CanWait
    );
    let fault = Fault::new("X", "m", Action::None);
    assert_eq!(news_of(|state| state.last_fault = Some(fault.clone())), News::CanWait);
    let both = news_of(|state| {
        state.sample.as_mut().unwrap().throttled_by = None;
        state.standing = Standing::Failed { fault: fault.clone() };
    });
    assert_eq!(both, News::Urgent);
}

#[test]
fn a_field_that_appears_beside_a_drifting_one_is_not_overlooked() {
    let news = news_of(|state| {
        state.sample.as_mut().unwrap().temperature_celsius = Some(41.0);
        state.device.uuid = Some("GPU-1".into());
    });
    assert_eq!(news, News::Urgent);
}

#[test]
fn every_field_of_the_table_is_a_field_of_the_api_and_drifts_alone() {
    let before = written(&card(idle()), None, 1);
    let json = serde_json::to_value(&before).unwrap();
    for field in FIELDS {
        assert!(json.get(field.name).is_some(), "{} is no field", field.name);
        let mut other = before.clone();
        (field.take)(&mut other, &written(&card(Sample::default()), None, 1));
        let changed = serde_json::to_value(&other).unwrap();
        for (name, value) in changed.as_object().unwrap() {
            assert!(
                name == field.name || json[name] == *value,
                "{} takes {name} along",
                field.name
            );
        }
    }
}

/// Eight cards for an hour, looked at every second, with the noise of sensors that nobody loads.
#[test]
fn an_idle_node_writes_nothing_for_an_hour() {
    let noise = |second: i64, device: i64, most: i64| (second * 7919 + device * 104_729) % (2 * most + 1) - most;
    let mut writes = 0;
    for device in 0..8 {
        let mut before = written(&card(idle()), None, 0);
        for second in 1..3600 {
            let sample = Sample {
                temperature_celsius: Some((40 + noise(second, device, 4)) as f32),
                power_watts: Some((70 + noise(second, device, 13)) as f32),
                utilisation_ratio: Some((2 + noise(second, device, 2)) as f32 / 100.0),
                memory_used_bytes: u64::try_from(1_000 + noise(second, device, 900)).ok(),
                ..idle()
            };
            let now = written(&card(sample), Some(&before), second);
            if news(&before, &now) != News::None {
                writes += 1;
                before = now;
            }
        }
    }
    assert_eq!(writes, 0);
}
