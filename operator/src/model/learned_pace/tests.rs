use crds::ObservedPace;

use super::*;
use crate::model::fixture;

/// Two stages, on a and b, each predicted 100 us, measured so many.
fn view(us: [i64; 2], correction_percent: Option<i32>) -> PlacementStatus {
    let mut view = fixture::in_force(1, &["a", "b"]).view;
    for (stage, us) in view.stages.iter_mut().zip(us) {
        stage.correction_percent = correction_percent;
        stage.observed = Some(ObservedPace {
            us_per_token: Some(us),
            tokens: Some(TOKENS_MIN),
            ..ObservedPace::default()
        });
    }
    view
}

fn factors(learned: &[LearnedPace]) -> Vec<i32> {
    learned.iter().map(|pace| pace.factor_percent).collect()
}

#[test]
fn what_was_measured_is_learned_per_device_and_quantisation() {
    let learned = learn(&[], "Q4_1", &view([130, 81], None));
    assert_eq!(factors(&learned), [130, 80]);
    assert_eq!(learned[0].device, "a-cpu0");
    let both = learn(&learned, "F16", &view([200, 100], None));
    assert_eq!(factors(&both), [130, 80, 200, 100], "other weights have their own pace");
}

#[test]
fn too_few_tokens_and_no_prediction_teach_nothing() {
    let mut few = view([130, 130], None);
    few.stages[0].observed.as_mut().unwrap().tokens = Some(TOKENS_MIN - 1);
    few.stages[1].predicted_us_per_token = 0;
    assert_eq!(learn(&[], "Q4_1", &few), []);
    few.stages[0].observed = None;
    assert_eq!(learn(&[], "Q4_1", &few), []);
}

#[test]
fn absurd_figures_are_bounded() {
    let learned = learn(&[], "Q4_1", &view([1_000_000, 0], None));
    assert_eq!(factors(&learned), [400, 25]);
}

#[test]
fn a_factor_goes_half_of_the_way_each_time_and_arrives() {
    let mut learned = learn(&[], "Q4_1", &view([200, 100], None));
    let mut seen = Vec::new();
    for _ in 0..8 {
        learned = learn(&learned, "Q4_1", &view([100, 100], None));
        seen.push(factors(&learned)[0]);
    }
    assert_eq!(seen, [150, 125, 115, 110, 105, 100, 100, 100]);
}

#[test]
fn a_prediction_that_was_corrected_and_came_true_keeps_its_correction() {
    let known = learn(&[], "Q4_1", &view([150, 150], None));
    let learned = learn(&known, "Q4_1", &view([100, 100], Some(150)));
    assert_eq!(factors(&learned), [150, 150]);
}

#[test]
fn every_model_profits_and_the_figure_of_the_most_tokens_counts() {
    let pace = |tokens, factor_percent| LearnedPace {
        device: "a-cpu0".into(),
        backend: "cpu".into(),
        quantisation: "Q4_1".into(),
        factor_percent,
        tokens,
    };
    let corrections = Corrections::of([pace(200, 120), pace(900, 150), pace(300, 300)].iter());
    assert_eq!(corrections.percent("a-cpu0", "cpu", "Q4_1"), Some(150));
    assert_eq!(corrections.percent("a-cpu0", "cpu", "F16"), None);
    let mut view = view([1, 1], None);
    corrections.note(&mut view, "Q4_1");
    assert_eq!(view.stages[0].correction_percent, Some(150));
    assert_eq!(view.stages[1].correction_percent, None);
}

#[test]
fn people_are_told_of_devices_in_use_that_differ() {
    let view = view([130, 95], None);
    let learned = learn(&[], "Q4_1", &view);
    let text = explain(&learned, &view).unwrap();
    assert_eq!(
        text,
        "a-cpu0 measured 1.30 x slower than its own figures; reckoned with from the next placement on"
    );
    let elsewhere = fixture::in_force(1, &["c"]).view;
    assert_eq!(explain(&learned, &elsewhere), None);
}

#[test]
fn the_oldest_are_forgotten_first() {
    let mut learned = Vec::new();
    for at in 0..100 {
        let mut view = view([130, 130], None);
        view.stages[0].device = format!("device-{at}");
        learned = learn(&learned, "Q4_1", &view);
    }
    assert_eq!(learned.len(), REMEMBERED_MAX);
    assert_eq!(learned[REMEMBERED_MAX - 2].device, "device-99");
}
