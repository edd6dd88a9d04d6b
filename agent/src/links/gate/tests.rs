use super::*;

#[tokio::test]
async fn one_round_at_a_time_whoever_begins_it() {
    let gate = Gate::default();
    let ours = gate.begin().await.unwrap();
    assert_eq!(gate.admit(false).unwrap_err(), PutOff::Busy);
    drop(ours);
    let theirs = gate.admit(false).unwrap();
    assert_eq!(gate.admit(false).unwrap_err(), PutOff::Busy);
    drop(theirs);
    drop(gate.admit(false).unwrap());
}

#[tokio::test]
async fn nobody_is_let_in_while_a_shard_computes_or_the_share_is_given_or_the_administrator_says_so() {
    let gate = Gate::default();
    gate.serves().send_replace(true);
    assert_eq!(gate.admit(false).unwrap_err(), PutOff::Serves);
    drop(gate.admit(true).expect("a glance"));
    gate.serves().send_replace(false);
    gate.wishes().send_replace(Wishes {
        paused: true,
        ..Wishes::default()
    });
    assert_eq!(gate.admit(false).unwrap_err(), PutOff::Paused);
    assert_eq!(gate.admit(true).unwrap_err(), PutOff::Paused);
    gate.wishes().send_replace(Wishes::default());
    gate.began(10_000_000);
    drop(gate.admit(false).unwrap());
    gate.answered(10_000_000);
    assert_eq!(gate.admit(false).unwrap_err(), PutOff::Spent);
    assert_eq!(gate.admit(true).unwrap_err(), PutOff::Spent);
    assert_eq!(gate.spent_us(), (10_000_000, 10_000_000));
}
