//! What was measured of the sides of the comparison.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::work::Work;
use crate::timing::best;

/// Rates of everybody in every round.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(Work, String), Vec<f64>>);

impl Samples {
    /// One round's rate of one side.
    pub fn push(&mut self, work: Work, name: &str, rate: f64) {
        self.0.entry((work, name.to_owned())).or_default().push(rate);
    }

    /// The best of one side; 0 where it was not asked.
    pub fn best(&self, work: Work, name: &str) -> f64 {
        self.0.get(&(work, name.to_owned())).map_or(0.0, |rates| best(rates))
    }

    /// The best of all sides of a family.
    pub fn best_of(&self, work: Work, family: &str) -> f64 {
        let names = self
            .0
            .iter()
            .filter(|((of, name), _)| *of == work && name.starts_with(family));
        names.map(|(_, rates)| best(rates)).fold(0.0, f64::max)
    }

    /// Sides of a family that were clearly slower than its best, as work and name.
    pub fn slower(&self, family: &str) -> BTreeSet<(Work, String)> {
        let keys = self.0.keys().filter(|(_, name)| name.starts_with(family));
        keys.filter(|(work, name)| self.best(*work, name) < CLEARLY_SLOWER * self.best_of(*work, family))
            .cloned()
            .collect()
    }

    /// For the file.
    pub fn to_json(&self) -> Value {
        let mut all = json!({});
        for ((work, name), rates) in &self.0 {
            all[work.name()][name] = json!(rates);
        }
        all
    }
}

/// A side below this share of its family's best is left out after the first round: a disturbed round does not cost so much.
const CLEARLY_SLOWER: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::{Samples, Work};

    #[test]
    fn only_the_clearly_slower_of_a_family_retires_and_only_from_that_work() {
        let mut samples = Samples::default();
        for (work, servers, local) in [
            (Work::One, 30.0, 31.0),
            (Work::Prefill, 100.0, 70.0),
            (Work::Eight, 20.0, 30.0),
        ] {
            samples.push(work, "two_stages", 10.0);
            samples.push(work, "rpc_servers", servers);
            samples.push(work, "rpc_local_head", local);
        }
        let slower: Vec<_> = samples.slower("rpc").into_iter().collect();
        assert_eq!(
            slower,
            [
                (Work::Eight, "rpc_servers".to_owned()),
                (Work::Prefill, "rpc_local_head".to_owned()),
            ]
        );
        assert_eq!(samples.best_of(Work::One, "rpc"), 31.0);
        assert_eq!(samples.best(Work::OneDelayed, "two_stages"), 0.0);
    }
}
