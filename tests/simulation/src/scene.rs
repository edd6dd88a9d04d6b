//! What tests of a world ask of it again and again.

use std::time::Duration;

use crate::invariants;
use crate::objects::MODELS;
use crate::world::{MODEL, Shape, World};

/// What does not come to pass within this time never will: three times the longest pause between two attempts, jitter included.
const LIMIT: Duration = Duration::from_secs(180);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(100);

impl World {
    /// With an operator at each place that there is for one, started again whenever it dies.
    #[must_use]
    pub fn kept(shape: &Shape) -> Self {
        let mut world = Self::new(shape);
        for place in 0..shape.operators {
            world.keep_operator(place, &format!("operator-{place}"));
        }
        world
    }

    /// The epoch of a model that is placed.
    #[must_use]
    pub fn epoch(&self, name: &str) -> u64 {
        let model = self.object(MODEL, MODELS, name).expect("the model is there");
        model["status"]["placement"]["epoch"].as_u64().expect("it is placed")
    }

    /// Whether people are told that a model serves.
    #[must_use]
    pub fn is_ready(&self, name: &str) -> bool {
        let Some(model) = self.object(MODEL, MODELS, name) else {
            return false;
        };
        let conditions = model["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    }

    /// The shards that hosts serve, whatever else lies on their disks.
    #[must_use]
    pub fn serving(&self) -> Vec<String> {
        let held = self.hosts.values().flat_map(|host| host.agent().holds());
        let serving = held.filter(|line| line.contains("SERVE"));
        let shard = |line: String| line.split('{').next().map(str::to_owned);
        serving.filter_map(shard).collect()
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = self.now();
        while !holds(self) {
            assert!(self.now() - began < LIMIT, "{what}: not within {LIMIT:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Nothing happened that must never be.
    pub fn assert_sound(&self) {
        assert_eq!(invariants::of_history(self), Vec::<String>::new());
    }
}
