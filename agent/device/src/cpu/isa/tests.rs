use super::*;

fn claimed(flags: &str) -> Vec<String> {
    flags.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn only_what_is_claimed_is_tried_and_only_what_was_tried_and_failed_is_broken() {
    let mut tried = Vec::new();
    let broken = broken_by(&claimed("avx2 fma f16c avx512f"), |feature| {
        tried.push(feature);
        match feature {
            Feature::Avx2 => Outcome::Works,
            Feature::Fma => Outcome::Wrong,
            Feature::F16c => Outcome::Untried("no child could be started"),
            _ => Outcome::Stopped(4),
        }
    });
    assert_eq!(tried, [Feature::Avx2, Feature::Fma, Feature::F16c, Feature::Avx512f]);
    assert_eq!(broken, ["fma", "avx512f"]);
}

#[test]
fn what_rests_on_a_broken_set_is_void_and_nothing_else() {
    assert!(is_void("avx512bw", &["avx512f"]) && is_void("avx512f", &["avx512f"]));
    assert!(is_void("amx_tile", &["amx_int8"]));
    assert!(!is_void("avx2", &["avx512f"]) && !is_void("avx512f", &[]) && !is_void("f16c", &["fma"]));
}

#[test]
fn an_ended_child_is_understood() {
    assert_eq!(outcome(Ended::Exited(0)), Outcome::Works);
    assert_eq!(outcome(Ended::Exited(1)), Outcome::Wrong);
    assert_eq!(outcome(Ended::Signalled(4)), Outcome::Stopped(4));
}

#[test]
fn a_child_that_traps_costs_a_signal_and_not_this_process() {
    let trapped = call::isa::in_child(|| {
        call::isa::trap();
        true
    });
    assert_eq!(trapped, Some(Ended::Signalled(libc::SIGILL)));
    assert_eq!(call::isa::in_child(|| false), Some(Ended::Exited(1)));
}

#[test]
fn what_the_kernel_lists_works_here_and_what_it_does_not_list_never_takes_this_process_down() {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = crate::cpu::parse::cpuinfo(&text).flags;
    for feature in Feature::ALL {
        let outcome = probe_in_child(feature);
        println!("{}: {outcome:?}", feature.flag());
        if flags.iter().any(|flag| flag == feature.flag()) {
            assert_eq!(outcome, Outcome::Works, "{feature:?}");
        }
    }
}
