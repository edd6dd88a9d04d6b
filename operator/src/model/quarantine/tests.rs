use super::*;

const HALF: Limit = Limit { percent: 50 };
const FAULT: &str = "is not healthy (Xid79)";

/// Devices that serve, all of one backend unless said otherwise.
struct Cluster {
    devices: Vec<(String, &'static str, State<'static>)>,
    quarantine: Quarantine,
    limit: Limit,
    now: Instant,
}

impl Cluster {
    /// Sound devices `d0`, `d1`, ..., which were looked at once.
    fn of(count: usize) -> Self {
        let mut cluster = Self::unseen(count);
        cluster.held();
        cluster
    }

    fn unseen(count: usize) -> Self {
        let device = |at| (format!("d{at}"), "cuda", State::Sound);
        Self {
            devices: (0..count).map(device).collect(),
            quarantine: Quarantine::default(),
            limit: HALF,
            // Far from the beginning of the clock.
            now: Instant::now() + 10 * WINDOW,
        }
    }

    fn set(&mut self, devices: impl IntoIterator<Item = usize>, state: State<'static>) {
        for device in devices {
            self.devices[device].2 = state;
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Looks, and says which are held.
    fn held(&mut self) -> Vec<String> {
        let seen =
            |(device, backend, state): &'_ (String, &'static str, State<'static>)| (device.clone(), *backend, *state);
        let devices: Vec<_> = self.devices.iter().map(seen).collect();
        let seen: Vec<Seen<'_>> = devices
            .iter()
            .map(|(device, backend, state)| Seen {
                device,
                backend,
                state: *state,
            })
            .collect();
        self.quarantine.look(&seen, self.limit, self.now);
        self.quarantine.held().keys().cloned().collect()
    }
}

fn judged() -> State<'static> {
    judged_for(Duration::ZERO)
}

fn judged_for(stood: Duration) -> State<'static> {
    State::Serving {
        stood,
        why: FAULT,
        was_held: false,
    }
}

fn idle() -> State<'static> {
    State::Idle { stood: Duration::ZERO }
}

#[test]
fn of_devices_that_are_all_judged_at_once_half_are_left_and_half_are_held() {
    let mut cluster = Cluster::of(8);
    cluster.set(0..8, judged());
    assert_eq!(cluster.held(), ["d4", "d5", "d6", "d7"]);
    let held = &cluster.quarantine.held()["d4"];
    assert_eq!((held.out, held.of, held.why.as_str()), (4, 8, FAULT));
}

#[test]
fn faults_that_come_one_after_the_other_within_minutes_are_counted_together() {
    let mut cluster = Cluster::of(6);
    for device in 0..4 {
        cluster.set([device], judged());
        let expected: &[&str] = if device < 3 { &[] } else { &["d3"] };
        assert_eq!(cluster.held(), expected);
        cluster.pass(WINDOW / 6);
    }
}

#[test]
fn faults_that_come_slowly_are_all_left() {
    let mut cluster = Cluster::of(6);
    for device in 0..6 {
        cluster.set([device], judged());
        assert!(cluster.held().is_empty(), "d{device}");
        cluster.pass(WINDOW);
    }
}

#[test]
fn the_only_device_is_left_and_so_is_one_of_two_or_three() {
    for (count, held) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3)] {
        let mut cluster = Cluster::of(count);
        cluster.set(0..count, judged());
        assert_eq!(cluster.held().len(), held, "of {count}");
    }
}

#[test]
fn a_vendors_library_that_condemns_all_its_devices_leaves_half_of_them_whatever_others_there_are() {
    let mut cluster = Cluster::of(12);
    for (_, backend, _) in &mut cluster.devices[4..] {
        *backend = "cpu";
    }
    cluster.set(0..4, judged());
    assert_eq!(cluster.held(), ["d2", "d3"]);
    let held = &cluster.quarantine.held()["d2"];
    assert_eq!((held.out, held.of, held.backend.as_deref()), (2, 4, Some("cuda")));
}

#[test]
fn what_is_no_judgement_is_never_held_and_leaves_less_for_judgement() {
    let mut cluster = Cluster::of(6);
    cluster.set(0..5, State::Lost);
    assert!(cluster.held().is_empty());
    cluster.set([5], judged());
    assert_eq!(cluster.held(), ["d5"]);
    // Its stage ended: there is nothing to hold.
    cluster.set([5], idle());
    assert!(cluster.held().is_empty());
}

#[test]
fn agents_that_were_only_restarted_count_no_more() {
    let mut cluster = Cluster::of(4);
    cluster.set([0, 1], State::Lost);
    cluster.held();
    cluster.set([0, 1], State::Sound);
    cluster.held();
    cluster.set([2, 3], judged());
    assert!(cluster.held().is_empty());
}

