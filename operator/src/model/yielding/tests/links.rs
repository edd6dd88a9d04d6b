//! Models of higher priority whose links are full.

use std::time::Duration;

use super::*;

/// Tokens per second that models ask for, each of 256 bytes: 2560 bytes a second. One stream goes at some 200, which is 51 kB/s.
const RATE: i32 = 10;
/// What they may use of a link, all others included: of a [`WIDE`] one less than a stream takes, and far more than [`RATE`] does.
const PERCENT: i32 = 3;
/// Bytes per second.
const WIDE: u64 = 1_000_000;
/// One activation takes a quarter of a second: too long for [`RATE`].
const NARROW: u64 = 1_000;

/// Nodes n0, n1 and so on with room for several models. The links that are named are wide, all others narrow.
fn fleet(nodes: usize, wide: &[(&str, &str)]) -> Fleet {
    let mut fleet = Fleet::of(&vec![400; nodes]);
    fleet.links = links(nodes, |from, to| match wide.contains(&(from, to)) {
        true => WIDE,
        false => NARROW,
    });
    fleet
}

fn links(nodes: usize, bytes_per_second: impl Fn(&str, &str) -> u64) -> Links {
    let names: Vec<String> = (0..nodes).map(|at| format!("n{at}")).collect();
    let ways = names.iter().flat_map(|from| names.iter().map(move |to| (from, to)));
    let link = |(from, to): (&String, &String)| {
        let rate = topology::Rate {
            bytes_per_second: bytes_per_second(from, to),
            origin: topology::Origin::Measured,
        };
        ((from.clone(), to.clone()), topology::Link { latency_us: 10, rate })
    };
    ways.map(link).collect()
}

impl Fleet {
    /// A model in two stages, with or without a rate that it asks for.
    fn add_pair(&mut self, name: &str, priority: i32, rate: Option<i32>) {
        self.add_pair_of(10, name, priority, rate.map(|rate| (rate, Some(PERCENT))));
    }

    /// The same, of layers of so many mebibytes. `asks`: for which rate, and how many per cent of a link it may use at that.
    fn add_pair_of(&mut self, layer_mib: u64, name: &str, priority: i32, asks: Option<(i32, Option<i32>)>) {
        self.add_on(Some(2), name, priority, layer_mib);
        let model = self.observed.models.last_mut().unwrap();
        let placement = &mut Arc::make_mut(model).spec.placement;
        placement.min_devices = 2;
        placement.min_tokens_per_second = asks.map(|(rate, _)| rate);
        placement.max_link_percent = asks.and_then(|(_, percent)| percent);
    }
}

#[test]
fn a_higher_model_takes_a_lower_ones_link_and_both_say_so() {
    let mut fleet = fleet(2, &[("n0", "n1")]);
    fleet.add_pair("small", 0, None);
    fleet.settle();
    assert_eq!(fleet.devices("small"), ["n0-cpu0", "n1-cpu0"]);
    fleet.add_pair("big", 10, Some(RATE));
    fleet.settle();
    assert_eq!(fleet.devices("big"), ["n0-cpu0", "n1-cpu0"]);
    let (_, message) = fleet.placed("big");
    assert!(
        message.ends_with("took the link n0 -> n1 from default/small (priority 0)"),
        "{message}"
    );
    // It has no rate to keep, so that the narrow way back is good enough for it.
    assert_eq!(fleet.devices("small"), ["n1-cpu0", "n0-cpu0"]);
    let (reason, message) = fleet.placed("small");
    assert_eq!(reason, "Placed");
    assert!(
        message.ends_with("yielded the link n0 -> n1 to default/big (priority 10 > 0)"),
        "{message}"
    );
    let record = fleet.term.models["small"].yielded.clone().expect("a record");
    assert_eq!(record.devices, Vec::<String>::new(), "there was memory for both");
}

#[test]
fn the_higher_model_waits_until_the_shards_have_left_that_use_its_link() {
    let mut fleet = fleet(2, &[("n0", "n1")]);
    fleet.add_pair("small", 0, None);
    fleet.settle();
    fleet.add_pair("big", 10, Some(RATE));
    for _ in 0..3 {
        fleet.pass();
        assert_eq!(fleet.devices("big"), Vec::<&str>::new());
        assert_eq!(fleet.devices("small"), ["n1-cpu0", "n0-cpu0"]);
        let (reason, message) = fleet.placed("big");
        assert_eq!(reason, "AwaitsLinks");
        assert_eq!(message, "waits until the links are free that default/small gave up");
    }
    fleet.unload();
    fleet.pass();
    assert_eq!(fleet.devices("big"), ["n0-cpu0", "n1-cpu0"]);
}

