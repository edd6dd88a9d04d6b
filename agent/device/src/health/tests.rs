use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

fn boot(id: &str) -> Observation {
    Observation::Booted { boot_id: id.into() }
}

fn xid(xid: u32) -> Observation {
    Observation::Xid {
        xid,
        text: "pid=1, name=python3".into(),
    }
}

fn verified_at(now_ms: u64) -> Health {
    let mut health = Health::new();
    health.observe(&boot("a"), now_ms);
    assert_eq!(health.observe(&Observation::Verified, now_ms), Some(Transition::Proven));
    health
}

fn reason_of(standing: &Standing) -> Option<&str> {
    match standing {
        Standing::Failed { fault } | Standing::HeldDown { fault, .. } | Standing::Recovering { fault, .. } => {
            Some(&fault.reason)
        }
        Standing::Unproven { .. } | Standing::Ready => None,
    }
}

/// Fails a device, lets it pass when it wants to be verified, and gives the time at which it is ready again.
fn fail_and_return(health: &mut Health, seen: &Observation, at_ms: u64) -> u64 {
    health.observe(seen, at_ms);
    let mut now = at_ms;
    while health.standing(now) != Standing::Ready {
        if health.wants_verification(now) {
            health.observe(&Observation::Verified, now);
        }
        now += SECOND;
        assert!(now < at_ms + 24 * HOUR, "it never comes back");
    }
    now
}

#[test]
fn a_device_is_unproven_until_a_verification_passes() {
    let mut health = Health::new();
    assert!(matches!(health.standing(0), Standing::Unproven { .. }));
    assert!(health.wants_verification(0));
    let reason = "no memory is free".to_owned();
    health.observe(&Observation::CouldNotMeasure { reason: reason.clone() }, 5);
    assert_eq!(health.standing(5), Standing::Unproven { reason });
    assert!(!health.wants_verification(5 + VERIFY_AGAIN_MS - 1));
    assert!(health.wants_verification(5 + VERIFY_AGAIN_MS));
    health.observe(&Observation::Verified, 6);
    assert_eq!(health.standing(6), Standing::Ready);
    assert!(!health.wants_verification(24 * HOUR));
}

#[test]
fn a_verification_that_could_not_be_made_does_not_condemn_a_device_that_passed_before() {
    let mut health = verified_at(0);
    let busy = Observation::CouldNotMeasure {
        reason: "its memory is full".into(),
    };
    assert_eq!(health.observe(&busy, SECOND), None);
    assert_eq!(health.standing(SECOND), Standing::Ready);
}

#[test]
fn a_proof_is_old_so_long_after_the_last_try_whatever_came_of_that_and_only_of_a_device_in_order() {
    let mut health = Health::new();
    assert!(!health.proof_is_old(0, HOUR), "it was never verified");
    health.observe(&Observation::Verified, MINUTE);
    assert!(!health.proof_is_old(MINUTE, 2 * MINUTE - 1));
    assert!(health.proof_is_old(MINUTE, 2 * MINUTE));
    let busy = Observation::CouldNotMeasure {
        reason: "its memory is full".into(),
    };
    health.observe(&busy, 2 * MINUTE);
    assert!(!health.proof_is_old(MINUTE, 3 * MINUTE - 1));
    assert!(health.proof_is_old(MINUTE, 3 * MINUTE));
    health.observe(&Observation::ProbeHung, 3 * MINUTE);
    assert!(!health.proof_is_old(0, HOUR), "it is verified for its fault's sake");
    health.observe(&Observation::Verified, HOUR);
    assert!(!health.proof_is_old(0, HOUR + STABLE_MS - 1));
    assert!(health.proof_is_old(0, HOUR + STABLE_MS), "it is in order again");
    assert!(!health.proof_is_old(2 * STABLE_MS, HOUR + STABLE_MS));
}

