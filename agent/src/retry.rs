//! How long the agent waits after which failures.

use std::time::Duration;

use lifecycle::backoff::Policy;

/// The operator: soon again, because a node without it counts as lost.
pub const OPERATOR: Policy = Policy {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(5),
};
/// A replica of the operator that does not lead: the next connection reaches another, and one of them leads within seconds. Who comes
/// later than ten seconds after it does has lost its layers to others; a thousand agents that ask so often cost a
/// replica less than half a core.
pub const NEXT_REPLICA: Policy = Policy {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(1),
};
/// The Kubernetes API: nothing that serves depends on it.
pub const API: Policy = Policy {
    first: Duration::from_millis(500),
    cap: Duration::from_secs(30),
};
/// A shard's fetch, load or worker: soon at first, then seldom, because loading is expensive.
pub const SHARD: Policy = Policy {
    first: Duration::from_millis(500),
    cap: Duration::from_secs(60),
};
