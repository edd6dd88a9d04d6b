//! What is asked of the solver.

use report::{Bar, Barred};

pub const PLACEMENT: &[Barred] = &[
    (
        "proved_under_100ms_percent.8x32",
        "8x32: proved in 100 ms, % of instances",
        Bar::AtLeast(100.0),
    ),
    (
        "proved_under_100ms_percent.12x64",
        "12x64: proved in 100 ms, %",
        Bar::AtLeast(99.0),
    ),
    (
        "proved_under_100ms_percent.16x80",
        "16x80: proved in 100 ms, %",
        Bar::AtLeast(95.0),
    ),
    (
        "proved_under_500ms_percent.16x80",
        "16x80: proved in 500 ms, %",
        Bar::AtLeast(100.0),
    ),
    (
        "proved_under_5s_percent.32x126",
        "32x126, rho up to 0.6: proved in 5 s, %",
        Bar::AtLeast(90.0),
    ),
    (
        "certified_gap_percent.large",
        "24 devices and more, at the limit: own gap, max %",
        Bar::AtMost(2.0),
    ),
    (
        "worse_objectives",
        "plans worse than another solver's",
        Bar::AtMost(0.0),
    ),
    (
        "geomean.vs_cpsat",
        "time to proof up to 16x80: CP-SAT / ours",
        Bar::AtLeast(10.0),
    ),
    (
        "geomean.vs_highs",
        "time to proof up to 16x80: HiGHS / ours",
        Bar::AtLeast(15.0),
    ),
    ("anytime.p99_ms", "16x80, few steps: ms, p99", Bar::AtMost(10.0)),
    (
        "anytime.mean_gap_percent",
        "16x80, as many steps: above optimum, mean %",
        Bar::AtMost(0.3),
    ),
    (
        "anytime.max_gap_percent",
        "16x80, as many steps: above optimum, max %",
        Bar::AtMost(3.0),
    ),
    (
        "rules.exo_mean",
        "latency by exo's rule / optimum, mean",
        Bar::AtLeast(1.25),
    ),
    (
        "rules.exo_geo_mean",
        "latency by exo's rule / optimum, geo, mean",
        Bar::AtLeast(1.5),
    ),
    (
        "rules.score_mean",
        "latency by weighted score / optimum, mean",
        Bar::AtLeast(1.1),
    ),
    (
        "speedup.best_simple_use",
        "best of even, by memory, one kind / optimum",
        Bar::AtLeast(1.3),
    ),
];
