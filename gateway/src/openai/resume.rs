//! PURE: how a client goes on with an answer whose gateway it lost.
//!
//! Every event of a stream has an id. A client that sends the same request again, to any gateway, with the last id that it saw in
//! the header `Last-Event-ID`, gets what follows it. No gateway remembers anything: the id says what was drawn for the answer (its
//! seed, its name), what it is an answer to, and how much of it was sent. The answer is computed anew from its beginning; what was
//! sent already is held against the id and left out. Where it comes out differently, which `determinism: Strict` rules out, the
//! client is told so and gets nothing that would not fit.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName};
use proto::shard::v1::Sampling;
use sha2::{Digest, Sha256};

use super::error::ApiError;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Bytes of an id before it is encoded: version, flags, name, time, seed, question, bytes sent, their digest.
const BYTES: usize = 1 + 1 + 16 + 8 + 8 + 8 + 8 + 8;
const VERSION: u8 = 1;
const ENDED: u8 = 1;

/// What an answer is an answer to: prompt, parameters and weights, as a digest. Two that differ are not each other's rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question([u8; 8]);

impl Question {
    /// Of a prompt as the model gets it. `weights`: what computes the answer.
    #[must_use]
    pub fn of(prompt: &[i32], max_tokens: u32, sampling: &Sampling, stop: &[String], weights: &[u8]) -> Self {
        let mut digest = Sha256::new();
        for token in prompt {
            digest.update(token.to_le_bytes());
        }
        digest.update(max_tokens.to_le_bytes());
        digest.update(sampling.temperature.to_le_bytes());
        digest.update(sampling.top_p.to_le_bytes());
        digest.update(sampling.top_k.to_le_bytes());
        for stop in stop {
            digest.update((stop.len() as u64).to_le_bytes());
            digest.update(stop);
        }
        digest.update(weights);
        Self(first(digest))
    }
}

fn first(digest: Sha256) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&digest.finalize()[..8]);
    short
}

/// What stays the same over one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Names it to the client.
    pub name: u128,
    /// Seconds since the Unix epoch.
    pub created_unix_s: i64,
    /// What it is drawn with.
    pub seed: u64,
    /// What it is an answer to.
    pub question: Question,
}

/// How far a client came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Of which answer.
    pub answer: Answer,
    /// Bytes of its text.
    bytes: u64,
    /// What they were.
    digest: [u8; 8],
    /// It saw the end of the text, and lacks the last words alone.
    pub ended: bool,
}

impl Seen {
    /// The id in the request's headers, if there is one.
    ///
    /// # Errors
    /// 400 when it is none of ours.
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let Some(value) = headers.get(LAST_EVENT_ID) else {
            return Ok(None);
        };
        let wrong = || {
            let message = "the header Last-Event-ID is no id of an event of this server; leave it out to ask anew";
            ApiError::invalid(LAST_EVENT_ID.as_str(), message)
        };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(value.as_bytes()).map_err(|_| wrong())?;
        Self::decode(&bytes).map(Some).ok_or_else(wrong)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let ([version, flags], rest) = bytes.split_first_chunk()?;
        let (name, rest) = rest.split_first_chunk()?;
        let (created, rest) = rest.split_first_chunk()?;
        let (seed, rest) = rest.split_first_chunk()?;
        let (question, rest) = rest.split_first_chunk()?;
        let (sent, rest) = rest.split_first_chunk()?;
        let digest = rest.try_into().ok()?;
        (*version == VERSION && *flags <= ENDED).then(|| Self {
            answer: Answer {
                name: u128::from_be_bytes(*name),
                created_unix_s: i64::from_be_bytes(*created),
                seed: u64::from_be_bytes(*seed),
                question: Question(*question),
            },
            bytes: u64::from_be_bytes(*sent),
            digest,
            ended: *flags == ENDED,
        })
    }
}

/// The text of an answer as it is sent: gives each event its id, and leaves out what the client has.
#[derive(Debug, Clone)]
pub struct Thread {
    answer: Answer,
    sent: Sha256,
    bytes: u64,
    /// What the client has, until the text has come so far.
    seen: Option<Seen>,
}

/// The answer comes out differently than what the client has of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Diverged;

impl Thread {
    /// Of an answer that begins, or of the rest of one.
    #[must_use]
    pub fn new(answer: Answer, seen: Option<Seen>) -> Self {
        Self {
            answer,
            sent: Sha256::new(),
            bytes: 0,
            seen,
        }
    }

    /// Whether the client has the beginning already.
    #[must_use]
    pub fn resumes(&self) -> bool {
        self.seen.is_some()
    }

    /// What of `text` the client lacks.
    ///
    /// # Errors
    /// When what comes before it is not what the client has.
    pub fn push(&mut self, text: String) -> Result<String, Diverged> {
        let Some(seen) = self.seen else {
            self.sent.update(&text);
            self.bytes += text.len() as u64;
            return Ok(text);
        };
        let lacking = usize::try_from(seen.bytes - self.bytes).unwrap_or(usize::MAX);
        if text.len() < lacking {
            self.sent.update(&text);
            self.bytes += text.len() as u64;
            return Ok(String::new());
        }
        // Within a character it cannot end: what was sent were whole ones.
        let (known, new) = text.split_at_checked(lacking).ok_or(Diverged)?;
        self.sent.update(known);
        if first(self.sent.clone()) != seen.digest {
            return Err(Diverged);
        }
        self.bytes = seen.bytes;
        self.seen = None;
        if new.is_empty() {
            Ok(String::new())
        } else {
            self.push(new.to_owned())
        }
    }

