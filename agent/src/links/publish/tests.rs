use super::*;

fn status(state: &str, send: i64) -> NodeLinkStateStatus {
    let mut peer = json!({ "node": "b", "kind": "Ethernet", "state": state });
    if state == "Measured" {
        peer["latencyP50Us"] = json!(100);
        peer["sendBytesPerSecond"] = json!(send);
    }
    serde_json::from_value(json!({ "node": "a", "peers": [peer] })).unwrap()
}

#[test]
fn the_first_write_gathers_and_later_ones_keep_calm() {
    let first = Instant::now();
    let pending = status("Pending", 0);
    let measured = status("Measured", 1_000_000_000);
    assert_eq!(due(None, &pending, first, None), Some(first + thresholds::GATHER));
    assert_eq!(due(None, &measured, first, None), Some(first), "all are measured");
    let wrote = first + Duration::from_secs(1);
    assert_eq!(due(Some(&measured), &measured, first, Some(wrote)), None);
    let slower = status("Measured", 500_000_000);
    assert_eq!(
        due(Some(&measured), &slower, first, Some(wrote)),
        Some(wrote + thresholds::CALM)
    );
}

#[test]
fn the_last_link_that_has_its_first_round_is_told_soon() {
    let wrote = Instant::now();
    let (pending, measured) = (status("Pending", 0), status("Measured", 1_000_000_000));
    let due = due(Some(&pending), &measured, wrote, Some(wrote));
    assert_eq!(due, Some(wrote + thresholds::GATHER));
}

#[test]
fn what_an_earlier_life_wrote_stays_until_there_is_something_better() {
    let first = Instant::now();
    let (pending, measured) = (status("Pending", 0), status("Measured", 1_000_000_000));
    assert_eq!(
        due(Some(&measured), &pending, first, None),
        Some(first + thresholds::GATHER)
    );
    assert_eq!(due(Some(&measured), &measured, first, None), None);
}
