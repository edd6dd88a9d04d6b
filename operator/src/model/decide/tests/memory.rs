//! Bytes: of other models, of its own, measured ones, and those that are missing.

use super::*;

#[test]
fn a_model_that_does_not_fit_says_how_many_bytes_are_missing() {
    let mut cluster = Cluster::of(&[("a", 64 << 20)]);
    let why = cluster.refuses();
    assert_eq!(why.reason, "InsufficientMemory");
    assert!(why.message.contains("MiB"), "{}", why.message);
    assert!(cluster.state.refused.is_some(), "the same problem is not solved twice");
    assert_eq!(cluster.refuses(), why);
    cluster.observed.devices[0] = fixture::cpu("a", GIB);
    cluster.place();
    assert!(cluster.state.refused.is_none());
}

#[test]
fn memory_that_other_models_hold_is_not_given_away_twice() {
    let mut first = Cluster::of(&[("a", 200 << 20)]);
    let placed = first.place();
    let mut second = Cluster::of(&[("a", 200 << 20)]);
    second.others.push(("other".into(), placed));
    assert_eq!(second.refuses().reason, "InsufficientMemory");
    second.others.clear();
    second.place();
}

#[test]
fn what_a_model_holds_itself_is_free_for_it() {
    let mut cluster = Cluster::of(&[("a", 200 << 20)]);
    cluster.place();
    cluster.model.spec.context_length = 300;
    let replaced = cluster.place();
    assert_eq!((replaced.placement.epoch, devices(&replaced)), (2, vec!["a-cpu0"]));
}

#[test]
fn shards_that_serve_are_not_moved_for_a_figure_of_memory() {
    let mut cluster = Cluster::of(&[("a", GIB), ("b", GIB)]);
    let placed = cluster.place();
    let node = placed.stages()[0].node.clone();
    let at = if node == "a" { 0 } else { 1 };
    cluster.observed.devices[at] = fixture::cpu(&node, 40 << 20);
    fixture::report(&mut cluster.agents, &node, 1, 0, ShardPhase::Serving);
    cluster.keeps();
    fixture::report(&mut cluster.agents, &node, 1, 0, ShardPhase::Loading);
    assert_ne!(cluster.place().stages()[0].node, node);
}

/// Lets the one stage of a placement on node a fail for want of memory, having measured so much beside its layers.
fn refuse_memory(cluster: &mut Cluster, placed: &InForce, compute_bytes: u64) {
    let stage = &placed.stages()[0];
    let node = stage.node.clone();
    fixture::report(
        &mut cluster.agents,
        &node,
        placed.placement.epoch,
        0,
        ShardPhase::Failed,
    );
    let agent = cluster.agents.get_mut(&node).unwrap();
    let mut shards = agent.shards.to_vec();
    let shard = shards.last_mut().unwrap();
    shard.reason = "InsufficientMemory".into();
    shard.memory = Some(proto::control::v1::MemoryUse {
        weights_bytes: 70 << 20,
        kv_bytes: 6 << 18,
        compute_bytes,
    });
    agent.shards = shards.into();
}

#[test]
fn a_stage_that_was_refused_its_memory_gets_what_it_measured_under_a_higher_epoch() {
    let mut cluster = Cluster::of(&[("a", GIB)]);
    let before = cluster.place();
    refuse_memory(&mut cluster, &before, 300 << 20);
    let after = cluster.place();
    assert_eq!((after.placement.epoch, devices(&after)), (2, vec!["a-cpu0"]));
    let budget = |in_force: &InForce| in_force.stages()[0].memory_budget_bytes;
    assert!(
        budget(&after) >= budget(&before) + (250 << 20),
        "{} after {}",
        budget(&after),
        budget(&before)
    );
    assert!(cluster.state.learned.unwrap().output_bytes > 0);
    cluster.keeps();
}

#[test]
fn a_stage_that_needs_more_than_its_device_has_goes_elsewhere_or_says_by_which_figures_it_cannot() {
    let mut cluster = Cluster::of(&[("a", 200 << 20)]);
    let before = cluster.place();
    refuse_memory(&mut cluster, &before, 300 << 20);
    let why = cluster.refuses();
    assert_eq!(why.reason, "InsufficientMemory");
    assert!(
        why.message.contains("measured 3") && why.message.contains("estimated"),
        "{}",
        why.message
    );
    cluster.observed.devices.push(fixture::cpu("b", GIB));
    cluster.agents.extend(fixture::agents(&["b"]));
    assert_eq!(devices(&cluster.place()), ["b-cpu0"]);
}

#[test]
fn what_was_learned_moves_nothing_that_serves() {
    let mut cluster = Cluster::of(&[("a", 200 << 20)]);
    let placed = cluster.place();
    refuse_memory(&mut cluster, &placed, 300 << 20);
    let agent = cluster.agents.get_mut("a").unwrap();
    let mut shards = agent.shards.to_vec();
    let shard = shards.last_mut().unwrap();
    (shard.phase, shard.endpoint) = (ShardPhase::Serving.into(), "a:7000".into());
    agent.shards = shards.into();
    cluster.keeps();
    assert!(cluster.state.learned.is_some(), "the next placement reckons with it");
    let agent = cluster.agents.get_mut("a").unwrap();
    let mut shards = agent.shards.to_vec();
    shards.last_mut().unwrap().phase = ShardPhase::Loading.into();
    agent.shards = shards.into();
    // Its worker was started again: it fitted, and fits.
    cluster.keeps();
}

#[test]
fn a_smaller_cache_makes_room() {
    let mut cluster = Cluster::of(&[("a", 200 << 20)]);
    cluster.model.spec.context_length = 65_536;
    cluster.model.spec.parallel_sequences = 8;
    assert_eq!(cluster.refuses().reason, "InsufficientMemory");
    cluster.model.spec.context_length = 1024;
    cluster.model.spec.parallel_sequences = 200;
    assert_eq!(cluster.refuses().reason, "InsufficientMemory");
    cluster.model.spec.kv_cache_tokens = Some(2048);
    let runtime = cluster.place().placement.runtime.unwrap();
    assert_eq!((runtime.kv_cells, runtime.prefix_sequences), (2048, 8));
}
