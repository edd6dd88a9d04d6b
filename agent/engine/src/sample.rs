//! From logits to a token, as a pure function.
//!
//! Draws use the Gumbel-max trick: each candidate gets its scaled logit plus noise that depends
//! only on (seed, position, token id), and the largest wins. There is no generator whose state must
//! survive: a stream that is resumed elsewhere at position p draws what it would have drawn.

#[cfg(test)]
mod tests;

/// How to choose a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 (or anything not positive) takes the largest logit.
    pub temperature: f32,
    /// Keeps the smallest set of most likely tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keeps so many most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Two requests with one seed draw the same noise.
    pub seed: u64,
}

impl Sampling {
    /// Always the largest logit.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        seed: 0,
    };
}

/// Candidates of the first look for a nucleus: it rarely has more, and selecting so few is cheap.
const FIRST_NUCLEUS_LOOK: usize = 256;

/// A token id with its scaled logit.
type Candidate = (i32, f64);

/// Chooses the token at `position`.
///
/// Temperature is applied first, then `top_k`, then `top_p` on what is left. Equal logits rank by
/// token id, the lower first. Values that are not numbers never win; 0 for no logits at all.
pub fn sample(logits: &[f32], sampling: &Sampling, position: u32) -> i32 {
    let greedy = greedy(logits);
    if sampling.temperature.is_nan() || sampling.temperature <= 0.0 || sampling.top_k == 1 {
        return greedy;
    }
    let largest = logits.get(greedy as usize).copied().unwrap_or(f32::NEG_INFINITY);
    if !largest.is_finite() {
        return greedy;
    }
    // Relative to the largest, so that a tiny temperature cannot overflow.
    let temperature = f64::from(sampling.temperature);
    let mut candidates: Vec<Candidate> = (0i32..)
        .zip(logits)
        .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
        .map(|(token, logit)| (token, (f64::from(*logit) - f64::from(largest)) / temperature))
        .collect();
    if sampling.top_k > 0 {
        keep_most_likely(&mut candidates, sampling.top_k as usize);
    }
    if sampling.top_p < 1.0 {
        keep_nucleus(&mut candidates, f64::from(sampling.top_p.max(0.0)));
    }
    draw(&candidates, sampling.seed, position).unwrap_or(greedy)
}

/// The id of the largest logit, the lowest of equals; 0 where nothing is a number.
pub fn greedy(logits: &[f32]) -> i32 {
    let largest = largest(logits);
    let found = logits.iter().position(|logit| *logit == largest);
    found.map_or(0, |token| i32::try_from(token).unwrap_or(0))
}

/// Whether any logit is not a number: such a model has gone astray.
pub fn any_nan(logits: &[f32]) -> bool {
    // Whole blocks without an early exit: the compiler compares many values at once.
    let (blocks, rest) = logits.as_chunks::<LANES>();
    let in_block = |block: &[f32; LANES]| block.iter().fold(false, |found, logit| found | logit.is_nan());
    blocks.iter().any(in_block) || rest.iter().any(|logit| logit.is_nan())
}

/// Values compared at once: as many as two registers of the baseline hold, so that neither waits for the other.
const LANES: usize = 16;

/// The largest that is a number, negative infinity where none is.
fn largest(logits: &[f32]) -> f32 {
    // A comparison with what is not a number is false, so such a value never replaces another.
    let larger = |held: f32, logit: f32| if logit > held { logit } else { held };
    let (blocks, rest) = logits.as_chunks::<LANES>();
    let mut best = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (held, logit) in best.iter_mut().zip(block) {
            *held = larger(*held, *logit);
        }
    }
    best.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

fn by_rank(left: &Candidate, right: &Candidate) -> std::cmp::Ordering {
    right.1.total_cmp(&left.1).then(left.0.cmp(&right.0))
}

fn keep_most_likely(candidates: &mut Vec<Candidate>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, by_rank);
        candidates.truncate(count);
    }
}

/// Keeps the shortest prefix of the ranking whose probability reaches `top_p`, at least one token.
fn keep_nucleus(candidates: &mut Vec<Candidate>, top_p: f64) {
    let goal = top_p * candidates.iter().map(|(_, logit)| logit.exp()).sum::<f64>();
    let mut looked_at = FIRST_NUCLEUS_LOOK.min(candidates.len());
    loop {
        if looked_at < candidates.len() {
            candidates.select_nth_unstable_by(looked_at, by_rank);
        }
        candidates[..looked_at].sort_unstable_by(by_rank);
        let mut mass = 0.0;
        for index in 0..looked_at {
            mass += candidates[index].1.exp();
            if mass >= goal {
                candidates.truncate(index + 1);
                return;
            }
        }
        if looked_at == candidates.len() {
            return;
        }
        looked_at = (looked_at * 8).min(candidates.len());
    }
}

/// The candidate with the largest noisy logit, the lowest id of equals.
fn draw(candidates: &[Candidate], seed: u64, position: u32) -> Option<i32> {
    let stream = mix(seed ^ mix(u64::from(position).wrapping_add(GOLDEN_RATIO)));
    let mut best: Option<Candidate> = None;
    for (token, logit) in candidates {
        let noisy = logit + gumbel(stream, *token);
        let better = match best {
            None => true,
            Some((winner, value)) => noisy > value || (noisy == value && *token < winner),
        };
        if better {
            best = Some((*token, noisy));
        }
    }
    best.map(|(token, _)| token)
}

/// 2^64 divided by the golden ratio: the increment of the splitmix generator.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of splitmix64: a bijection that spreads every input bit over all output bits.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Standard Gumbel noise for one token of one stream.
fn gumbel(stream: u64, token: i32) -> f64 {
    let index = u64::from(token.unsigned_abs()).wrapping_add(1);
    let bits = mix(stream.wrapping_add(index.wrapping_mul(GOLDEN_RATIO)));
    // 53 bits, moved by half a step so that neither 0 nor 1 can come out.
    let uniform = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -(-uniform.ln()).ln()
}