#[test]
fn a_fault_is_told_once_and_the_way_back_is_a_pass_and_a_minute() {
    let mut health = verified_at(0);
    let lost = Observation::Lost {
        reason: "VK_ERROR_DEVICE_LOST".into(),
    };
    let told = health.observe(&lost, HOUR);
    assert!(matches!(told, Some(Transition::Failed { relapses: 0, .. })), "{told:?}");
    assert_eq!(health.observe(&lost, HOUR + 1), None);
    assert_eq!(reason_of(&health.standing(HOUR + 2)), Some("DeviceLost"));
    let ready_at_ms = HOUR + SECOND + STABLE_MS;
    let passed = health.observe(&Observation::Verified, HOUR + SECOND);
    assert_eq!(passed, Some(Transition::Passed { ready_at_ms }));
    assert!(
        matches!(health.standing(ready_at_ms - 1), Standing::Recovering { ready_at_ms: at, .. } if at == ready_at_ms)
    );
    assert_eq!(health.standing(ready_at_ms), Standing::Ready);
    let told = health.observe(&Observation::SensorFine, ready_at_ms);
    assert!(matches!(told, Some(Transition::Recovered { .. })), "{told:?}");
    assert_eq!(health.observe(&Observation::SensorFine, ready_at_ms), None);
}

#[test]
fn every_observation_that_is_a_fault_says_which_and_what_would_mend_it() {
    let reason = || "words".to_owned();
    for (seen, name, action) in [
        (
            Observation::VerificationFailed { reason: reason() },
            "SelfTestFailed",
            Action::ResetDevice,
        ),
        (
            Observation::Lost { reason: reason() },
            "DeviceLost",
            Action::ResetDevice,
        ),
        (
            Observation::Unread { reason: reason() },
            "DeviceLost",
            Action::ResetDevice,
        ),
        (
            Observation::ProbeCrashed { reason: reason() },
            "SelfTestFailed",
            Action::ResetDevice,
        ),
        (
            Observation::FellOffBus { reason: reason() },
            "FellOffBus",
            Action::RebootNode,
        ),
        (
            Observation::UncorrectedMemory { reason: reason() },
            "UncorrectableEcc",
            Action::ResetDevice,
        ),
        (Observation::ProbeHung, "ProbeHung", Action::RebootNode),
        (
            Observation::DriverMismatch { reason: reason() },
            "DriverMismatch",
            Action::RebootNode,
        ),
        (Observation::Gone, "Gone", Action::None),
        (xid(119), "GspTimeout", Action::ResetDevice),
        (xid(48), "UncorrectableEcc", Action::ResetDevice),
    ] {
        let mut health = verified_at(0);
        health.observe(&seen, SECOND);
        let Standing::Failed { fault } = health.standing(SECOND) else {
            panic!("{seen:?} is no fault");
        };
        assert_eq!((fault.reason.as_str(), fault.action), (name, action));
    }
}

#[test]
fn a_card_off_the_bus_returns_after_another_boot_only_and_then_like_any_other() {
    let mut health = verified_at(0);
    health.observe(&xid(79), MINUTE);
    for hour in 1..100 {
        assert!(!health.wants_verification(hour * HOUR));
        assert_eq!(health.observe(&Observation::Verified, hour * HOUR), None);
        assert_eq!(reason_of(&health.standing(hour * HOUR)), Some("FellOffBus"));
    }
    health.observe(&boot("a"), 100 * HOUR);
    health.observe(&Observation::Verified, 100 * HOUR);
    assert!(
        matches!(health.standing(200 * HOUR), Standing::Failed { .. }),
        "the boot is the same"
    );
    health.observe(&boot("b"), 200 * HOUR);
    assert!(matches!(health.standing(200 * HOUR), Standing::Failed { .. }));
    assert!(health.wants_verification(200 * HOUR));
    health.observe(&Observation::Verified, 200 * HOUR);
    assert!(matches!(health.standing(200 * HOUR), Standing::Recovering { .. }));
    assert_eq!(health.standing(200 * HOUR + STABLE_MS), Standing::Ready);
}

#[test]
fn a_card_off_the_bus_stays_so_over_a_restart_of_the_agent_and_returns_after_a_reset() {
    let mut health = verified_at(0);
    health.observe(&xid(79), MINUTE);
    let text = serde_json::to_string(&health).unwrap();
    let mut health: Health = serde_json::from_str(&text).unwrap();
    health.observe(&boot("a"), HOUR);
    assert_eq!(health.observe(&Observation::Verified, HOUR), None);
    health.observe(&Observation::Gone, HOUR);
    assert_eq!(
        reason_of(&health.standing(HOUR)),
        Some("FellOffBus"),
        "the graver fault is told"
    );
    health.observe(&Observation::Reset, 2 * HOUR);
    assert_eq!(
        fail_and_return(&mut health, &Observation::SensorFine, 2 * HOUR),
        2 * HOUR + STABLE_MS
    );
}

