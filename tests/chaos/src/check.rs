//! PURE: what a history must satisfy, and where it does not.
//!
//! | rule | compared |
//! |---|---|
//! | sent text is right | every attempt's text, byte for byte, with its request's reference, from where the client asked on |
//! | an answer is whole | length, token count and `finish_reason` of an answered attempt with all of the reference |
//! | every request ends | each attempt with an answer or OpenAI's error object, unless the gateway replica that it asked was being killed |
//! | nothing is silent | each attempt before its deadline, with a sign of life in between |
//! | requests go on | no refusal but 429 and 503, which clients repeat by themselves, and those only before anything was answered |
//! | streams go on | no streamed answer that has begun ends with an error, unless its gateway was being killed |
//!
//! An attempt that was cut short is right as far as it goes. A client that asks again after the loss of a gateway names the last event
//! that it saw, and what comes then is held against the reference from there on; where it names none, from its beginning. Nothing that was sent can be changed, repeated or left out without
//! the text parting from the reference; [`Difference`] counts by how many pieces it does. A piece is a token's text, but for tokens
//! that end within a character.

use std::fmt;

use crate::history::{Attempt, End, Fault, History, Kind, Moment, Operation, Reference, Request};

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which operation.
    pub operation: u64,
    /// Which of its attempts.
    pub attempt: usize,
    /// When the attempt ended.
    pub at: Moment,
    /// What is wrong.
    pub wrong: Wrong,
}

/// What is wrong with an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The text is not the reference's.
    Text(Difference),
    /// The text is right, but more should have come before the end, or the count or reason is another.
    Incomplete {
        /// What it ended with.
        got: String,
        /// What the reference ends with.
        expected: String,
    },
    /// An answer that had begun, or been accepted, ended with an error object.
    Interrupted(String),
    /// It ended without a word.
    Cut(String),
    /// It did not end, or not in time.
    Silent,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operation,
            attempt,
            at,
            wrong,
        } = self;
        write!(
            formatter,
            "[{:8.3} s] request {operation}.{attempt}: ",
            at.as_secs_f64()
        )?;
        match wrong {
            Wrong::Text(difference) => write!(formatter, "{difference}"),
            Wrong::Incomplete { got, expected } => write!(formatter, "ended with {got}, not with {expected}"),
            Wrong::Interrupted(error) => write!(formatter, "broke: {error}"),
            Wrong::Cut(cause) => write!(formatter, "ended without an answer or an error: {cause}"),
            Wrong::Silent => write!(formatter, "no answer, no error and no sign of life in time"),
        }
    }
}

/// Where and how an answer parts from its reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Bytes that are right.
    pub at_byte: usize,
    /// Pieces of the reference that are left out there.
    pub lost: usize,
    /// Pieces that came before and come again there.
    pub repeated: usize,
    /// Pieces that are others; counted where neither of the two explains it.
    pub changed: usize,
    /// The first pieces that came instead.
    pub got: String,
    /// Those that should have come.
    pub expected: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at_byte,
            lost,
            repeated,
            changed,
            got,
            expected,
        } = self;
        write!(
            formatter,
            "wrong after {at_byte} bytes ({lost} tokens lost, {repeated} repeated, {changed} changed): {got:?} in the place of {expected:?}"
        )
    }
}

/// What came of all requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Every rule that was broken, in the order of the history.
    pub violations: Vec<Violation>,
    /// Streamed answers that had begun.
    pub streams: u64,
    /// Of those, the ones that came whole and right in one go, or were cut by the loss of their gateway and right so far.
    pub streams_verified: u64,
    /// Of those, the ones that ended with an error, silence, or wrong text.
    pub streams_broken: u64,
    /// Pieces.
    pub tokens: u64,
    /// Pieces of the references that are missing within answers.
    pub tokens_lost: u64,
    /// Pieces that came twice.
    pub tokens_repeated: u64,
    /// Pieces that are others.
    pub tokens_changed: u64,
    /// Operations.
    pub requests: u64,
    /// Those that were answered whole and right before their deadline, and of which no attempt broke a rule.
    pub requests_right: u64,
    /// Attempts that were refused with an error object before anything was answered: the client asked again.
    pub refusals: u64,
    /// Attempts that the loss of their gateway ended.
    pub cut_by_gateway: u64,
}

impl Verdict {
    /// Pieces that are not as they should be.
    pub fn tokens_wrong(&self) -> u64 {
        self.tokens_lost + self.tokens_repeated + self.tokens_changed
    }

    /// Share of the requests that were right; all of none.
    pub fn right_ratio(&self) -> f64 {
        if self.requests == 0 {
            return 1.0;
        }
        self.requests_right as f64 / self.requests as f64
    }
}

/// Judges a whole history.
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    for operation in &history.operations {
        let request = history.requests.get(operation.request);
        let reference = history.references.get(operation.request);
        let (Some(request), Some(reference)) = (request, reference) else {
            continue;
        };
        judge(operation, request, reference, &history.faults, &mut verdict);
    }
    verdict
}