#[test]
fn devices_that_were_left_and_recovered_count_until_the_window_has_passed() {
    let mut cluster = Cluster::of(4);
    cluster.set([0, 1], judged());
    cluster.held();
    cluster.set([0, 1], State::Sound);
    cluster.held();
    cluster.set([2], judged());
    assert_eq!(cluster.held(), ["d2"]);
    // One that is left again is no other device.
    cluster.set([0], judged());
    assert_eq!(cluster.held(), ["d2"]);
}

#[test]
fn time_alone_releases_nothing() {
    let mut cluster = Cluster::of(4);
    cluster.set(0..4, judged());
    assert_eq!(cluster.held(), ["d2", "d3"]);
    for _ in 0..5 {
        cluster.pass(WINDOW);
        assert_eq!(cluster.held(), ["d2", "d3"]);
    }
}

#[test]
fn a_device_that_recovers_is_held_no_more() {
    let mut cluster = Cluster::of(4);
    cluster.set(0..4, judged());
    cluster.held();
    cluster.set([3], State::Sound);
    assert_eq!(cluster.held(), ["d2"]);
}

#[test]
fn where_most_recover_the_rest_is_left_once_the_window_has_passed() {
    let mut cluster = Cluster::of(4);
    cluster.set(0..4, judged());
    cluster.held();
    cluster.set([0, 1], State::Sound);
    assert_eq!(cluster.held(), ["d2", "d3"], "four of four within five minutes");
    cluster.pass(WINDOW);
    assert!(cluster.held().is_empty());
}

#[test]
fn a_person_who_cordons_a_device_or_raises_the_limit_releases_it() {
    let mut cluster = Cluster::of(4);
    cluster.set(0..4, judged());
    cluster.held();
    // Cordoned: it does not count.
    let cordoned = cluster.devices.remove(3);
    assert_eq!(cluster.held(), ["d2"]);
    cluster.devices.push(cordoned);
    assert_eq!(cluster.held(), ["d2", "d3"]);
    cluster.limit = Limit { percent: 100 };
    assert!(cluster.held().is_empty());
}

#[test]
fn a_limit_of_nothing_leaves_nothing_and_one_of_all_leaves_all() {
    let mut cluster = Cluster::of(4);
    cluster.limit = Limit { percent: 0 };
    cluster.set([0], judged());
    assert_eq!(cluster.held(), ["d0"]);
    let mut cluster = Cluster::of(4);
    cluster.limit = Limit { percent: 100 };
    cluster.set(0..4, judged());
    assert!(cluster.held().is_empty());
}

#[test]
fn devices_that_have_been_out_for_long_are_no_part_of_what_is_in_service() {
    let mut cluster = Cluster::of(8);
    cluster.set(0..4, idle());
    cluster.held();
    cluster.pass(WINDOW);
    cluster.set(4..8, judged());
    assert_eq!(cluster.held(), ["d6", "d7"], "half of four");
}

#[test]
fn another_leader_counts_from_when_devices_say_that_they_were_judged() {
    let mut cluster = Cluster::unseen(6);
    cluster.set(0..3, State::Idle { stood: WINDOW / 2 });
    cluster.set([3], judged());
    assert_eq!(cluster.held(), ["d3"]);
    let mut cluster = Cluster::unseen(6);
    cluster.set(0..3, State::Idle { stood: 2 * WINDOW });
    cluster.set([3], judged());
    assert!(cluster.held().is_empty());
}

#[test]
fn another_leader_leaves_and_holds_the_same_devices() {
    let mut cluster = Cluster::unseen(4);
    for (device, minutes) in [(0, 9), (1, 8), (2, 7), (3, 6)] {
        cluster.set([device], judged_for(Duration::from_secs(60 * minutes)));
    }
    assert_eq!(cluster.held(), ["d2", "d3"]);
}

#[test]
fn what_a_status_says_is_held_stays_held_whatever_agents_clocks_say() {
    let mut cluster = Cluster::unseen(4);
    cluster.set([0, 1], State::Idle { stood: 100 * WINDOW });
    let held = State::Serving {
        stood: 3 * WINDOW,
        why: FAULT,
        was_held: true,
    };
    cluster.set([2, 3], held);
    assert_eq!(cluster.held(), ["d2", "d3"]);
    assert_eq!(cluster.held(), ["d2", "d3"]);
}

#[test]
fn a_look_at_the_same_thing_changes_nothing() {
    let mut cluster = Cluster::of(8);
    cluster.set(0..8, judged());
    cluster.held();
    let before = format!("{:?}", cluster.quarantine);
    cluster.held();
    assert_eq!(format!("{:?}", cluster.quarantine), before);
}