#[test]
fn memory_that_lost_data_is_not_verified_before_a_reset() {
    let mut health = verified_at(0);
    let reason = "2 uncorrectable hardware errors detected in umc block".into();
    health.observe(&Observation::UncorrectedMemory { reason }, MINUTE);
    health.observe(&Observation::Verified, 2 * MINUTE);
    assert_eq!(reason_of(&health.standing(HOUR)), Some("UncorrectableEcc"));
    health.observe(&Observation::Reset, HOUR);
    health.observe(&Observation::Verified, HOUR);
    assert_eq!(health.standing(HOUR + STABLE_MS), Standing::Ready);
}

#[test]
fn what_is_computed_is_doubtful_from_a_fault_of_memory_bus_context_or_test_on_and_from_no_other() {
    let reason = || "words".to_owned();
    let spoiling = [48, 64, 79, 95, 140, 171, 172].map(xid).into_iter().chain([
        Observation::VerificationFailed { reason: reason() },
        Observation::Lost { reason: reason() },
        Observation::FellOffBus { reason: reason() },
        Observation::UncorrectedMemory { reason: reason() },
    ]);
    let others = [13, 31, 63, 74, 94, 119, 120, 9999].map(xid).into_iter().chain([
        Observation::CouldNotMeasure { reason: reason() },
        Observation::UnplacedEvent { text: reason() },
        Observation::DriverMismatch { reason: reason() },
        Observation::Unread { reason: reason() },
        Observation::ProbeCrashed { reason: reason() },
        Observation::ProbeHung,
        Observation::Gone,
    ]);
    let spoiled = |seen: &Observation| {
        let mut health = verified_at(0);
        health.observe(seen, SECOND);
        health.spoiled_by(SECOND).is_some()
    };
    for seen in spoiling {
        assert!(spoiled(&seen), "{seen:?}");
    }
    for seen in others {
        assert!(!spoiled(&seen), "{seen:?}");
    }
}

#[test]
fn what_is_computed_stays_doubtful_until_the_device_is_ready_again_whatever_else_is_seen_and_over_a_restart() {
    let lost = Observation::Lost {
        reason: "GPU reset end with ret = -110".into(),
    };
    let mut health = verified_at(0);
    health.observe(&Observation::ProbeHung, SECOND);
    assert_eq!(health.spoiled_by(SECOND), None);
    health.observe(&lost, 2 * SECOND);
    health.observe(&Observation::Gone, 3 * SECOND);
    assert_eq!(
        reason_of(&health.standing(3 * SECOND)),
        Some("ProbeHung"),
        "the graver fault is told"
    );
    let text = serde_json::to_string(&health).unwrap();
    let mut health: Health = serde_json::from_str(&text).unwrap();
    let spoiled_by = |health: &Health, now| health.spoiled_by(now).map(|fault| fault.reason.clone());
    assert_eq!(spoiled_by(&health, MINUTE).as_deref(), Some("DeviceLost"));
    health.observe(&Observation::Verified, HOUR);
    assert_eq!(
        spoiled_by(&health, HOUR + STABLE_MS - 1).as_deref(),
        Some("DeviceLost"),
        "it is watched"
    );
    assert_eq!(health.standing(HOUR + STABLE_MS), Standing::Ready);
    assert_eq!(spoiled_by(&health, HOUR + STABLE_MS), None);
    health.observe(&Observation::Gone, 2 * HOUR);
    assert_eq!(spoiled_by(&health, 2 * HOUR), None, "that was another trouble");
}

#[test]
fn a_lesser_fault_that_becomes_a_graver_one_waits_for_a_reset_too() {
    let mut health = verified_at(0);
    health.observe(&Observation::Gone, MINUTE);
    assert_eq!(health.observe(&xid(79), MINUTE), None, "it is away already");
    assert_eq!(health.observe(&Observation::Verified, 2 * MINUTE), None);
    assert_eq!(reason_of(&health.standing(HOUR)), Some("FellOffBus"));
}

#[test]
fn the_proof_does_not_outlive_the_agent_but_the_fault_does() {
    let health = verified_at(0);
    let reread: Health = serde_json::from_str(&serde_json::to_string(&health).unwrap()).unwrap();
    assert!(matches!(reread.standing(1), Standing::Unproven { .. }));
    let mut health = verified_at(0);
    health.observe(&Observation::ProbeHung, 1);
    health.observe(&Observation::Verified, 2);
    let reread: Health = serde_json::from_str(&serde_json::to_string(&health).unwrap()).unwrap();
    assert_eq!(
        reason_of(&reread.standing(HOUR)),
        Some("ProbeHung"),
        "nobody looked for a minute"
    );
}

