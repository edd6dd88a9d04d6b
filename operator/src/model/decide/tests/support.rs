//! What a device can compute of a model, and how exactly.

use super::*;

#[test]
fn strict_numbers_that_no_stage_would_promise_are_refused_before_anything_is_placed() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.model.spec.determinism = crds::Determinism::Strict;
    cluster.of_architecture("lfm2moe");
    let why = cluster.refuses();
    assert_eq!(why.reason, "StrictNotSupported");
    assert!(
        why.message
            .starts_with("`lfm2moe` keeps a recurrent state beside attention"),
        "{}",
        why.message
    );
    assert!(
        why.message.contains("set spec.determinism to Relaxed"),
        "{}",
        why.message
    );

    // Those for which it is shown, those without states, and those who do not ask for it are placed.
    for (architecture, determinism) in [
        ("jamba", crds::Determinism::Strict),
        ("mamba", crds::Determinism::Strict),
        ("llama", crds::Determinism::Strict),
        ("lfm2moe", crds::Determinism::Relaxed),
    ] {
        let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
        cluster.model.spec.determinism = determinism;
        cluster.of_architecture(architecture);
        cluster.place();
    }
}

#[test]
fn what_serves_is_not_replaced_by_what_strict_numbers_cannot_be_had_of() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    cluster.of_architecture("lfm2moe");
    cluster.place();
    cluster.model.spec.determinism = crds::Determinism::Strict;
    let decided = cluster.decide();
    assert!(matches!(&decided.placed, Placed::No(why) if why.reason == "StrictNotSupported"));
    assert_eq!((decided.new_in_force, decided.withdrawn), (None, false));
}

#[test]
fn first_and_last_layers_are_where_tokens_may_be_seen() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB), ("c", GIB)]);
    cluster.require_devices(3);
    let trusted = |name: &str| {
        (
            name.to_owned(),
            BTreeMap::from([("trusted".to_owned(), "yes".to_owned())]),
        )
    };
    cluster.observed.node_labels = [trusted("a"), ("b".to_owned(), BTreeMap::new()), trusted("c")]
        .map(|(node, labels)| (node, labels.into()))
        .into();
    cluster.model.spec.placement.token_node_selector = Some(trusted("").1);
    let placed = cluster.place();
    assert_eq!(placed.stages()[1].node, "b");
    cluster.keeps();
    // A node that is trusted no more is left.
    cluster.observed.node_labels.insert("c".to_owned(), Default::default());
    assert_eq!(cluster.refuses().reason, "ConstraintsClash");
}

/// The model's source is of other facts.
fn is_of(cluster: &mut Cluster, change: impl FnOnce(&mut Facts)) {
    let mut facts = fixture::facts();
    change(&mut facts);
    cluster.state.inspection = Inspection::new(cluster.model.spec.source.clone(), fixture::UID);
    cluster.state.inspection.asked("a".into(), 0, 1, Instant::now());
    assert!(cluster.state.inspection.answered("a", 1, Ok(Arc::new(facts))));
}

#[test]
fn an_architecture_that_a_device_has_no_kernels_for_is_not_placed_on_it_and_not_taken_from_it() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let vulkan = |missing: Option<&[&str]>| {
        let missing = missing.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        move |object: &mut crds::DeviceGPUState| {
            let status = object.status.as_mut().expect("a status");
            (status.backend, status.missing_operators) = ("vulkan".into(), missing);
        }
    };
    change(&mut cluster, "a-cpu0", vulkan(None));
    is_of(&mut cluster, |facts| facts.architecture = "mamba".into());
    // Before its backend was asked the table counts, then what it said.
    assert_eq!(devices(&cluster.place()), ["b-cpu0"]);
    change(&mut cluster, "a-cpu0", vulkan(Some(&["SSM_SCAN_MAMBA1"])));
    cluster.state.in_force = None;
    assert_eq!(devices(&cluster.place()), ["b-cpu0"]);
    cluster.agents.remove("b");
    cluster.state.in_force = None;
    let why = cluster.refuses();
    assert!(
        why.message.contains(
            "a-cpu0 computes no mamba models: backend vulkan has no kernel for SSM_SCAN_MAMBA1 here (another"
        ),
        "{}",
        why.message
    );
    change(&mut cluster, "a-cpu0", vulkan(Some(&["SSM_SCAN_MAMBA2"])));
    assert_eq!(devices(&cluster.place()), ["a-cpu0"]);
    // What serves has shown that it can.
    change(&mut cluster, "a-cpu0", vulkan(Some(&["SSM_SCAN_MAMBA1"])));
    cluster.keeps();
}

#[test]
fn weights_that_a_backend_has_no_kernel_for_are_not_placed_on_it() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let mut state = (*cluster.observed.devices[0]).clone();
    state.status.as_mut().unwrap().backend = "opencl".into();
    cluster.observed.devices[0] = Arc::new(state);
    is_of(&mut cluster, |facts| facts.quantisation = "IQ3_XXS".into());
    assert_eq!(devices(&cluster.place()), ["b-cpu0"]);
    cluster.state.in_force = None;
    cluster.require_devices(2);
    let why = cluster.refuses();
    assert!(
        why.message.contains("a-cpu0 computes no IQ3_XXS weights"),
        "{}",
        why.message
    );
    assert!(
        why.message.ends_with("it would fit without minDevices 2"),
        "{}",
        why.message
    );
}
