use super::*;
use crate::links::history::Figures;
use crate::links::{SeenLink, Standing, Tally};
use crds::LinkKind;
use prometheus::{Encoder, TextEncoder};

#[test]
fn a_scrape_tells_of_every_link_and_of_what_measuring_took() {
    let figures = Figures {
        latency_p50_us: 250,
        latency_p99_us: 1500,
        send_bytes_per_second: 117_000_000,
        receive_bytes_per_second: 116_000_000,
        samples: 3,
        unix_s: 0,
    };
    let link = |standing, figures| SeenLink {
        standing,
        kind: LinkKind::Ethernet,
        figures,
        message: None,
    };
    let seen = Seen {
        told: true,
        links: [
            ("b".to_owned(), link(Standing::Measured, Some(figures))),
            ("c".to_owned(), link(Standing::Pending, None)),
            ("d".to_owned(), link(Standing::Unreachable, None)),
        ]
        .into(),
        tally: Tally {
            measured: 2,
            refused: 1,
            failed: 3,
            began_us: 250_000,
            answered_us: 500_000,
        },
    };
    let registry = Registry::new();
    collect(&registry, "a", &seen).unwrap();
    let mut bytes = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    for line in [
        "shardwright_link_latency_seconds{kind=\"Ethernet\",node=\"a\",peer=\"b\",quantile=\"0.5\"} 0.00025",
        "shardwright_link_latency_seconds{kind=\"Ethernet\",node=\"a\",peer=\"b\",quantile=\"0.99\"} 0.0015",
        "shardwright_link_bandwidth_bytes_per_second{direction=\"send\",kind=\"Ethernet\",node=\"a\",peer=\"b\"} 117000000",
        "shardwright_link_reachable{node=\"a\",peer=\"b\"} 1",
        "shardwright_link_reachable{node=\"a\",peer=\"d\"} 0",
        "shardwright_link_rounds_total{outcome=\"put_off\"} 1",
        "shardwright_link_filled_seconds_total{side=\"answered\"} 0.5",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("peer=\"c\""), "what is not known is no series:\n{text}");
}