#[test]
fn twenty_relapses_hold_a_device_down_for_an_hour_and_calm_forgives_them() {
    let mut health = verified_at(0);
    let mut now = MINUTE;
    let mut away = Vec::new();
    for _ in 0..10 {
        let back = fail_and_return(&mut health, &Observation::Gone, now);
        away.push((back - now) / MINUTE);
        now = back;
    }
    assert_eq!(away, [1, 1, 2, 4, 8, 16, 32, 60, 60, 60], "minutes away");
    assert_eq!(health.relapses(), 9);
    let back = fail_and_return(&mut health, &Observation::Gone, now + CALM_MS);
    assert_eq!((back - now - CALM_MS) / MINUTE, 1);
    assert_eq!(health.relapses(), 0);
}

#[test]
fn flapping_faster_than_it_recovers_is_a_relapse_each_time() {
    let mut health = verified_at(0);
    for flap in 0..20_u64 {
        health.observe(&Observation::Gone, MINUTE + flap * 30 * SECOND);
        health.observe(&Observation::Verified, MINUTE + flap * 30 * SECOND + SECOND);
    }
    assert_eq!(health.relapses(), 19);
    let now = 12 * MINUTE;
    assert!(matches!(health.standing(now), Standing::HeldDown { until_ms, .. } if until_ms > now + 50 * MINUTE));
    assert!(!health.wants_verification(now));
}

#[test]
fn one_failed_application_restarts_the_shard_and_leaves_the_device() {
    for number in [13, 31, 43, 45, 94] {
        let mut health = verified_at(0);
        let told = health.observe(&xid(number), SECOND);
        assert!(
            matches!(&told, Some(Transition::RestartShards { fault }) if fault.xid == Some(number)),
            "{told:?}"
        );
        assert_eq!(health.observe(&xid(43), 2 * SECOND), None, "the same crash");
        assert_eq!(health.restart_shards(), 1);
        assert_eq!(health.standing(2 * SECOND), Standing::Ready);
    }
}

#[test]
fn three_failed_applications_within_ten_minutes_are_the_device_s_fault() {
    let mut health = verified_at(0);
    health.observe(&xid(13), MINUTE);
    health.observe(&xid(31), 5 * MINUTE);
    let told = health.observe(&xid(13), 10 * MINUTE);
    assert!(matches!(told, Some(Transition::Failed { .. })), "{told:?}");
    assert_eq!(reason_of(&health.standing(10 * MINUTE)), Some("ApplicationFaults"));
    let mut slow = verified_at(0);
    for minute in [1, 6, 12, 17, 23] {
        slow.observe(&xid(13), minute * MINUTE);
        assert_eq!(slow.standing(minute * MINUTE), Standing::Ready, "{minute}");
    }
}

#[test]
fn an_unknown_number_is_told_once_and_evicts_nothing() {
    let mut health = verified_at(0);
    let told = health.observe(&xid(9999), SECOND);
    assert!(
        matches!(&told, Some(Transition::Noted { fault }) if fault.reason == "UnknownXid"),
        "{told:?}"
    );
    assert_eq!(health.observe(&xid(9999), 2 * SECOND), None);
    assert_eq!(health.standing(2 * SECOND), Standing::Ready);
    assert_eq!(health.note().map(|fault| fault.xid), Some(Some(9999)));
    health.observe(&Observation::SensorFine, SECOND + CALM_MS);
    assert_eq!(health.note(), None);
}

#[test]
fn an_event_without_a_device_condemns_none_and_has_each_verified_again() {
    let mut health = verified_at(0);
    let seen = Observation::UnplacedEvent { text: "Xid 79".into() };
    assert_eq!(health.observe(&seen, MINUTE), None);
    assert_eq!(health.standing(MINUTE), Standing::Ready);
    assert!(health.wants_verification(MINUTE));
    health.observe(&Observation::Verified, MINUTE);
    assert!(!health.wants_verification(MINUTE));
    health.observe(&seen, MINUTE + SECOND);
    assert!(
        !health.wants_verification(MINUTE + SECOND),
        "a flood of events is no flood of verifications"
    );
    assert!(health.wants_verification(MINUTE + DOUBT_AGAIN_MS));
    let wrong = Observation::VerificationFailed {
        reason: "byte 7".into(),
    };
    health.observe(&wrong, MINUTE + DOUBT_AGAIN_MS);
    assert_eq!(reason_of(&health.standing(2 * MINUTE)), Some("SelfTestFailed"));
}

