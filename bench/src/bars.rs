//! What is asked of the numbers.

use crate::report::{Bar, Barred};

/// Of the engine and what is around it.
pub const ENGINE: &[Barred] = &[
    (
        "one_stage.decode_ratio",
        "one stage / llama.cpp's own loop: decode",
        Bar::AtLeast(0.97),
    ),
    (
        "one_stage.prefill_ratio",
        "one stage / llama.cpp's own loop: prefill",
        Bar::AtLeast(0.95),
    ),
    (
        "two_stage.eight_vs_one_core",
        "two stages / whole on one core: 8 streams",
        Bar::AtLeast(1.6),
    ),
    (
        "two_stage.prefill_vs_one_core",
        "two stages / whole on one core: prefill",
        Bar::AtLeast(1.7),
    ),
    (
        "two_stage.one_vs_one_core",
        "two stages / whole on one core: 1 stream",
        Bar::AtLeast(0.95),
    ),
    (
        "two_stage.one_vs_rpc",
        "two stages / llama.cpp RPC: 1 stream",
        Bar::AtLeast(1.0),
    ),
    (
        "two_stage.one_vs_rpc_1ms",
        "two stages / llama.cpp RPC: 1 stream, 1 ms links",
        Bar::AtLeast(1.2),
    ),
    (
        "two_stage.eight_vs_rpc",
        "two stages / llama.cpp RPC: 8 streams",
        Bar::AtLeast(1.6),
    ),
    (
        "two_stage.prefill_vs_rpc",
        "two stages / llama.cpp RPC: prefill",
        Bar::AtLeast(1.25),
    ),
    (
        "hop_us_p50",
        "added per hop, one token's activations, us",
        Bar::AtMost(150.0),
    ),
    (
        "hop_throughput_ratio",
        "prefill blocks / raw TLS throughput",
        Bar::AtLeast(0.6),
    ),
    (
        "prefix_ttft_ratio",
        "time to first token: 2k shared prefix / cold",
        Bar::AtMost(0.125),
    ),
    (
        "gateway.idle_streams",
        "gateway: idle streams held open",
        Bar::AtLeast(500.0),
    ),
    (
        "gateway.idle_rss_mib",
        "gateway: memory with them, MiB",
        Bar::AtMost(200.0),
    ),
    (
        "gateway.added_us_p99",
        "gateway: added per token at 50 streams, us, p99",
        Bar::AtMost(1000.0),
    ),
];

/// Of the agent's life with devices.
pub const DEVICES: &[Barred] = &[
    (
        "ready_ms.1",
        "1 card: ready after the agent's start, ms",
        Bar::AtMost(3000.0),
    ),
    (
        "ready_ms.8",
        "8 cards: ready after the agent's start, ms",
        Bar::AtMost(3000.0),
    ),
    (
        "ready_ms.16",
        "16 cards: ready after the agent's start, ms",
        Bar::AtMost(3000.0),
    ),
    ("poll_cpu_fraction_8", "reading 8 cards, of one core", Bar::AtMost(0.01)),
    ("agent_rss_mib", "the agent's memory, MiB", Bar::AtMost(40.0)),
    ("cpu_copy_vs_memcpy", "copies on the CPU / memcpy", Bar::AtLeast(0.8)),
];

/// Of placement's predictions.
pub const PREDICTION: &[Barred] = &[(
    "prediction.median_error_percent",
    "predicted time of a token: median error, percent",
    Bar::AtMost(20.0),
)];