#[test]
fn no_link_is_used_while_the_lower_ones_status_cannot_be_written() {
    let mut fleet = fleet(2, &[("n0", "n1")]);
    fleet.add_pair("small", 0, None);
    fleet.settle();
    fleet.add_pair("big", 10, Some(RATE));
    fleet.unwritten.insert("small".into());
    for _ in 0..3 {
        fleet.pass();
        assert_eq!(fleet.devices("big"), Vec::<&str>::new());
        assert_eq!(fleet.devices("small"), ["n0-cpu0", "n1-cpu0"]);
    }
    fleet.unwritten.clear();
    fleet.settle();
    assert_eq!(fleet.devices("big"), ["n0-cpu0", "n1-cpu0"]);
}

#[test]
fn a_lower_model_for_which_there_is_no_other_link_is_without_a_place_until_there_is_one() {
    let mut fleet = fleet(2, &[("n0", "n1")]);
    fleet.add_pair("small", 0, Some(RATE));
    fleet.settle();
    fleet.add_pair("big", 10, Some(RATE));
    fleet.settle();
    assert_eq!(fleet.devices("big"), ["n0-cpu0", "n1-cpu0"]);
    assert_eq!(fleet.devices("small"), Vec::<&str>::new());
    let (reason, message) = fleet.placed("small");
    assert_eq!(reason, "Yielded");
    assert!(
        message.starts_with("yielded the link n0 -> n1 to default/big (priority 10 > 0); "),
        "{message}"
    );
    fleet.remove("big");
    fleet.settle();
    assert_eq!(fleet.devices("small"), ["n0-cpu0", "n1-cpu0"]);
}

#[test]
fn equals_and_higher_ones_never_yield_a_link() {
    for priority in [0, -5] {
        let mut fleet = fleet(2, &[("n0", "n1")]);
        fleet.add_pair("first", 0, None);
        fleet.settle();
        fleet.add_pair("second", priority, Some(RATE));
        fleet.settle();
        assert_eq!(fleet.devices("first"), ["n0-cpu0", "n1-cpu0"]);
        assert_eq!(fleet.devices("second"), Vec::<&str>::new());
        let (reason, message) = fleet.placed("second");
        assert_eq!(reason, "ConstraintsClash", "{message}");
        assert!(message.contains("is full: a hop of 2.5 KiB/s"), "{message}");
    }
}

#[test]
fn one_lower_model_yields_its_link_where_one_will_do_and_it_is_the_lowest() {
    let mut fleet = fleet(4, &[("n0", "n1"), ("n2", "n3")]);
    let devices = |fleet: &Fleet, name: &str| fleet.devices(name).join(" ");
    for (name, priority) in [("a", 1), ("b", 0)] {
        fleet.add_pair(name, priority, Some(RATE));
        fleet.settle();
    }
    let (of_a, of_b) = (devices(&fleet, "a"), devices(&fleet, "b"));
    let both = BTreeSet::from([of_a.as_str(), of_b.as_str()]);
    assert_eq!(both, BTreeSet::from(["n0-cpu0 n1-cpu0", "n2-cpu0 n3-cpu0"]));
    fleet.add_pair("big", 2, Some(RATE));
    fleet.settle();
    assert_eq!((devices(&fleet, "a"), devices(&fleet, "big")), (of_a, of_b));
    assert_eq!(fleet.placed("b").0, "Yielded");
}

#[test]
fn a_lower_model_beside_which_there_is_enough_of_the_link_stays() {
    let mut fleet = fleet(2, &[("n0", "n1")]);
    fleet.add_pair("small", 0, None);
    fleet.settle();
    fleet.add_pair("big", 10, Some(RATE));
    let big = fleet.observed.models.last_mut().unwrap();
    Arc::make_mut(big).spec.placement.max_link_percent = Some(10);
    fleet.settle();
    assert_eq!(fleet.devices("big"), ["n0-cpu0", "n1-cpu0"]);
    assert_eq!(fleet.devices("small"), ["n0-cpu0", "n1-cpu0"]);
    assert_eq!(fleet.term.models["small"].yielded, None);
}

#[test]
fn a_lower_model_that_comes_later_leaves_a_higher_one_its_link_and_an_equal_one_does_not() {
    for (priority, devices) in [(9, ["n1-cpu0", "n0-cpu0"]), (10, ["n0-cpu0", "n1-cpu0"])] {
        let mut fleet = fleet(2, &[("n0", "n1")]);
        fleet.add_pair("first", 10, Some(RATE));
        fleet.settle();
        fleet.add_pair("second", priority, None);
        fleet.settle();
        assert_eq!(fleet.devices("second"), devices);
        assert_eq!(fleet.devices("first"), ["n0-cpu0", "n1-cpu0"]);
    }
}

