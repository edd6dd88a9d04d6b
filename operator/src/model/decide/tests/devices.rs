//! Devices in trouble, tainted, gone or failing: which layers leave, which stay, and what is said.

use super::*;

/// What the device's agent says of it.
fn says(cluster: &mut Cluster, device: &str, kind: &str, status: ConditionStatus, reason: &str) {
    change(cluster, device, |object| {
        let new = crds::conditions::NewCondition {
            kind,
            status,
            reason,
            message: "m",
        };
        let conditions = &mut object.status.as_mut().expect("a status").conditions;
        let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
        crds::conditions::set_condition(conditions, new, Some(1), &Time(now));
    });
}

fn placed_on_two_of_three() -> (Cluster, String) {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", GIB)]);
    cluster.require_devices(2);
    let device = cluster.place().stages()[0].device.clone();
    (cluster, device)
}

#[test]
fn a_device_in_trouble_or_in_other_hands_loses_its_layers() {
    let away = [
        (kind::HEALTHY, "FellOffBus"),
        (kind::HEALTHY, "Recovering"),
        (kind::HEALTHY, "HeldDown"),
        (kind::VERIFIED, "SelfTestFailed"),
        (kind::READY, "Foreign"),
    ];
    for (kind, reason) in away {
        let (mut cluster, lost) = placed_on_two_of_three();
        says(&mut cluster, &lost, kind, ConditionStatus::False, reason);
        let after = cluster.place();
        assert!(!devices(&after).contains(&lost.as_str()), "{reason}");
    }
}

#[test]
fn a_device_that_is_hot_or_open_to_doubt_keeps_its_layers_and_gets_no_others() {
    let doubts = [
        (kind::READY, ConditionStatus::False, "SensorInvalid"),
        (kind::READY, ConditionStatus::False, "NotVerified"),
        (kind::VERIFIED, ConditionStatus::Unknown, "CouldNotMeasure"),
    ];
    for (kind, status, reason) in doubts {
        let (mut cluster, doubtful) = placed_on_two_of_three();
        says(&mut cluster, &doubtful, kind, status, reason);
        cluster.keeps();
        cluster.state.in_force = None;
        let anew = cluster.place();
        assert!(!devices(&anew).contains(&doubtful.as_str()), "{reason}");
    }
    let (mut cluster, hot) = placed_on_two_of_three();
    says(&mut cluster, &hot, kind::THROTTLED, ConditionStatus::True, "Thermal");
    cluster.keeps();
}

#[test]
fn a_taint_does_to_layers_what_its_effect_says() {
    let taint = |effect| crds::DeviceTaint {
        key: "repair".into(),
        value: None,
        effect,
    };
    let (mut cluster, device) = placed_on_two_of_three();
    change(&mut cluster, &device, |object| {
        object.spec.taints = Some(vec![taint(crds::TaintEffect::NoPlace)]);
    });
    cluster.keeps();
    change(&mut cluster, &device, |object| {
        object.spec.taints = Some(vec![taint(crds::TaintEffect::Evict)]);
    });
    assert!(!devices(&cluster.place()).contains(&device.as_str()));
}

#[test]
fn a_model_that_tolerates_a_taint_stays_on_the_device_and_another_leaves_it() {
    let taint = |key: &str| crds::DeviceTaint {
        key: key.into(),
        value: Some("lab".into()),
        effect: crds::TaintEffect::Evict,
    };
    let (mut cluster, device) = placed_on_two_of_three();
    cluster.model.spec.placement.tolerations = Some(vec![crds::Toleration {
        key: Some("lent".into()),
        operator: crds::TolerationOperator::Equal,
        value: Some("lab".into()),
        effect: None,
    }]);
    let tainted = |key: &str| {
        let taints = Some(vec![taint(key)]);
        move |object: &mut crds::DeviceGPUState| object.spec.taints = taints
    };
    change(&mut cluster, &device, tainted("lent"));
    cluster.keeps();
    cluster.state.inspection = Inspection::new(cluster.model.spec.source.clone(), fixture::UID);
    cluster.keeps();
    change(&mut cluster, &device, tainted("repair"));
    assert!(
        matches!(cluster.decide().placed, Placed::NotYet(_)),
        "taints are heeded before the source is known"
    );
    resolve(&mut cluster.state.inspection);
    assert!(!devices(&cluster.place()).contains(&device.as_str()));
}

#[test]
fn where_every_device_is_tainted_the_message_names_the_taint() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    change(&mut cluster, "a-cpu0", |object| {
        object.spec.taints = Some(vec![crds::DeviceTaint {
            key: "repair".into(),
            value: Some("fan".into()),
            effect: crds::TaintEffect::Evict,
        }]);
    });
    let why = cluster.refuses();
    assert!(
        why.message.contains("a-cpu0 is tainted repair=fan:Evict"),
        "{}",
        why.message
    );
}

#[test]
fn where_no_other_device_is_there_the_message_says_what_keeps_this_one_away() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    says(&mut cluster, "a-cpu0", kind::READY, ConditionStatus::False, "Foreign");
    let why = cluster.refuses();
    assert!(
        why.message.contains("a-cpu0 is not ours to use (Foreign: m)"),
        "{}",
        why.message
    );
}

#[test]
fn a_device_that_keeps_failing_is_left_out_if_there_is_another() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let failing = cluster.place().stages()[0].device.clone();
    for health in [Health::Failed, Health::Working, Health::Failed] {
        cluster.state.failures.observe(&failing, health, cluster.now);
    }
    assert_ne!(cluster.place().stages()[0].device, failing);
}

#[test]
fn a_device_that_keeps_failing_stays_where_there_is_no_other() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    let failing = cluster.place().stages()[0].device.clone();
    for health in [Health::Failed, Health::Working, Health::Failed] {
        cluster.state.failures.observe(&failing, health, cluster.now);
    }
    cluster.keeps();
}