fn judge(operation: &Operation, request: &Request, reference: &Reference, faults: &[Fault], verdict: &mut Verdict) {
    let before = verdict.violations.len();
    for (number, attempt) in operation.attempts.iter().enumerate() {
        verdict.tokens += attempt.pieces.len() as u64;
        let excused = gateway_was_lost(attempt, faults);
        let wrong = wrong(attempt, reference, excused);
        if let Some(Wrong::Text(difference)) = &wrong {
            verdict.tokens_lost += difference.lost as u64;
            verdict.tokens_repeated += difference.repeated as u64;
            verdict.tokens_changed += difference.changed as u64;
        }
        match attempt.end {
            End::Refused { .. } => verdict.refusals += 1,
            End::Cut { .. } | End::Interrupted { .. } if excused => verdict.cut_by_gateway += 1,
            _ => {}
        }
        if request.streamed && !attempt.pieces.is_empty() {
            verdict.streams += 1;
            let outcome = if wrong.is_some() {
                &mut verdict.streams_broken
            } else {
                &mut verdict.streams_verified
            };
            *outcome += 1;
        }
        verdict.violations.extend(wrong.map(|wrong| Violation {
            operation: operation.id,
            attempt: number,
            at: attempt.ended,
            wrong,
        }));
    }
    verdict.requests += 1;
    let last = operation.attempts.last();
    let answered =
        last.is_some_and(|last| matches!(last.end, End::Answered { .. }) && last.ended <= operation.deadline);
    if answered && verdict.violations.len() == before {
        verdict.requests_right += 1;
    }
}

/// Whether the replica that was asked was killed while it answered, or was not back yet.
fn gateway_was_lost(attempt: &Attempt, faults: &[Fault]) -> bool {
    faults.iter().any(|fault| {
        fault.kind == Kind::GatewayKilled
            && fault.gateway == Some(attempt.gateway)
            && fault.at <= attempt.ended
            && fault.whole.is_none_or(|whole| attempt.asked <= whole)
    })
}

fn wrong(attempt: &Attempt, reference: &Reference, gateway_was_lost: bool) -> Option<Wrong> {
    if let Some(difference) = difference(attempt, reference) {
        return Some(Wrong::Text(difference));
    }
    match &attempt.end {
        End::Answered { finish_reason, tokens } => incomplete(attempt, finish_reason, *tokens, reference),
        End::Refused { status, .. } if RETRIABLE.contains(status) => None,
        End::Refused { status, code, message } => Some(Wrong::Interrupted(format!("{status} {code}: {message}"))),
        End::Interrupted { .. } | End::Cut { .. } if gateway_was_lost => None,
        End::Interrupted { code, message } => Some(Wrong::Interrupted(format!("{code}: {message}"))),
        End::Cut { cause } => Some(Wrong::Cut(cause.clone())),
        End::Silent => Some(Wrong::Silent),
    }
}

fn incomplete(attempt: &Attempt, reason: &str, tokens: Option<u64>, reference: &Reference) -> Option<Wrong> {
    let describe = |bytes: usize, tokens: u64, reason: &str| format!("{bytes} bytes, {tokens} tokens, {reason:?}");
    let got = describe(
        attempt.from + attempt.text().len(),
        tokens.unwrap_or(reference.tokens),
        reason,
    );
    let expected = describe(reference.text().len(), reference.tokens, &reference.finish_reason);
    (got != expected).then_some(Wrong::Incomplete { got, expected })
}

/// Statuses that say "not now", as OpenAI's client understands them.
const RETRIABLE: [u16; 2] = [429, 503];
/// How many pieces must agree again behind a gap or a repetition before that is what it is called.
const AGREEMENT: usize = 3;
/// How many pieces a message shows.
const SHOWN: usize = 6;

/// Where an attempt's text is not the beginning of the reference.
fn difference(attempt: &Attempt, reference: &Reference) -> Option<Difference> {
    let (text, whole) = (attempt.text(), reference.text());
    let whole = whole.as_bytes().get(attempt.from..).unwrap_or_default();
    if whole.starts_with(text.as_bytes()) {
        return None;
    }
    let same = text.bytes().zip(whole).take_while(|(left, right)| left == *right);
    let at_byte = attempt.from + same.count();
    let got: Vec<&str> = attempt.pieces.iter().map(|piece| piece.text.as_str()).collect();
    let expected = reference.pieces_from(attempt.from);
    let parted = got
        .iter()
        .zip(&expected)
        .take_while(|(left, right)| left == right)
        .count();
    let (got, expected) = (&got[parted..], &expected[parted..]);
    let (lost, repeated) = (shift(got, expected), shift(expected, got));
    let (lost, repeated) = match (lost, repeated) {
        (Some(lost), Some(repeated)) if repeated < lost => (0, repeated),
        (Some(lost), _) => (lost, 0),
        (None, Some(repeated)) => (0, repeated),
        (None, None) => (0, 0),
    };
    let others = got.iter().zip(expected).filter(|(left, right)| left != right).count();
    let show = |pieces: &[&str]| pieces.iter().take(SHOWN).copied().collect::<String>();
    Some(Difference {
        at_byte,
        lost,
        repeated,
        // One at least: the text is not the reference's, even where it only goes on behind the reference's end.
        changed: if lost + repeated > 0 { 0 } else { others.max(1) },
        got: show(got),
        expected: show(expected),
    })
}

/// How many pieces of `longer` must be left out for the rest to begin as `shorter` does.
fn shift(shorter: &[&str], longer: &[&str]) -> Option<usize> {
    (1..longer.len()).find(|shift| {
        let rest = &longer[*shift..];
        let compared = AGREEMENT.min(shorter.len()).min(rest.len());
        compared > 0 && shorter[..compared] == rest[..compared]
    })
}

#[cfg(test)]
mod tests;
