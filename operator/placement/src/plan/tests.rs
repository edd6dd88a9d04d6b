use super::*;

fn plan(stages: &[(&str, u32, u32)]) -> Plan {
    let last = stages.len() - 1;
    let stages = stages
        .iter()
        .enumerate()
        .map(|(i, (device, first_layer, end_layer))| Stage {
            device: (*device).to_owned(),
            node: "n".to_owned(),
            backend: "cpu".to_owned(),
            first_layer: *first_layer,
            end_layer: *end_layer,
            weight_bytes: 1,
            memory_bytes: 5 << 20,
            time_ns: 1_500,
            hop_ns: (i < last).then_some(2_000),
        });
    Plan {
        stages: stages.collect(),
        entry_ns: 0,
        latency_ns: 5_000,
        slowest_ns: 1_500,
    }
}

#[test]
fn a_plan_reads_as_a_table_and_as_one_line() {
    let plan = plan(&[("a-cpu0", 0, 10), ("b-vulkan0", 10, 11)]);
    assert_eq!(
        plan.to_string(),
        "stage 0  a-cpu0     layers     0-9     5.0 MiB         2 us  then 2 us to the next\n\
         stage 1  b-vulkan0  layers      10     5.0 MiB         2 us\n\
         one token 5 us, slowest part 2 us\n"
    );
    assert_eq!(plan.summary(), "a-cpu0 0-9, b-vulkan0 10; 5 us per token");
}

#[test]
fn a_difference_names_the_layers_that_move() {
    let old = plan(&[("a", 0, 10), ("b", 10, 20)]);
    assert_eq!(diff(&old, &old), "no layer moves\n");
    let new = plan(&[("a", 0, 8), ("b", 8, 15), ("c", 15, 20)]);
    assert_eq!(diff(&old, &new), "layers 8-9: a -> b\nlayers 15-19: b -> c\n");
}
