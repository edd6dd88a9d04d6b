use super::{Passed, StopFilter};

fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
    let mut filter = StopFilter::new(stops.iter().map(ToString::to_string).collect());
    let mut sent = String::new();
    for piece in pieces {
        let Passed { text, stopped } = filter.push(piece);
        sent.push_str(&text);
        if stopped {
            return (sent, true);
        }
    }
    sent.push_str(&filter.finish());
    (sent, false)
}

#[test]
fn without_stop_strings_everything_passes_at_once() {
    let mut filter = StopFilter::new(vec![]);
    assert_eq!(
        filter.push("abc"),
        Passed {
            text: "abc".into(),
            stopped: false
        }
    );
}

#[test]
fn a_stop_string_inside_one_piece_ends_the_text_before_it() {
    assert_eq!(run(&["END"], &["one END two"]), ("one ".into(), true));
}

#[test]
fn a_stop_string_over_several_pieces_is_never_partly_sent() {
    let mut filter = StopFilter::new(vec!["\n\nUser:".into()]);
    assert_eq!(filter.push("hi\n").text, "hi");
    assert_eq!(filter.push("\nUs").text, "");
    assert_eq!(
        filter.push("er: x"),
        Passed {
            text: String::new(),
            stopped: true
        }
    );
}

#[test]
fn what_turns_out_to_be_no_stop_string_is_sent_after_all() {
    assert_eq!(run(&["abcd"], &["ab", "c", "x"]), ("abcx".into(), false));
    assert_eq!(run(&["abcd"], &["zab"]), ("zab".into(), false));
}

#[test]
fn overlapping_beginnings_are_found() {
    assert_eq!(run(&["aab"], &["a", "a", "a", "b", "c"]), ("a".into(), true));
}

#[test]
fn the_earliest_of_several_stop_strings_wins() {
    assert_eq!(run(&["two", "one"], &["zero one two"]), ("zero ".into(), true));
}

#[test]
fn held_text_is_cut_only_between_characters() {
    assert_eq!(run(&["éà"], &["caf", "é", "s"]), ("cafés".into(), false));
    assert_eq!(run(&["éà"], &["caf", "é", "à"]), ("caf".into(), true));
}

#[test]
fn empty_stop_strings_stop_nothing() {
    assert_eq!(run(&[""], &["abc"]), ("abc".into(), false));
}