#[test]
fn who_yielded_a_link_is_not_moved_back_to_it_for_speed_before_the_higher_one_is_gone() {
    let mut fleet = fleet(2, &[("n0", "n1")]);
    fleet.threshold = Threshold {
        percent: 15,
        lasting: Duration::ZERO,
    };
    fleet.add_pair("small", 0, None);
    fleet.settle();
    fleet.add_pair("big", 10, Some(RATE));
    fleet.settle();
    assert_eq!(fleet.devices("small"), ["n1-cpu0", "n0-cpu0"]);
    let moves = |fleet: &Fleet| fleet.term.models["small"].moving.proposal.is_some();
    assert!(!moves(&fleet));
    fleet.remove("big");
    fleet.pass();
    assert!(moves(&fleet), "a token takes a fiftieth of the time there");
}

/// A search counts a hop at the best pace that there could be, which is more than the plan that it finds will put there: by the latter
/// alone the lower model would fit beside it on the link that it has just yielded.
#[test]
fn who_yielded_a_link_is_not_put_on_it_again_while_the_higher_one_waits_for_it() {
    let mut fleet = fleet(2, &[("n0", "n1")]);
    // A device that has room for nothing, and with which a stream would be five times as fast.
    fleet.join("n2", 1);
    let fast = fleet.observed.devices.last_mut().unwrap();
    let fast = Arc::make_mut(fast).status.as_mut().unwrap();
    fast.bandwidth_bytes_per_second = Some(crds::Measurement {
        value: 150_000_000_000,
        measured_at: Time(Timestamp::UNIX_EPOCH),
        samples: 5,
    });
    // Of a megabyte a second it leaves 287 kB/s to all others.
    fleet.add_pair_of(10, "first", 20, Some((RATE, Some(29))));
    fleet.settle();
    // 28 kB/s, and 190 kB/s at the best pace.
    fleet.add_pair_of(20, "small", 0, None);
    fleet.settle();
    for name in ["first", "small"] {
        assert_eq!(fleet.devices(name), ["n0-cpu0", "n1-cpu0"]);
    }
    // 51 kB/s, and 275 kB/s at the best pace; the way back is too narrow for its rate.
    fleet.add_pair_of(10, "big", 10, Some((RATE, None)));
    fleet.settle();
    assert_eq!(fleet.devices("big"), ["n0-cpu0", "n1-cpu0"]);
    assert_eq!(fleet.devices("small"), ["n1-cpu0", "n0-cpu0"]);
    let epoch = |name: &str| fleet.term.models[name].in_force.as_ref().unwrap().placement.epoch;
    assert_eq!(
        (epoch("small"), epoch("big")),
        (2, 1),
        "each is placed as seldom as can be"
    );
}

#[test]
fn a_link_to_which_a_model_moves_is_left_to_it_while_it_loads() {
    let mut fleet = fleet(4, &[("n0", "n1")]);
    fleet.threshold = Threshold {
        percent: 15,
        lasting: Duration::ZERO,
    };
    fleet.add_pair("big", 10, Some(RATE));
    fleet.settle();
    assert_eq!(fleet.devices("big"), ["n0-cpu0", "n1-cpu0"]);
    // A hop takes half as long as computing, and elsewhere next to nothing.
    fleet.links = links(4, |from, to| match (from, to) {
        ("n0", "n1") => WIDE / 10,
        ("n2", "n3") => WIDE,
        _ => NARROW,
    });
    fleet.add_pair("small", 0, None);
    fleet.pass();
    assert!(fleet.term.models["big"].moving.proposal.is_some());
    let devices = fleet.devices("small");
    assert_eq!(devices.len(), 2);
    assert_ne!(devices, ["n2-cpu0", "n3-cpu0"], "it would fill the link");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Checked after every pass: no device is given away twice, and nobody loses its place to an equal or a lower one.
    #[test]
    fn models_that_share_links_come_to_rest_and_stay_there(
        nodes in prop::collection::vec(180_u64..420, 2..4),
        rates in prop::collection::vec(prop::sample::select(vec![2_000_u64, 100_000, 1_000_000, 100_000_000]), 9),
        models in prop::collection::vec(
            (-1_i32..3, 5_u64..20, 1_i32..4, prop::option::weighted(0.6, (1_i32..60, 1_i32..101)), any::<bool>()),
            1..5,
        ),
        gone in 0_usize..8,
    ) {
        let mut fleet = Fleet::of(&nodes);
        let place = |node: &str| node[1..].parse::<usize>().unwrap();
        fleet.links = links(nodes.len(), |from, to| rates[3 * place(from) + place(to)]);
        fleet.comes_to_rest(models.len(), gone, |fleet, name, at| {
            let (priority, layer_mib, devices, asks, waits) = models[at];
            fleet.add_on(Some(devices), name, priority, layer_mib);
            let model = fleet.observed.models.last_mut().unwrap();
            let placement = &mut Arc::make_mut(model).spec.placement;
            placement.min_devices = devices;
            placement.min_tokens_per_second = asks.map(|(rate, _)| rate);
            placement.max_link_percent = asks.map(|(_, percent)| percent);
            waits
        });
    }
}