#[test]
fn a_sensor_that_cannot_be_believed_keeps_new_layers_away_after_ten_seconds() {
    let mut health = verified_at(0);
    let wrong = Observation::SensorInvalid {
        reason: "the sensor says -40 °C".into(),
    };
    assert_eq!(health.observe(&wrong, SECOND), None);
    assert_eq!(health.standing(SECOND + SENSOR_GRACE_MS - 1), Standing::Ready);
    let Standing::Unproven { reason } = health.standing(SECOND + SENSOR_GRACE_MS) else {
        panic!("a device that may be hot gets layers");
    };
    assert_eq!(reason, "SensorInvalid: the sensor says -40 °C");
    assert!(matches!(
        health.observe(&wrong, 12 * SECOND),
        Some(Transition::Noted { .. })
    ));
    assert_eq!(health.observe(&wrong, 13 * SECOND), None);
    assert!(
        !health.wants_verification(13 * SECOND),
        "a verification says nothing of a sensor"
    );
    health.observe(&Observation::SensorFine, 14 * SECOND);
    assert_eq!(health.standing(14 * SECOND), Standing::Ready);
}

#[test]
fn memory_errors_that_were_mended_are_told_when_they_become_many() {
    let mut health = verified_at(0);
    let mended = |total| Observation::EccCorrected { total };
    assert_eq!(health.observe(&mended(5_000), 0), None, "since the driver was loaded");
    assert_eq!(health.observe(&mended(5_099), MINUTE), None);
    let told = health.observe(&mended(5_100), 2 * MINUTE);
    assert!(
        matches!(&told, Some(Transition::Noted { fault }) if fault.reason == "EccTrend"),
        "{told:?}"
    );
    assert_eq!(health.observe(&mended(6_000), 3 * MINUTE), None);
    assert_eq!(
        health.observe(&mended(10), 4 * MINUTE),
        None,
        "the driver was loaded again"
    );
    assert_eq!(health.standing(4 * MINUTE), Standing::Ready);
}

#[test]
fn a_clock_that_jumps_back_shortens_nothing_and_stops_nothing() {
    let mut health = verified_at(100 * HOUR);
    health.observe(&Observation::Gone, 100 * HOUR);
    health.observe(&Observation::Verified, 100 * HOUR);
    let back = 10 * HOUR;
    assert!(
        matches!(health.standing(back), Standing::Recovering { ready_at_ms, .. } if ready_at_ms == back + STABLE_MS)
    );
    health.observe(&Observation::SensorFine, back);
    assert!(matches!(
        health.standing(back + STABLE_MS - 1),
        Standing::Recovering { .. }
    ));
    assert_eq!(health.standing(back + STABLE_MS), Standing::Ready);
}

#[test]
fn time_alone_is_no_change_that_must_be_written() {
    let mut health = verified_at(0);
    let before = health.clone();
    health.observe(&Observation::SensorFine, HOUR);
    assert_ne!(health, before);
    assert!(health.same_story(&before));
    health.observe(&Observation::Gone, 2 * HOUR);
    assert!(!health.same_story(&before));
}

fn observation() -> impl Strategy<Value = Observation> {
    let reason = || "[ -~]{0,20}";
    prop_oneof![
        4 => Just(Observation::Verified),
        1 => reason().prop_map(|reason| Observation::VerificationFailed { reason }),
        1 => reason().prop_map(|reason| Observation::CouldNotMeasure { reason }),
        2 => (prop_oneof![0..200_u32, any::<u32>()], reason()).prop_map(|(xid, text)| Observation::Xid { xid, text }),
        1 => reason().prop_map(|text| Observation::UnplacedEvent { text }),
        1 => reason().prop_map(|reason| Observation::Lost { reason }),
        1 => reason().prop_map(|reason| Observation::FellOffBus { reason }),
        1 => reason().prop_map(|reason| Observation::UncorrectedMemory { reason }),
        1 => Just(Observation::ProbeHung),
        1 => reason().prop_map(|reason| Observation::DriverMismatch { reason }),
        1 => Just(Observation::Gone),
        1 => reason().prop_map(|reason| Observation::SensorInvalid { reason }),
        1 => Just(Observation::SensorFine),
        1 => any::<u64>().prop_map(|total| Observation::EccCorrected { total }),
        1 => "[ab]".prop_map(|boot_id| Observation::Booted { boot_id }),
        1 => Just(Observation::Reset),
    ]
}

