use std::sync::Arc;

use super::{Awake, NOWHERE, distinct, stand_on};

#[test]
fn one_core_that_computes_and_carries_needs_one_thread() {
    assert_eq!(distinct(3, 3), [3, NOWHERE]);
    assert_eq!(distinct(3, 5), [3, 5]);
    assert_eq!(distinct(3, NOWHERE), [3, NOWHERE]);
}

#[test]
fn a_core_that_there_is_not_is_refused() {
    let refused = std::thread::spawn(|| (stand_on(NOWHERE), stand_on(rustix::thread::CpuSet::MAX_CPU - 1)));
    assert_eq!(refused.join().unwrap(), (false, false));
}

#[test]
fn threads_rest_without_a_rhythm_turn_with_one_and_end_with_their_owner() {
    let mut awake = Awake::start().unwrap();
    let watch = Arc::downgrade(awake.watch.as_ref().unwrap());
    let rest = |count: usize| {
        let watch = watch.upgrade().unwrap();
        let resting = || {
            watch
                .keepers
                .iter()
                .filter(|keeper| keeper.rests.load(super::Ordering::SeqCst))
        };
        while resting().count() != count {
            std::thread::yield_now();
        }
    };
    rest(2);
    awake.carrier().here();
    awake.computed();
    rest(2);
    // Two at once: a rhythm, and one that ends at once.
    awake.computed();
    rest(2);
    drop(awake);
    while watch.upgrade().is_some() {
        std::thread::yield_now();
    }
}

#[test]
fn what_never_keeps_awake_has_no_threads() {
    let mut awake = Awake::never();
    awake.carrier().here();
    awake.computed();
    awake.computed();
    assert!(awake.watch.is_none());
}
