//! PURE: what becomes of the events of a watch. An event is a line of JSON: `{"type": …, "object": …}`.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Value, json};

/// Cuts bytes as they come into lines.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// The lines that these bytes complete, each with its end.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Bytes> {
        self.0.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            lines.push(Bytes::from(self.0.drain(..=end).collect::<Vec<u8>>()));
        }
        lines
    }
}

/// Which object an event is about; `None` for bookmarks and errors.
fn uid(line: &[u8]) -> Option<String> {
    let event: Value = serde_json::from_slice(line).ok()?;
    let of_an_object = matches!(event["type"].as_str(), Some("ADDED" | "MODIFIED" | "DELETED"));
    let uid = event["object"]["metadata"]["uid"].as_str();
    uid.filter(|_| of_an_object).map(str::to_owned)
}

/// What was told of each object last.
#[derive(Debug, Default)]
pub struct Told(HashMap<String, Bytes>);

impl Told {
    /// The event, and where something was told of its object before, that and the event once more.
    pub fn replayed(&mut self, line: Bytes) -> Vec<Bytes> {
        let before = uid(&line).and_then(|uid| self.0.insert(uid, line.clone()));
        match before {
            Some(before) => vec![line.clone(), before, line],
            None => vec![line],
        }
    }
}

/// Only the last event of each object, in the order of these last ones; bookmarks and errors stay.
pub fn newest(lines: Vec<Bytes>) -> Vec<Bytes> {
    let mut kept: Vec<(Option<String>, Bytes)> = Vec::new();
    for line in lines {
        let uid = uid(&line);
        if uid.is_some() {
            kept.retain(|(other, _)| *other != uid);
        }
        kept.push((uid, line));
    }
    kept.into_iter().map(|(_, line)| line).collect()
}

/// The first half of an event: what is left of it when the connection ends.
pub fn half(line: &Bytes) -> Bytes {
    line.slice(..line.len() / 2)
}

/// What an API server says of a resource version that it has no events for any more.
pub fn expired() -> Bytes {
    let status = status(410, "Expired", "too old resource version");
    Bytes::from(format!("{}\n", json!({ "type": "ERROR", "object": status })))
}

/// A failure as the API server words it.
pub fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "message": message, "reason": reason, "code": code,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::{Lines, Told, newest};

    fn event(kind: &str, uid: &str, version: u64) -> Bytes {
        let object = json!({ "metadata": { "uid": uid, "resourceVersion": version.to_string() } });
        Bytes::from(format!("{}\n", json!({ "type": kind, "object": object })))
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut lines = Lines::default();
        let cut: Vec<Bytes> = b"ab\ncd\nef".chunks(2).flat_map(|bytes| lines.push(bytes)).collect();
        assert_eq!(cut, ["ab\n", "cd\n"]);
    }

    #[test]
    fn a_replay_goes_back_by_one_and_comes_forward_again() {
        let mut told = Told::default();
        let (first, second, other) = (
            event("ADDED", "a", 1),
            event("MODIFIED", "a", 2),
            event("ADDED", "b", 3),
        );
        assert_eq!(told.replayed(first.clone()), [&first]);
        assert_eq!(told.replayed(other.clone()), [&other]);
        assert_eq!(told.replayed(second.clone()), [&second, &first, &second]);
    }

    #[test]
    fn of_what_was_withheld_only_the_newest_of_each_object_is_told() {
        let bookmark = Bytes::from_static(b"{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"uid\":\"a\"}}}\n");
        let (gone, back) = (event("DELETED", "a", 2), event("ADDED", "b", 3));
        let lines = vec![event("ADDED", "a", 1), back.clone(), bookmark.clone(), gone.clone()];
        assert_eq!(newest(lines), [back, bookmark, gone]);
    }
}
