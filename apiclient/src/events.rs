//! Events for people: notes wait in a queue, and one task sends them, so that whoever has something to tell does not wait for the API
//! server.

use std::future::Future;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

/// Longest message that the API accepts, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// Something a person should be able to look up later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Wants attention.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: String,
    /// What was done when it happened.
    pub action: &'static str,
    /// For a person.
    pub message: String,
}

impl Note {
    /// A message that is too long for the API is cut.
    #[must_use]
    pub fn new(warning: bool, reason: &str, action: &'static str, message: &str) -> Self {
        Self {
            warning,
            reason: reason.to_owned(),
            action,
            message: message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned(),
        }
    }
}

impl From<Note> for Event {
    fn from(note: Note) -> Self {
        Self {
            type_: if note.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: note.reason,
            note: Some(note.message),
            action: note.action.to_owned(),
            secondary: None,
        }
    }
}

/// Where notes wait, each with the object that it is about. Clones are the same queue.
#[derive(Debug, Clone)]
pub struct Queue(mpsc::Sender<(Note, ObjectReference)>);

impl Queue {
    /// Room for so many notes, which `send` takes one after the other, until `stop` or until all clones are gone. Must be called on a
    /// Tokio runtime.
    pub fn start<S, F>(room: usize, stop: CancellationToken, send: S) -> Self
    where
        S: Fn(Event, ObjectReference) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (queue, mut notes) = mpsc::channel::<(Note, ObjectReference)>(room);
        tokio::spawn(async move {
            loop {
                let (note, about) = tokio::select! {
                    () = stop.cancelled() => return,
                    note = notes.recv() => match note {
                        Some(note) => note,
                        None => return,
                    },
                };
                let sent = send(note.into(), about);
                sent.await;
            }
        });
        Self(queue)
    }

    /// Queues a note.
    ///
    /// # Errors
    /// It is lost: there is no room for it, or nobody sends any more.
    pub fn push(&self, note: Note, about: ObjectReference) -> Result<(), TrySendError<()>> {
        self.0.try_send((note, about)).map_err(|error| match error {
            TrySendError::Full(_) => TrySendError::Full(()),
            TrySendError::Closed(_) => TrySendError::Closed(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    fn note(warning: bool, reason: &str, message: &str) -> Note {
        Note::new(warning, reason, "Watch", message)
    }

    fn about(name: &str) -> ObjectReference {
        ObjectReference {
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_between_two_characters() {
        let long = format!("{}é", "m".repeat(MESSAGE_BYTES_MAX - 1));
        assert_eq!(note(true, "Fault", &long).message, "m".repeat(MESSAGE_BYTES_MAX - 1));
        assert_eq!(note(true, "Fault", "short").message, "short");
    }

    #[tokio::test]
    async fn notes_are_sent_in_their_order_each_about_its_object() {
        let (sent, mut seen) = unbounded_channel();
        let queue = Queue::start(2, CancellationToken::new(), move |event, about| {
            sent.send((event.type_, event.reason, event.note, about.name)).unwrap();
            std::future::ready(())
        });
        queue.push(note(true, "DeviceLost", "gone"), about("a")).unwrap();
        queue.push(note(false, "Recovered", "back"), about("b")).unwrap();
        let text = |text: &str| Some(text.to_owned());
        let lost = (EventType::Warning, "DeviceLost".to_owned(), text("gone"), text("a"));
        let back = (EventType::Normal, "Recovered".to_owned(), text("back"), text("b"));
        assert_eq!(seen.recv().await, Some(lost));
        assert_eq!(seen.recv().await, Some(back));
        drop(queue);
        assert_eq!(seen.recv().await, None, "the task ends with the last clone");
    }

    #[tokio::test]
    async fn what_finds_no_room_or_nobody_who_sends_is_lost_and_says_so() {
        let stop = CancellationToken::new();
        let queue = Queue::start(1, stop.clone(), |_, _| std::future::ready(()));
        // The task has its turn only when this one waits.
        queue.push(note(false, "Serving", ""), about("a")).unwrap();
        let full = queue.push(note(false, "Serving", ""), about("a"));
        assert_eq!(full, Err(TrySendError::Full(())));
        stop.cancel();
        queue.0.closed().await;
        let closed = queue.push(note(false, "Serving", ""), about("a"));
        assert_eq!(closed, Err(TrySendError::Closed(())));
    }
}
