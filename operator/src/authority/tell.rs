//! What people are told of a rotation.

use crds::names;

use super::decide::{Step, Why};
use crate::model::publish::Note;

/// Names that are told; how many more there are is told as a number.
const NAMES_MAX: usize = 10;

/// What people are told of a step: by the log, and by what is returned.
pub(super) fn told_of(step: &Step) -> Option<Note> {
    let nobody: &[String] = &[];
    let (reason, action, message, laggards) = match step {
        Step::Wait { .. } => return None,
        Step::Prepare(why) => {
            let why = match why {
                Why::Asked => "as was asked for",
                Why::Ends => "as the present one ends before long",
            };
            let message = format!("A new authority was made, {why}; it issues once all trust it");
            ("AuthorityPrepared", "Prepare", message, nobody)
        }
        Step::Activate(laggards) => {
            let message = "The new authority issues; the old one is trusted until all have its leaves".to_owned();
            ("AuthorityActive", "Activate", message, laggards.as_slice())
        }
        Step::Finish(laggards) => {
            let message = "The new authority alone is trusted; nothing is left of the old one".to_owned();
            ("AuthorityRotated", "Finish", message, laggards.as_slice())
        }
    };
    let message = match laggards {
        [] => message,
        late => format!(
            "{message}. These were not waited for any longer, and renew by their tokens: {}",
            listed(late)
        ),
    };
    if laggards.is_empty() {
        tracing::info!("{message}");
    } else {
        tracing::warn!("{message}");
    }
    Some(Note::new(!laggards.is_empty(), reason, action, &message))
}

/// What people are told where the Secret is gone, by the log and by what is returned: none but they can put it back.
pub(super) fn told_of_gone(namespace: &str) -> Note {
    let message = format!(
        "Secret {namespace}/{} is gone; the operator goes on with the authority that it has. Restore it from a backup \
         and restart the operator; or restart the operator, agents and gateways, which makes a new one",
        names::AUTHORITY_SECRET
    );
    tracing::error!("{message}");
    Note::new(true, "AuthoritySecretGone", "Read", &message)
}

/// The names of some, and how many more there are.
pub(super) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).map(String::as_str);
    let text = shown.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Whether anybody is waited for who was not told of before: that fewer are is no news. Both are in ascending order.
pub(super) fn is_news(told: &[String], waits_for: &[String]) -> bool {
    waits_for.iter().any(|name| told.binary_search(name).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("agent {number}")).collect()
    }

    #[test]
    fn ten_are_named_and_of_others_their_number_is_told() {
        assert_eq!(listed(&names(0)), "");
        assert_eq!(listed(&names(2)), "agent 0, agent 1");
        assert!(listed(&names(10)).ends_with("agent 9"));
        assert!(listed(&names(12)).ends_with("agent 9 and 2 more"));
    }

    #[test]
    fn that_fewer_are_waited_for_is_no_news_and_that_others_are_is() {
        let told = names(3);
        assert!(is_news(&[], &told) && is_news(&told, &names(4)));
        assert!(!is_news(&told, &told) && !is_news(&told, &told[1..]) && !is_news(&told, &[]));
    }

    #[test]
    fn a_step_is_a_warning_where_somebody_was_not_waited_for_and_names_it() {
        let note = told_of(&Step::Activate(Vec::new())).unwrap();
        assert!(!note.warning && note.reason == "AuthorityActive", "{note:?}");
        let note = told_of(&Step::Finish(names(1))).unwrap();
        assert!(note.warning && note.message.contains("agent 0"), "{note:?}");
    }

    #[test]
    fn that_the_secret_is_gone_is_a_warning_that_names_it_and_what_to_do() {
        let note = told_of_gone("here");
        assert!(note.warning && note.reason == "AuthoritySecretGone", "{note:?}");
        for told in ["Secret here/shardwright-authority", "Restore it from a backup"] {
            assert!(note.message.contains(told), "{note:?}");
        }
    }
}
