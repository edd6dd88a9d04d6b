//! A model that may take what others hold, and need not.

use super::*;

/// Why the search for a place gave nothing.
const GAVE_UP: &str = "SearchGaveUp";

/// Two nodes with room for several models.
fn wide() -> Cluster {
    Cluster::of(&[("a", GIB), ("b", GIB)])
}

/// The same, and a model of lower priority on one of them.
fn beside_a_lower_model() -> Cluster {
    let mut cluster = wide();
    let mut lower = fixture::model();
    lower.metadata.name = Some("lower".into());
    lower.metadata.uid = Some("lower".into());
    cluster.model.spec.priority = 10;
    cluster.observed.models = vec![Arc::new(cluster.model.clone()), Arc::new(lower)];
    let held = fixture::in_force_of("lower", 1, &["a"]);
    cluster.others.push(("lower".to_owned(), held));
    cluster
}

impl Cluster {
    /// The search for a place was too long, and is not made again as long as the problem is the same.
    fn gave_up(&mut self) {
        let problem = {
            let reports = Arc::new(Reports::of(&self.observed.devices));
            let mut world = World::new((&self.observed, reports), &self.agents, &self.awaited, self.now, NOW);
            for (uid, in_force) in &self.others {
                world.holders.knows(uid, &fixture::facts());
                world.holders.hold(uid, in_force);
            }
            let validated = validate(&self.model.spec).unwrap();
            let facts = self.state.facts().unwrap();
            let topology = world.topology(&Question {
                uid: fixture::UID,
                among: None,
                failing: &BTreeSet::new(),
                freed: &[],
                own: Some(&Own::default()),
                facts: Some(&facts),
                may_group: false,
                in_force: false,
            });
            let topology = translate::counted(topology, &validated, &facts, &world.paces);
            translate::problem("smol", &validated, &facts, None, topology).unwrap()
        };
        self.state.refused = Some((problem, Why::new(GAVE_UP, "it took too long")));
    }
}

#[test]
fn a_plan_that_is_found_among_less_and_needs_nothing_of_others_is_used() {
    let mut alone = wide();
    alone.gave_up();
    assert_eq!(alone.refuses().reason, GAVE_UP, "there is nothing to take");

    let mut cluster = beside_a_lower_model();
    cluster.gave_up();
    let decided = cluster.decide();
    assert_eq!(decided.placed, Placed::Yes);
    assert!(decided.new_in_force.is_some() && decided.takes.is_empty() && decided.claims.is_empty());
    assert!(cluster.state.refused.is_none());
}

#[test]
fn one_replica_of_two_that_is_found_so_is_told_as_one_of_two() {
    let mut cluster = beside_a_lower_model();
    cluster.model.spec.replicas = 2;
    cluster.gave_up();
    let decided = cluster.decide();
    assert_eq!(decided.new_in_force.expect("a placement").replicas(), 1);
    let Placed::Fewer(why) = decided.placed else {
        panic!("it is {:?}", decided.placed)
    };
    assert_eq!(why.reason, GAVE_UP);
    assert!(
        why.message
            .starts_with("1 of 2 replicas fits, as far as was searched; "),
        "{}",
        why.message
    );
}
