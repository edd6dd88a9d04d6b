use topology::Kind;

use super::read;

const SMALL: &str = r#"
    [model]
    shape = "smollm2-135m"
    quantisation = "Q8_0"

    [card.gpu]
    memory_gib = 1.5
    promised_gb_per_second = 100.5

    [card.cpu]
    backend = "cpu"
    kind = "Cpu"
    memory_gib = 4
    measured_gb_per_second = 20

    [[node]]
    name = "twin"
    count = 2
    cards = ["gpu", "gpu"]

    [[node]]
    name = "lone"
    cards = ["cpu"]
    labels = { zone = "a" }

    [[link]]
    between = ["*", "*"]
    latency_us = 500
    mbit_per_second = 1_000

    [[link]]
    between = ["twin", "lone"]
    latency_us = 9_000
    mbit_per_second = 100
"#;

fn refused(text: &str) -> String {
    read(text).expect_err("refused").to_string()
}

#[test]
fn nodes_and_cards_are_multiplied_out() {
    let cluster = read(SMALL).expect("a scenario").cluster;
    let names: Vec<&str> = cluster.devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "twin-0-cuda0",
            "twin-0-cuda1",
            "twin-1-cuda0",
            "twin-1-cuda1",
            "lone-cpu0"
        ]
    );
    let gpu = &cluster.devices[1];
    assert_eq!(
        (gpu.memory_pool.as_str(), gpu.memory_usable_bytes),
        ("twin-0-cuda1", 3 << 29)
    );
    assert_eq!(gpu.prior_bandwidth_bytes_per_second, Some(100_500_000_000));
    let cpu = &cluster.devices[4];
    assert_eq!((cpu.kind, cpu.memory_pool.as_str()), (Kind::Cpu, "lone-host"));
    assert_eq!(cluster.attached_nodes.len(), 3);
    assert_eq!(cluster.node_labels["lone"]["zone"], "a");
}

#[test]
fn links_go_both_ways_and_the_later_entry_counts() {
    let cluster = read(SMALL).expect("a scenario").cluster;
    let link = |from: &str, to: &str| {
        let found = cluster
            .links
            .iter()
            .find(|link| link.from_node == from && link.to_node == to);
        found.map(|link| (link.latency_us, link.bandwidth_bytes_per_second))
    };
    assert_eq!(link("twin-0", "twin-1"), Some((500, 125_000_000)));
    assert_eq!(link("twin-1", "twin-0"), Some((500, 125_000_000)));
    assert_eq!(link("lone", "twin-1"), Some((9_000, 12_500_000)));
    assert_eq!(link("twin-0", "twin-0"), None);
    assert_eq!(cluster.links.len(), 6);
}

#[test]
fn a_model_is_known_by_its_name() {
    let model = read(SMALL).expect("a scenario").model;
    assert_eq!(model.name, "smollm2-135m Q8_0");
    assert_eq!(model.layer_weight_bytes, [3_540_000 * 85 / 80; 30]);
    assert_eq!((model.embedding_length, model.context_length), (576, 4096));
    assert_eq!(model.allowed_cuts.len(), 29);
}

#[test]
fn what_is_named_and_not_there_is_told_by_its_name() {
    let shape = SMALL.replace("smollm2-135m", "gpt-9");
    assert!(refused(&shape).starts_with("no model shape is called gpt-9; known are smollm2-135m, "));
    let card = SMALL.replace(r#"["cpu"]"#, r#"["tpu"]"#);
    assert_eq!(refused(&card), "node lone has a card tpu, and there is no [card.tpu]");
    let link = SMALL.replace(r#"["twin", "lone"]"#, r#"["twin", "alone"]"#);
    assert_eq!(refused(&link), "a link names alone, and no [[node]] has that name");
    let twice = SMALL.replace(r#"name = "lone""#, r#"name = "twin-1""#);
    assert_eq!(refused(&twice), "two entries of [[node]] make a node called twin-1");
    let many = SMALL.replace("count = 2", "count = 5000");
    assert_eq!(refused(&many), "more than 4096 nodes");
    let unknown = SMALL.replace("memory_gib = 4", "memory_gib = 4\ncolour = 3");
    assert!(
        refused(&unknown).contains("unknown field `colour`"),
        "{}",
        refused(&unknown)
    );
}

#[test]
fn devices_that_work_as_one_are_named_with_what_was_measured_of_them() {
    let group =
        |devices: &str| format!("{SMALL}\n[[group]]\ndevices = [{devices}]\ngb_per_second = 180\nlayer_us = 30\n");
    let read = |devices: &str| read(&group(devices)).map(|scenario| scenario.cluster.groups);
    let groups = read(r#""twin-0-cuda0", "twin-0-cuda1""#).expect("a scenario");
    assert_eq!(groups[0].devices, ["twin-0-cuda0", "twin-0-cuda1"]);
    assert_eq!((groups[0].backend.as_str(), groups[0].steps.layer_ns), ("cuda", 30_000));
    assert_eq!(groups[0].steps.reading[0].bytes_per_second, 180_000_000_000);
    let refused = |devices: &str| read(devices).expect_err("refused").to_string();
    assert_eq!(
        refused(r#""twin-0-cuda0", "twin-0-cuda9""#),
        "a group names twin-0-cuda9, and no [[node]] has such a device"
    );
    for few_or_apart in [r#""twin-0-cuda0""#, r#""twin-0-cuda0", "twin-1-cuda0""#] {
        assert!(
            refused(few_or_apart).ends_with("it must have from 2 to 8, of one node"),
            "{few_or_apart}"
        );
    }
}
