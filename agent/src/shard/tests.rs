use super::*;

fn slice() -> Slice {
    Slice {
        index: gguf::Digest([7; 32]),
        first_layer: 0,
        end_layer: 10,
        total_layers: 30,
        device: "node-cpu0".to_owned(),
        backend: "cpu".to_owned(),
        runtime: Runtime {
            context_length: 128,
            ..Runtime::default()
        },
        weight_root: [1; 32],
    }
}

fn desired(epoch: u64, purpose: Purpose, budget: u64) -> Desired {
    let in_force = (purpose == Purpose::Serve).then(|| InForce {
        epoch,
        pipeline_epoch: epoch,
        envelope: Arc::default(),
        next: None,
    });
    let place = Place {
        epoch,
        pipeline: 0,
        stage: 0,
        purpose,
    };
    Desired {
        slice: slice(),
        places: vec![place],
        in_force,
        uri: String::new(),
        access: Access::default(),
        peers: vec![],
        model: (String::new(), String::new()),
        memory_budget_bytes: budget,
    }
}

#[test]
fn whatever_a_worker_is_started_for_makes_another_slot() {
    let changes: [fn(&mut Slice); 9] = [
        |slice| slice.index.0[0] = 0,
        |slice| slice.first_layer = 1,
        |slice| slice.end_layer = 11,
        |slice| slice.total_layers = 31,
        |slice| slice.device.push('1'),
        |slice| slice.backend = "vulkan".to_owned(),
        |slice| slice.runtime.kv_cells = 1,
        |slice| slice.weight_root[0] = 0,
        // The texts one after the other are the same as before.
        |slice| (slice.device, slice.backend) = ("node-cpu0c".to_owned(), "pu".to_owned()),
    ];
    let mut keys = std::collections::BTreeSet::from([Slot::of("uid", &slice()).key()]);
    for change in changes {
        let mut slice = slice();
        change(&mut slice);
        assert!(keys.insert(Slot::of("uid", &slice).key()), "{slice:?}");
    }
    assert!(keys.insert(Slot::of("other", &slice()).key()));
}

#[test]
fn a_slot_is_called_by_its_layers_and_is_the_same_in_every_life() {
    // Files of an earlier life are found by it.
    assert_eq!(Slot::of("uid", &slice()).to_string(), "uid/0-9.12d714b3bab0");
}

#[test]
fn what_is_in_force_says_how_and_every_place_is_kept_once() {
    let mut all = desired(5, Purpose::Fetch, 1);
    all.join(desired(6, Purpose::Load, 2));
    assert_eq!((all.purpose(), all.memory_budget_bytes), (Purpose::Load, 2));
    all.join(desired(4, Purpose::Serve, 3));
    all.join(desired(5, Purpose::Load, 4));
    assert_eq!((all.purpose(), all.memory_budget_bytes), (Purpose::Serve, 3));
    assert_eq!(all.in_force.as_ref().map(|in_force| in_force.epoch), Some(4));
    let places: Vec<(u64, Purpose)> = all.places.iter().map(|place| (place.epoch, place.purpose)).collect();
    assert_eq!(places, [(4, Purpose::Serve), (5, Purpose::Load), (6, Purpose::Load)]);
    assert_eq!(all.place().map(|place| place.epoch), Some(4));
}
