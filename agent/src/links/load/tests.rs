use super::*;

const LOOK: Duration = Duration::from_secs(5);

fn slot(stage: u32) -> Slot {
    Slot {
        model_uid: "uid".into(),
        slice: stage.to_string(),
    }
}

fn computed(seconds: &[(u32, Option<f64>)]) -> Computed {
    seconds
        .iter()
        .map(|(stage, computed_s)| (slot(*stage), *computed_s))
        .collect()
}

#[test]
fn a_worker_that_computes_a_tenth_of_the_time_serves() {
    let before = computed(&[(0, Some(10.0)), (1, Some(10.0))]);
    assert!(!is_busy(&before, &computed(&[(0, Some(10.4)), (1, Some(10.0))]), LOOK));
    assert!(is_busy(&before, &computed(&[(0, Some(10.0)), (1, Some(10.6))]), LOOK));
    assert!(!is_busy(&before, &Computed::new(), LOOK), "no shard");
}

#[test]
fn a_worker_that_is_new_or_does_not_answer_may_be_about_to_serve() {
    let before = computed(&[(0, Some(10.0))]);
    assert!(is_busy(&before, &computed(&[(0, Some(10.0)), (1, Some(0.0))]), LOOK));
    assert!(is_busy(&before, &computed(&[(0, None)]), LOOK));
    assert!(is_busy(&before, &computed(&[(0, Some(0.0))]), LOOK), "another process");
}

#[test]
fn the_seconds_are_read_out_of_a_scrape() {
    let scrape = "# TYPE shardwright_worker_compute_seconds histogram\n\
        shardwright_worker_compute_seconds_bucket{le=\"1\"} 3\n\
        shardwright_worker_compute_seconds_sum 12.5\n\
        shardwright_worker_compute_seconds_count 3\n";
    assert_eq!(computed_s(scrape), Some(12.5));
    assert_eq!(computed_s("shardwright_worker_compute_seconds_sum NaN\n"), None);
    assert_eq!(computed_s(""), None);
}
