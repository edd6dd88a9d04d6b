use super::*;

#[test]
fn a_step_survives_the_wire() {
    let sampling = Sampling {
        temperature: 0.5,
        top_p: 0.9,
        top_k: 40,
        seed: 7,
    };
    let step = Step {
        number: 12,
        operations: vec![
            KvOperation::forget(1),
            KvOperation::Remove(Removal {
                sequence: 2,
                from: 3,
                end: Some(9),
            }),
            KvOperation::Copy(PrefixCopy { from: 2, to: 1, end: 3 }),
        ],
        rows: vec![
            Row {
                sequence: 0,
                position: 4,
                token: 11,
                sample: None,
            },
            Row {
                sequence: 0,
                position: 5,
                token: 12,
                sample: Some(sampling),
            },
        ],
    };
    let activations = Bytes::from_static(&[1, 2, 3, 4]);
    let (epoch, received, carried) = Step::from_wire(step.to_wire(3, activations.clone())).unwrap();
    assert_eq!((epoch, received, carried), (3, step, activations));
}

#[test]
fn a_kv_operation_of_an_unknown_kind_is_refused() {
    let mut step = Step {
        number: 5,
        ..Step::default()
    }
    .to_wire(1, Bytes::new());
    step.kv_operations.push(wire::KvOperation { operation: None });
    assert!(Step::from_wire(step).unwrap_err().contains("step 5"));
}

#[test]
fn a_fault_survives_the_wire_and_an_unknown_reason_means_unreachable() {
    let fault = StepFault {
        stage: 2,
        reason: Reason::KvFull,
        message: "full".into(),
    };
    assert_eq!(StepFault::from_wire(fault.to_wire()), fault);
    let odd = wire::StepError {
        stage: 1,
        reason: "Odd".into(),
        message: String::new(),
    };
    assert_eq!(StepFault::from_wire(odd).reason, Reason::Unreachable);
}

#[test]
fn every_reason_is_heard_as_it_was_said_and_only_two_leave_the_other_sequences_alone() {
    let of_the_step = [
        (Reason::OutOfOrder, false),
        (Reason::WrongShape, false),
        (Reason::KvFull, true),
        (Reason::Compute, true),
        (Reason::Unreachable, false),
        (Reason::WrongEpoch, false),
    ];
    for (reason, others_go_on) in of_the_step {
        let fault = StepFault {
            stage: 2,
            reason,
            message: String::new(),
        };
        assert_eq!(StepFault::from_wire(fault.to_wire()).reason, reason);
        assert_eq!(reason.is_of_the_step(), others_go_on, "{reason:?}");
    }
}

#[test]
fn a_sampled_token_survives_the_wire() {
    let sampled = Sampled {
        sequence: 3,
        position: 7,
        token: 42,
    };
    assert_eq!(Sampled::from_wire(&sampled.to_wire()), sampled);
}
