//! Links that several hops and several pipelines use.

use super::*;

/// A hop of the model at its rate is 2560 bytes a second, and the other's, one stream at 200 µs a token, 1.28 MB.
#[test]
fn what_others_put_on_a_link_keeps_a_new_model_off_it_and_moves_none_that_is_placed() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.require_devices(2);
    cluster.model.spec.placement.min_tokens_per_second = Some(10);
    cluster.model.spec.placement.max_link_percent = Some(50);
    cluster.links = measured(&[("a", "b", 50, 2)]);
    let other = |nodes: &[&str]| ("another".to_owned(), fixture::in_force_of("another", 1, nodes));
    // Its memory is small; its hop leaves the other direction.
    cluster.others.push(other(&["a", "b"]));
    let placed = cluster.place();
    assert_eq!(placed.nodes().collect::<Vec<_>>(), ["b", "a"]);
    cluster.others = vec![other(&["b", "a"])];
    cluster.keeps();
    cluster.state.in_force = None;
    cluster
        .others
        .push(("third".to_owned(), fixture::in_force_of("third", 1, &["a", "b"])));
    let why = cluster.refuses();
    assert!(why.message.contains("maxLinkPercent 50"), "{}", why.message);
    assert!(
        why.message.contains("is full: a hop of 2.5 KiB/s, 1.2 MiB/s of")
            && why.message.contains("(50 % of 1.9 MiB/s)"),
        "{}",
        why.message
    );
}

/// Links between a and b that carry so many bytes a second, and none within the nodes.
fn links_of(bytes_per_second: u64) -> Links {
    let link = |(from, to): (&str, &str)| {
        let rate = topology::Rate {
            bytes_per_second: if from == to { 1 } else { bytes_per_second },
            origin: topology::Origin::Measured,
        };
        (
            (from.to_owned(), to.to_owned()),
            topology::Link { latency_us: 10, rate },
        )
    };
    [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
        .into_iter()
        .map(link)
        .collect()
}

/// Two devices on each of two nodes, and links between these that carry one hop of the model each.
fn two_nodes_of_two() -> Cluster {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.require_devices(2);
    cluster.model.spec.placement.max_devices = Some(2);
    cluster.model.spec.placement.min_tokens_per_second = Some(10);
    for node in ["a", "b"] {
        let mut twin = (*fixture::cpu(node, GIB)).clone();
        twin.metadata.name = Some(format!("{node}-cpu1"));
        twin.status.as_mut().expect("a status").memory_pool = format!("{node}-cpu1");
        cluster.observed.devices.push(Arc::new(twin));
    }
    cluster.links = links_of(2560);
    cluster
}

#[test]
fn a_new_replica_reckons_with_the_links_of_those_that_go_on() {
    let mut cluster = two_nodes_of_two();
    let first = cluster.place();
    cluster.model.spec.replicas = 2;
    let both = cluster.place();
    assert_eq!(both.pipelines()[0], first.pipelines()[0]);
    let heads = both.pipelines().iter().map(|pipeline| pipeline.stages[0].node.as_str());
    assert_eq!(
        heads.collect::<BTreeSet<_>>(),
        BTreeSet::from(["a", "b"]),
        "each direction carries one of them"
    );
}

/// As a rate is not asked for again of what serves.
#[test]
fn a_link_that_is_slower_than_it_was_moves_a_model_only_where_a_share_of_it_must_stay_free() {
    let mut cluster = two_nodes_of_two();
    cluster.place();
    cluster.links = links_of(2000);
    cluster.keeps();
    cluster.links = links_of(3000);
    cluster.model.spec.placement.max_link_percent = Some(50);
    assert!(cluster.refuses().message.contains("maxLinkPercent 50"));
}
