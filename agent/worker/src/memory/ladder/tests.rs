use super::*;

const GIB: u64 = 1 << 30;

fn usage(used: u64) -> Usage {
    Usage {
        used_bytes: used * GIB / 100,
        limit_bytes: GIB,
    }
}

#[test]
fn rungs_are_taken_as_headroom_shrinks_and_left_with_a_margin() {
    let settled = usage(50);
    let mut rung = Rung::Calm;
    let mut seen = Vec::new();
    for used in [60, 89, 91, 94, 96, 94, 92, 88, 86, 84, 50] {
        rung = next(usage(used), settled, rung);
        seen.push(rung);
    }
    use Rung::{AdmissionStopped as Stopped, Calm, EvictingPrefixes as Evicting};
    let expected = [
        Calm, Calm, Stopped, Stopped, Evicting, Evicting, Stopped, Stopped, Stopped, Calm, Calm,
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_shard_that_fills_its_node_by_design_is_calm_until_what_was_left_halves() {
    let settled = usage(96);
    assert_eq!(next(usage(96), settled, Rung::Calm), Rung::Calm);
    assert_eq!(next(usage(97), settled, Rung::Calm), Rung::Calm);
    assert_eq!(next(usage(99), settled, Rung::Calm), Rung::AdmissionStopped);
    assert_eq!(next(usage(100), settled, Rung::Calm), Rung::EvictingPrefixes);
    let over = Usage {
        used_bytes: 2 * GIB,
        limit_bytes: GIB,
    };
    assert_eq!(next(over, settled, Rung::Calm), Rung::EvictingPrefixes);
}

#[test]
fn the_word_names_the_most_painful_of_what_holds() {
    let mut pressure = Pressure::default();
    assert_eq!(pressure.word(), None);
    pressure.kv_quantised = true;
    assert_eq!(pressure.word(), Some("KvQuantised"));
    pressure.host_layers = 3;
    assert_eq!(pressure.word(), Some("LayersOnHost"));
    pressure.rung = Rung::AdmissionStopped;
    assert_eq!(pressure.word(), Some("AdmissionStopped"));
    pressure.rung = Rung::EvictingPrefixes;
    assert_eq!(pressure.word(), Some("EvictingPrefixes"));
}

const MIB: u64 = 1 << 20;

fn limits(budget_mib: u64) -> Limits {
    Limits {
        budget_bytes: budget_mib * MIB,
        layers: 10,
        accelerator: true,
        allow_kv_quantisation: true,
        allow_host_layers: true,
    }
}

fn taken(weights: u64, kv: u64, compute: u64) -> Option<Taken> {
    Some(Taken {
        weights_bytes: weights * MIB,
        kv_bytes: kv * MIB,
        compute_bytes: compute * MIB,
    })
}

const AS_CONFIGURED: Attempt = Attempt {
    kv_type: KvType::F16,
    host_layers: 0,
};

#[test]
fn what_fits_or_has_no_budget_is_kept() {
    assert_eq!(
        after_loading(taken(80, 10, 10), &limits(100), AS_CONFIGURED),
        Action::Keep
    );
    assert_eq!(
        after_loading(taken(80, 10, 10), &limits(0), AS_CONFIGURED),
        Action::Keep
    );
}

#[test]
fn the_cache_is_quantised_first_then_as_many_layers_move_as_are_missing() {
    let quantised = Attempt {
        kv_type: KvType::Q8_0,
        host_layers: 0,
    };
    assert_eq!(
        after_loading(taken(80, 20, 20), &limits(90), AS_CONFIGURED),
        Action::Retry(quantised)
    );
    let moved = |host_layers| {
        Action::Retry(Attempt {
            host_layers,
            ..quantised
        })
    };
    // 110 of 90: 20 are missing, a layer has 9.
    assert_eq!(after_loading(taken(80, 10, 20), &limits(90), quantised), moved(3));
    let three = Attempt {
        host_layers: 3,
        ..quantised
    };
    assert_eq!(after_loading(taken(56, 7, 28), &limits(90), three), moved(4));
    // Nobody knows what it would have taken.
    assert_eq!(after_loading(None, &limits(90), quantised), moved(3));
}

#[test]
fn what_is_not_allowed_or_does_not_help_is_refused_with_the_numbers() {
    let strict = Limits {
        allow_kv_quantisation: false,
        allow_host_layers: false,
        ..limits(90)
    };
    let Action::Refuse(message) = after_loading(taken(80, 20, 20), &strict, AS_CONFIGURED) else {
        panic!("not refused")
    };
    for part in [
        "80.0 MiB of weights",
        "20.0 MiB of KV",
        "120.0 MiB",
        "30.0 MiB more",
        "90.0 MiB",
        "q8_0",
        "host",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let all_moved = Attempt {
        kv_type: KvType::Q8_0,
        host_layers: 10,
    };
    assert!(matches!(
        after_loading(taken(0, 0, 100), &limits(90), all_moved),
        Action::Refuse(_)
    ));
    let processor = Limits {
        accelerator: false,
        ..limits(90)
    };
    let quantised = Attempt {
        host_layers: 0,
        ..all_moved
    };
    assert!(matches!(after_loading(None, &processor, quantised), Action::Refuse(_)));
}

#[test]
fn every_walk_down_the_ladder_ends() {
    for missing in [None, taken(1000, 1000, 1000)] {
        let mut attempt = AS_CONFIGURED;
        let mut loads = 0;
        while let Action::Retry(next) = after_loading(missing, &limits(90), attempt) {
            assert_ne!(next, attempt);
            attempt = next;
            loads += 1;
        }
        assert!(loads <= 6, "{loads} loads");
    }
}
