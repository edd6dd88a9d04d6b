use super::*;

#[test]
fn a_stage_is_idle_for_the_rest_of_the_time_that_steps_are_under_way() {
    let metrics = Metrics::new().unwrap();
    let mut occupancy = Occupancy::new(2, metrics.clone());
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    occupancy.observe(true, at(0));
    metrics.record_stage(0, 300_000);
    metrics.record_stage(1, 100_000);
    occupancy.observe(true, at(200));
    occupancy.observe(false, at(400));
    // Nobody works, nobody is idle.
    occupancy.observe(true, at(10_000));
    for (stage, ratio) in [("0", 0.75), ("1", 0.25)] {
        let told = metrics.stage_busy_ratio.with_label_values(&[stage]).get();
        assert!((told - ratio).abs() < 1e-9, "stage {stage}: {told}");
    }
    let bubbles = metrics.stage_bubble_seconds.with_label_values(&["1"]).get();
    assert!((bubbles - 0.3).abs() < 1e-9, "{bubbles}");
}
