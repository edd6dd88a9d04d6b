//! Drafts: while the stages compute a token, the row of the token after it may go through them already.
//!
//! This is speculative decoding by prompt lookup, pipelined. A text often repeats itself: what followed the last time that its latest
//! tokens stood there is drafted as the next token, and computed on stages that would idle. The tail samples after it as after any
//! row. When the token that comes back is the drafted one, the draft is accepted, and the next token is under way already;
//! otherwise its row, and what follows from it, counts for nothing, and its positions are forgotten before the next row. So a
//! stream says the same with drafts as without.
//!
//! A draft is a step of its own: on a device that is bound by arithmetic a second row in the same step would take as long again.
//! What it costs and gains follows from how long steps take; see [`RoundTrip`].

use super::sequence::Sequence;

/// How long the stages take for a step of one row, microseconds, and for each more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// From the head to the tail and back while nothing else is under way.
    pub round_us: u64,
    /// Of that, computing.
    pub busy_us: u64,
    /// Computing of the slowest stage.
    pub slowest_us: u64,
    /// The same beside other steps: more where stages share a machine's memory or cores.
    pub crowded_us: u64,
    /// What each row more takes of a step of many; `None` before one was computed.
    pub prompt_row_us: Option<u64>,
}

impl RoundTrip {
    /// How likely a draft must be accepted to be worth its step, of [`CERTAIN`], with `under_way` steps before it.
    pub(super) fn needed(self, under_way: usize) -> u32 {
        let (before, with) = (under_way.max(1) as u64, under_way as u64 + 1);
        let cost_us = self.lost_us(with).saturating_sub(self.lost_us(before));
        let gain_us = self.token_us(before).saturating_sub(self.token_us(with));
        let needed = cost_us.saturating_mul(u64::from(CERTAIN)) / cost_us.saturating_add(gain_us).max(1);
        let never = if gain_us == 0 { CERTAIN } else { LEAST };
        u32::try_from(needed).unwrap_or(CERTAIN).max(never)
    }

    /// What beside each other's company steps take longer for.
    fn extra_us(self, steps: u64) -> u64 {
        let slower_us = self.crowded_us.saturating_sub(self.slowest_us);
        match steps {
            0 | 1 => 0,
            _ => self.busy_us.saturating_mul(slower_us) / self.slowest_us.max(1),
        }
    }

    /// By how much the next right step comes later when all but one of so many under way are rejected: what they slow it down, and
    /// what it waits for the slowest stage, where more of them are under way than fit into a round.
    fn lost_us(self, steps: u64) -> u64 {
        let extra_us = self.extra_us(steps);
        let fits_us = self.round_us.saturating_add(extra_us);
        let queued_us = self.crowded_us.saturating_mul(steps).saturating_sub(fits_us);
        match steps {
            0 | 1 => 0,
            _ => extra_us.saturating_add(queued_us),
        }
    }

    /// What a token takes when all of so many under way are accepted.
    fn token_us(self, steps: u64) -> u64 {
        let round_us = self.round_us.saturating_add(self.extra_us(steps));
        (round_us / steps.max(1)).max(self.crowded_us.min(self.round_us))
    }
}

/// The likelihood of what always happens.
pub(super) const CERTAIN: u32 = 1024;
/// Even where it costs no stage time, a row that is rejected three times of four is not worth its power, nor what others on its
/// machine lose.
const LEAST: u32 = CERTAIN / 4;
/// Longer matches are equally good.
const LONGEST: usize = 8;
/// How likely the follower of a match of one, two, or more tokens is the next token, before a text has shown it, of [`CERTAIN`].
const EXPECTED: [u32; 3] = [CERTAIN / 5, CERTAIN / 2, CERTAIN * 2 / 3];
/// Tokens that are searched, the latest: some microseconds, less than a hundredth of any step.
const SEARCHED: usize = 4096;
/// Roughly so many of the latest drafts say how good drafts are.
const REMEMBERED: u32 = 16;

/// What stood behind a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Follower {
    token: i32,
    /// Tokens before it that stand there alike; at least one.
    alike: usize,
}

/// What may come next in a text, and how often that came.
#[derive(Clone, Debug)]
pub(super) struct Drafter {
    /// For the token that comes next, made use of or not.
    next: Option<Follower>,
    /// How likely a follower is the next token, of [`CERTAIN`], by the tokens that are alike; see [`EXPECTED`].
    likely: [u32; EXPECTED.len()],
}

impl Drafter {
    /// Nothing is known of the text.
    pub(super) fn new() -> Self {
        Self {
            next: None,
            likely: EXPECTED,
        }
    }

    /// A token was sampled; `tokens` are all, with it.
    pub(super) fn learn(&mut self, tokens: &[i32]) {
        if let (Some(draft), Some(token)) = (self.next, tokens.last()) {
            let right = if draft.token == *token { CERTAIN } else { 0 };
            let likely = &mut self.likely[kind(draft)];
            *likely = (*likely * (REMEMBERED - 1) + right) / REMEMBERED;
        }
        self.next = follower(tokens);
    }

    /// How likely a draft is accepted behind so many others, which were of its kind.
    fn likely(&self, draft: Follower, others: usize) -> u32 {
        (0..=others).fold(CERTAIN, |all, _| all * self.likely[kind(draft)] / CERTAIN)
    }
}

fn kind(draft: Follower) -> usize {
    draft.alike.clamp(1, EXPECTED.len()) - 1
}