    /// The text has ended.
    ///
    /// # Errors
    /// When the client has more of it.
    pub fn end(&mut self) -> Result<(), Diverged> {
        self.push(String::new())?;
        if self.resumes() { Err(Diverged) } else { Ok(()) }
    }

    /// The id of what was pushed last; `ended`, of the end of the text.
    #[must_use]
    pub fn id(&self, ended: bool) -> String {
        let Answer {
            name,
            created_unix_s,
            seed,
            question,
        } = self.answer;
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend([VERSION, if ended { ENDED } else { 0 }]);
        bytes.extend(name.to_be_bytes());
        bytes.extend(created_unix_s.to_be_bytes());
        bytes.extend(seed.to_be_bytes());
        bytes.extend(question.0);
        bytes.extend(self.bytes.to_be_bytes());
        bytes.extend(first(self.sent.clone()));
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn answer() -> Answer {
        let sampling = Sampling::default();
        Answer {
            name: 0x1234,
            created_unix_s: 1_800_000_000,
            seed: u64::MAX - 1,
            question: Question::of(&[1, 2, 3], 10, &sampling, &["x".into()], b"weights"),
        }
    }

    fn seen(id: &str) -> Result<Option<Seen>, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(LAST_EVENT_ID, HeaderValue::from_str(id).unwrap());
        Seen::read(&headers)
    }

    /// What the client gets in all, having lost its gateway after so many pieces.
    fn over(pieces: &[&str], again: &[&str], after: usize) -> Result<String, Diverged> {
        let mut thread = Thread::new(answer(), None);
        let mut text = String::new();
        for piece in &pieces[..after] {
            text.push_str(&thread.push((*piece).to_owned()).unwrap());
        }
        let last = seen(&thread.id(false)).unwrap().unwrap();
        assert_eq!(last.answer, answer());
        let mut thread = Thread::new(last.answer, Some(last));
        for piece in again {
            text.push_str(&thread.push((*piece).to_owned())?);
        }
        thread.end()?;
        Ok(text)
    }

    #[test]
    fn what_a_client_has_and_what_it_gets_are_the_whole_answer_wherever_it_was_cut() {
        let pieces = ["Grüß", " ", "Gott", ", ", "Welt"];
        let split_otherwise = ["G", "rüß Go", "tt, We", "lt"];
        for after in 0..=pieces.len() {
            for again in [&pieces[..], &split_otherwise[..]] {
                assert_eq!(over(&pieces, again, after).as_deref(), Ok("Grüß Gott, Welt"), "{after}");
            }
        }
    }

    #[test]
    fn an_answer_that_comes_out_differently_is_not_joined_to_what_the_client_has() {
        assert_eq!(over(&["one", "two"], &["one", "three"], 2), Err(Diverged));
        assert_eq!(over(&["one", "two"], &["one"], 2), Err(Diverged), "it is shorter");
        assert_eq!(
            over(&["on", "two"], &["oñ"], 1),
            Err(Diverged),
            "a character lies across the end"
        );
        assert_eq!(over(&["one", "two"], &["one", "three"], 1).as_deref(), Ok("onethree"));
    }

    #[test]
    fn questions_that_differ_in_anything_are_not_the_same() {
        let of = |prompt: &[i32], max_tokens, top_p, stop: &str, weights: &[u8]| {
            let sampling = Sampling {
                top_p,
                ..Sampling::default()
            };
            Question::of(prompt, max_tokens, &sampling, &[stop.to_owned()], weights)
        };
        let base = of(&[1, 2], 3, 1.0, "a", b"w");
        assert_eq!(base, of(&[1, 2], 3, 1.0, "a", b"w"));
        for other in [
            of(&[1], 3, 1.0, "a", b"w"),
            of(&[1, 2], 4, 1.0, "a", b"w"),
            of(&[1, 2], 3, 0.5, "a", b"w"),
            of(&[1, 2], 3, 1.0, "b", b"w"),
            of(&[1, 2], 3, 1.0, "a", b"v"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn an_id_that_is_none_of_ours_is_refused_by_name() {
        let long = "A".repeat(78);
        let old = BASE64_URL_SAFE_NO_PAD.encode([9; BYTES]);
        for wrong in ["", "7", "not base64!", long.as_str(), old.as_str()] {
            let error = seen(wrong).unwrap_err();
            assert!(error.message.contains("Last-Event-ID"), "{wrong}: {error}");
        }
        assert_eq!(Seen::read(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn the_end_has_an_id_of_its_own() {
        let thread = Thread::new(answer(), None);
        assert!(seen(&thread.id(true)).unwrap().unwrap().ended);
        assert!(!seen(&thread.id(false)).unwrap().unwrap().ended);
    }
}
