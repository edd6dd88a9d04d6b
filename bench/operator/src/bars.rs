//! What is asked of the operator.

use report::{Bar, Barred};

pub const OPERATOR: &[Barred] = &[
    (
        "loss.p99_s",
        "a device lost -> new placement published, s, p99",
        Bar::AtMost(2.0),
    ),
    (
        "operator.rss_peak_mib",
        "operator: memory, highest, MiB",
        Bar::AtMost(300.0),
    ),
    (
        "idle.operator_cores",
        "operator: cores, nothing happens",
        Bar::AtMost(1.0),
    ),
    (
        "loss.operator_cores",
        "operator: cores, a loss after the other",
        Bar::AtMost(1.0),
    ),
    (
        "idle.writes_per_node_minute",
        "API writes per node and minute, nothing happens",
        Bar::AtMost(2.0),
    ),
    (
        "burst.settled_s",
        "one node in ten vanishes -> all models placed, s",
        Bar::AtMost(10.0),
    ),
    (
        "restart.placements_changed",
        "placements that a new operator changes",
        Bar::AtMost(0.0),
    ),
];