/// The draft to follow in a sequence, behind those under way; `None` where the text suggests none, it is less likely than needed, or
/// nothing that follows is wanted.
pub(super) fn next(sequence: &Sequence, needed: u32) -> Option<i32> {
    let position = sequence.known() + sequence.drafts.len() as u32;
    // Its row is for the token after it.
    let last = sequence.prompt_tokens() + sequence.request.max_tokens - 1;
    if position >= last {
        return None;
    }
    let draft = if sequence.drafts.is_empty() {
        sequence.drafter.next
    } else {
        let known = sequence.tokens();
        let latest = &known[known.len().saturating_sub(SEARCHED)..];
        let text: Vec<i32> = latest.iter().chain(&sequence.drafts).copied().collect();
        follower(&text)
    };
    let draft = draft.filter(|draft| sequence.drafter.likely(*draft, sequence.drafts.len()) >= needed)?;
    (!sequence.request.stop_tokens.contains(&draft.token)).then_some(draft.token)
}

/// What stood behind the latest tokens when they stood there before: of all such places that with the longest match, and of equals
/// the latest.
fn follower(tokens: &[i32]) -> Option<Follower> {
    let tokens = &tokens[tokens.len().saturating_sub(SEARCHED)..];
    let mut best: Option<Follower> = None;
    // `end` tokens, and then the follower.
    for end in (1..tokens.len()).rev() {
        let before = tokens[..end].iter().rev();
        let alike = before
            .zip(tokens.iter().rev())
            .take(LONGEST)
            .take_while(|(a, b)| a == b);
        let alike = alike.count();
        if alike > best.map_or(0, |best| best.alike) {
            let token = tokens[end];
            best = Some(Follower { token, alike });
            if alike == LONGEST {
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(tokens: &[i32]) -> Option<(i32, usize)> {
        follower(tokens).map(|found| (found.token, found.alike))
    }

    #[test]
    fn what_follows_is_what_followed_the_longest_match_and_of_equals_the_latest() {
        assert_eq!(followed(&[]), None);
        assert_eq!(followed(&[1, 2, 3]), None);
        assert_eq!(followed(&[7, 2, 3, 9, 2]), Some((3, 1)));
        assert_eq!(followed(&[1, 2, 3, 1, 2]), Some((3, 2)));
        assert_eq!(followed(&[1, 2, 3, 1, 2, 4, 1, 2]), Some((4, 2)));
        assert_eq!(followed(&[5, 1, 2, 3, 6, 1, 2, 4, 5, 1, 2]), Some((3, 3)));
        assert_eq!(followed(&[4, 4, 4]), Some((4, 2)));
    }

    #[test]
    fn a_text_longer_than_what_is_searched_is_no_danger() {
        let mut text: Vec<i32> = (0..10_000).collect();
        text.extend([100, 101]);
        assert_eq!(followed(&text), None, "too long ago");
        text.extend([9_000, 9_001]);
        assert_eq!(followed(&text), Some((9_002, 2)));
    }

    #[test]
    fn drafts_that_were_rejected_are_trusted_less_and_chains_of_them_less_still() {
        let mut drafter = Drafter::new();
        let mut text = vec![1, 2, 3, 1, 2];
        let (long, short) = (Follower { token: 3, alike: 2 }, Follower { token: 3, alike: 1 });
        assert!(drafter.likely(long, 0) > drafter.likely(short, 0));
        drafter.learn(&text);
        let before = drafter.likely(long, 0);
        text.push(3);
        drafter.learn(&text);
        assert!(drafter.likely(long, 0) > before && drafter.likely(long, 1) < drafter.likely(long, 0));
        assert_eq!(
            drafter.likely,
            [EXPECTED[0], drafter.likely[1], EXPECTED[2]],
            "each kind for itself"
        );
        let before = drafter.likely[2];
        text.push(9);
        drafter.learn(&text);
        assert!(drafter.likely[2] < before);
    }

    /// Stages that take so long, and links that take the rest.
    fn trip(round_us: u64, busy_us: u64, slowest_us: u64) -> RoundTrip {
        RoundTrip {
            round_us,
            busy_us,
            slowest_us,
            crowded_us: slowest_us,
            prompt_row_us: None,
        }
    }

    #[test]
    fn a_draft_need_not_be_likely_where_stages_would_idle_and_never_pays_where_none_does() {
        let halves = trip(2100, 2000, 1000);
        assert_eq!((halves.needed(1), halves.needed(2)), (LEAST, CERTAIN * 900 / 950));
        assert_eq!(
            trip(1250, 1200, 1000).needed(1),
            CERTAIN * 3 / 4,
            "one stage has most of the work"
        );
        let long_links = trip(4000, 2000, 1000);
        assert_eq!((long_links.needed(3), long_links.needed(4)), (LEAST, CERTAIN));
        assert_eq!(trip(1000, 1000, 1000).needed(1), CERTAIN, "one stage");
    }

    #[test]
    fn where_stages_slow_each_other_down_a_draft_must_be_likely() {
        let shared = RoundTrip {
            crowded_us: 1300,
            ..trip(2100, 2000, 1000)
        };
        assert_eq!(shared.needed(1), CERTAIN * 600 / 1350);
        let one_core = RoundTrip {
            crowded_us: 2000,
            ..trip(2000, 2000, 1000)
        };
        assert_eq!(one_core.needed(1), CERTAIN);
    }
}
