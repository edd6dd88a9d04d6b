//! How long the operator waits after which failures.

use std::time::Duration;

use lifecycle::backoff::Policy;

/// Failures of the Kubernetes API: soon at first, since most are over in a moment.
pub const API: Policy = Policy {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(30),
};
/// Watches of objects while the API server is away or busy: placements wait for it, so its return is met soon. Each replica has nine
/// of them.
pub const WATCH: Policy = Policy {
    first: Duration::from_millis(800),
    cap: Duration::from_secs(5),
};
/// A source that no agent could read: people mend those, in minutes.
pub const INSPECTION: Policy = Policy {
    first: Duration::from_secs(5),
    cap: Duration::from_secs(300),
};
/// A device on which a shard keeps failing: left out for longer each time.
pub const DEVICE: Policy = Policy {
    first: Duration::from_secs(30),
    cap: Duration::from_secs(900),
};
