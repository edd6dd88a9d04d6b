use identity::{Authority, Held, Wanted};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// An old and a new authority, and what the operator wants in each phase.
struct World {
    steady: Wanted,
    prepared: Wanted,
    active: Wanted,
    holders: Vec<Holder>,
}

impl World {
    fn new() -> Self {
        let [old, new] = [(); 2].map(|()| Authority::generate("shardwright", now()).unwrap());
        let beside = |of: &Authority, other: &Authority| {
            let again = Authority::from_pem(of.cert_pem(), &of.key_pem()).unwrap();
            Wanted::of(&again.beside(other.cert_pem()).unwrap(), SPREAD_MIN)
        };
        Self {
            steady: Wanted::of(&old, SPREAD_MIN),
            prepared: beside(&old, &new),
            active: beside(&new, &old),
            holders: Vec::new(),
        }
    }

    /// Somebody who holds what is wanted in that phase, or says nothing.
    fn with(mut self, name: &str, holds: impl FnOnce(&Self) -> Option<Wanted>) -> Self {
        let held = holds(&self).map(|wanted| Held {
            authorities: wanted.authorities,
            issuers: BTreeSet::from([wanted.issuer]),
        });
        self.holders.push(Holder {
            name: name.into(),
            held,
        });
        self
    }

    /// In a phase that began so long ago, under a leader that knows everybody.
    fn in_phase(&self, phase: Phase, passed: Duration) -> Seen<'_> {
        let wanted = match phase {
            Phase::Steady => &self.steady,
            Phase::Prepared => &self.prepared,
            Phase::Active => &self.active,
        };
        Seen {
            phase,
            since: Some(now() - passed),
            known_for: passed,
            is_asked: false,
            ends: now() + HOUR * 60,
            lifetime: HOUR * 60,
            authorities: &wanted.authorities,
            issuer: wanted.issuer,
            holders: &self.holders,
            led_for: HOUR,
            now: now(),
        }
    }
}

fn steady(world: &World) -> Option<Wanted> {
    Some(world.steady.clone())
}

fn prepared(world: &World) -> Option<Wanted> {
    Some(world.prepared.clone())
}

fn active(world: &World) -> Option<Wanted> {
    Some(world.active.clone())
}

fn silent(_: &World) -> Option<Wanted> {
    None
}

fn waits(wake: Duration, names: &[&str], overdue: bool) -> Step {
    Step::Wait {
        wake,
        waits_for: names.iter().map(ToString::to_string).collect(),
        overdue,
    }
}

#[test]
fn nothing_changes_before_somebody_asks_or_a_sixth_of_the_authoritys_life_is_left() {
    let world = World::new().with("agent a", steady);
    let rest = world.in_phase(Phase::Steady, HOUR);
    assert_eq!(decide(&rest), waits(LOOK_MAX, &[], false));
    let asked = Seen {
        is_asked: true,
        ..rest.clone()
    };
    assert_eq!(decide(&asked), Step::Prepare(Why::Asked));
    let ending = |left: Duration| {
        let seen = Seen {
            ends: now() + left,
            ..rest.clone()
        };
        decide(&seen)
    };
    assert_eq!(ending(HOUR * 10 + SECOND), waits(SECOND, &[], false));
    assert_eq!(ending(HOUR * 10), Step::Prepare(Why::Ends));
    assert_eq!(ending(Duration::ZERO), Step::Prepare(Why::Ends));
    let ended = Seen {
        ends: now() - HOUR,
        ..rest
    };
    assert_eq!(decide(&ended), Step::Prepare(Why::Ends));
}

#[test]
fn a_new_authority_issues_once_all_trust_it_and_not_before_kubelets_have_brought_it_to_newcomers() {
    let world = World::new().with("agent a", prepared).with("gateway g", prepared);
    let after = |passed| decide(&world.in_phase(Phase::Prepared, passed));
    assert_eq!(after(SECOND), waits(PREPARED_MIN - SECOND, &[], false));
    assert_eq!(after(PREPARED_MIN), Step::Activate(Vec::new()));
    let nobody = World::new();
    assert_eq!(
        decide(&nobody.in_phase(Phase::Prepared, PREPARED_MIN)),
        Step::Activate(Vec::new())
    );
}

#[test]
fn one_that_does_not_trust_it_or_says_nothing_is_waited_for_by_name_for_ten_minutes_and_no_longer() {
    let world = World::new()
        .with("agent a", prepared)
        .with("agent b", steady)
        .with("agent old", silent);
    let after = |passed| decide(&world.in_phase(Phase::Prepared, passed));
    let late = ["agent b", "agent old"];
    assert_eq!(after(SECOND), waits(PREPARED_MIN - SECOND, &late, false));
    assert_eq!(after(PREPARED_MIN), waits(LAGGARD_MAX - PREPARED_MIN, &late, true));
    assert_eq!(after(LAGGARD_MAX), Step::Activate(late.map(str::to_owned).to_vec()));
}