fn is_fault(seen: &Observation) -> bool {
    let of_xid =
        |xid| xid::lookup(xid).is_some_and(|row| matches!(row.class, xid::Class::Fatal | xid::Class::UntilReset));
    match seen {
        Observation::Xid { xid, .. } => of_xid(*xid),
        other => fault::of(other).is_some(),
    }
}

proptest! {
    #[test]
    fn no_history_panics_at_any_time(history in prop::collection::vec((observation(), any::<u64>()), 0..60)) {
        let mut health = Health::new();
        for (seen, now) in &history {
            health.observe(seen, *now);
            health.standing(*now);
            health.wants_verification(*now);
        }
        let text = serde_json::to_string(&health).unwrap();
        let reread: Health = serde_json::from_str(&text).unwrap();
        prop_assert!(reread.same_story(&health));
    }

    #[test]
    fn a_device_is_never_ready_within_a_minute_of_a_fault(
        history in prop::collection::vec((observation(), 0..90 * SECOND), 1..80),
    ) {
        let (mut health, mut now, mut last_fault) = (Health::new(), 0, None);
        for (seen, later) in &history {
            now += later;
            // Whatever had been before the observation, the time between is looked at too.
            for moment in [now.saturating_sub(1), now] {
                if last_fault.is_some_and(|at| at <= moment && moment < at + STABLE_MS) {
                    prop_assert_ne!(health.standing(moment), Standing::Ready);
                }
            }
            health.observe(seen, now);
            if is_fault(seen) {
                last_fault = Some(now);
                prop_assert_ne!(health.standing(now), Standing::Ready);
            }
        }
    }

    #[test]
    fn what_waits_for_a_reset_is_never_ready_before_one(
        history in prop::collection::vec((observation(), 0..HOUR), 1..80),
        number in prop::sample::select(vec![48_u32, 64, 79, 95, 140]),
    ) {
        let (mut health, mut now) = (verified_at(0), 0);
        health.observe(&xid(number), now);
        for (seen, later) in &history {
            let other_boot = matches!(seen, Observation::Booted { boot_id } if boot_id != "a");
            if other_boot || *seen == Observation::Reset {
                break;
            }
            now += later;
            health.observe(seen, now);
            let failed = matches!(health.standing(now), Standing::Failed { .. });
            prop_assert!(failed);
            prop_assert!(!health.wants_verification(now));
        }
    }

    #[test]
    fn a_device_that_never_fails_is_ready_once_verified(
        history in prop::collection::vec((observation(), 0..90 * SECOND), 1..80),
    ) {
        let (mut health, mut now) = (verified_at(0), 0);
        for (seen, later) in &history {
            let harmless = !is_fault(seen)
                && !matches!(seen, Observation::SensorInvalid { .. })
                && !matches!(seen, Observation::Xid { xid, .. } if xid::lookup(*xid).is_some());
            now += later;
            if harmless {
                health.observe(seen, now);
            }
            prop_assert_eq!(health.standing(now), Standing::Ready);
        }
    }

    #[test]
    fn each_relapse_keeps_a_device_away_at_least_as_long_as_the_one_before(gaps in prop::collection::vec(0..10 * MINUTE, 2..12)) {
        let (mut health, mut now, mut before) = (verified_at(0), MINUTE, 0);
        for gap in gaps {
            let back = fail_and_return(&mut health, &Observation::Gone, now);
            prop_assert!(back - now >= before, "{} after {}", back - now, before);
            before = back - now;
            now = back + gap;
        }
    }

    #[test]
    fn a_clock_that_jumps_never_shortens_the_way_back(jumps in prop::collection::vec((0..30 * SECOND, 0..HOUR), 1..20)) {
        let mut health = verified_at(10 * HOUR);
        let mut clock = 10 * HOUR;
        health.observe(&Observation::Gone, clock);
        health.observe(&Observation::Verified, clock);
        let mut passed = 0;
        for (later, back) in jumps {
            clock += later;
            passed += later;
            health.observe(&Observation::SensorFine, clock);
            if passed < STABLE_MS {
                prop_assert_ne!(health.standing(clock), Standing::Ready);
            } else {
                prop_assert_eq!(health.standing(clock), Standing::Ready);
            }
            clock = clock.saturating_sub(back);
            health.observe(&Observation::SensorFine, clock);
        }
    }
}
