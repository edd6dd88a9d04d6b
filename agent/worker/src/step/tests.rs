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