#[test]
fn whoever_trusts_more_than_is_asked_for_keeps_nobody_waiting() {
    let mut world = World::new().with("agent a", prepared);
    let stranger = Authority::generate("shardwright", now()).unwrap().fingerprint();
    for holder in &mut world.holders {
        let held = holder.held.as_mut().unwrap();
        held.authorities.insert(stranger);
    }
    let seen = world.in_phase(Phase::Prepared, PREPARED_MIN);
    assert_eq!(decide(&seen), Step::Activate(Vec::new()));
}

#[test]
fn the_old_authority_is_trusted_until_all_leaves_in_use_are_the_new_ones() {
    let world = World::new().with("agent a", active).with("gateway g", prepared);
    let after = |passed| decide(&world.in_phase(Phase::Active, passed));
    assert_eq!(after(SECOND), waits(ACTIVE_MIN - SECOND, &["gateway g"], false));
    let left = DEFAULT_LEAF_LIFETIME - LAGGARD_MAX;
    assert_eq!(after(LAGGARD_MAX), waits(left, &["gateway g"], true));
    let all = World::new().with("agent a", active).with("gateway g", active);
    assert_eq!(
        decide(&all.in_phase(Phase::Active, ACTIVE_MIN)),
        Step::Finish(Vec::new())
    );
}

#[test]
fn one_worker_with_the_old_authoritys_leaf_keeps_its_node_waiting() {
    let mut world = World::new().with("agent a", active);
    let old = world.steady.issuer;
    for holder in &mut world.holders {
        holder.held.as_mut().unwrap().issuers.insert(old);
    }
    let seen = world.in_phase(Phase::Active, ACTIVE_MIN);
    assert_eq!(
        decide(&seen),
        waits(DEFAULT_LEAF_LIFETIME - ACTIVE_MIN, &["agent a"], true)
    );
}

#[test]
fn after_the_longest_life_of_a_leaf_nobody_is_waited_for() {
    let world = World::new().with("agent old", silent);
    let seen = world.in_phase(Phase::Active, DEFAULT_LEAF_LIFETIME);
    assert_eq!(decide(&seen), Step::Finish(vec!["agent old".into()]));
}

#[test]
fn a_leader_that_has_just_begun_waits_until_all_had_time_to_attach() {
    let world = World::new();
    for (phase, ready) in [
        (Phase::Prepared, Step::Activate(Vec::new())),
        (Phase::Active, Step::Finish(Vec::new())),
    ] {
        let seen = world.in_phase(phase, HOUR * 48);
        let led_for = |led_for| Seen {
            led_for,
            ..seen.clone()
        };
        assert_eq!(decide(&led_for(SECOND)), waits(ATTACHED_WITHIN - SECOND, &[], false));
        assert_eq!(decide(&led_for(ATTACHED_WITHIN)), ready);
    }
}

#[test]
fn a_phase_without_a_date_or_with_one_that_lies_ahead_lasts_since_this_replica_knows_of_it() {
    let world = World::new();
    for (phase, least, ready) in [
        (Phase::Prepared, PREPARED_MIN, Step::Activate(Vec::new())),
        (Phase::Active, ACTIVE_MIN, Step::Finish(Vec::new())),
    ] {
        for since in [None, Some(now()), Some(now() + HOUR)] {
            let known_for = |known_for| Seen {
                since,
                known_for,
                ..world.in_phase(phase, HOUR)
            };
            assert_eq!(decide(&known_for(SECOND)), waits(least - SECOND, &[], false));
            assert_eq!(decide(&known_for(least)), ready);
        }
    }
}

#[test]
fn a_clock_that_is_set_forward_does_not_shorten_the_least_time_of_a_phase() {
    let world = World::new();
    for (phase, least, ready) in [
        (Phase::Prepared, PREPARED_MIN, Step::Activate(Vec::new())),
        (Phase::Active, ACTIVE_MIN, Step::Finish(Vec::new())),
    ] {
        let known_for = |known_for| Seen {
            known_for,
            ..world.in_phase(phase, HOUR * 48)
        };
        assert_eq!(decide(&known_for(SECOND)), waits(least - SECOND, &[], false));
        assert_eq!(decide(&known_for(least)), ready);
    }
}

#[test]
fn a_wish_during_a_rotation_changes_nothing_until_it_is_over() {
    let world = World::new().with("agent a", steady);
    let mut seen = world.in_phase(Phase::Prepared, PREPARED_MIN);
    let before = decide(&seen);
    seen.is_asked = true;
    assert_eq!(decide(&seen), before);
    seen.phase = Phase::Steady;
    assert_eq!(decide(&seen), Step::Prepare(Why::Asked));
}

#[test]
fn the_more_processes_there_are_the_longer_their_renewals_are_spread() {
    assert_eq!([0, 1, 40].map(spread), [SPREAD_MIN; 3]);
    assert_eq!(spread(1000), Duration::from_secs(50));
    assert_eq!(spread(1001), Duration::from_secs(51));
}
