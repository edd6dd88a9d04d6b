//! Prompts as token ids: what they say does not matter for speed, only how many there are and that no two share a beginning.

use linkemu::random::Random;

/// Ids below this one are special in the vocabularies of the models that are measured.
const FIRST_PLAIN: u64 = 1000;
/// Ids up to this one exist in all of them.
const LAST_PLAIN: u64 = 30_000;

/// `length` tokens that depend on `seed` alone.
pub fn prompt(seed: u64, length: usize) -> Vec<i32> {
    let mut state = Random::new(seed);
    let span = LAST_PLAIN - FIRST_PLAIN;
    (0..length)
        .map(|_| i32::try_from(FIRST_PLAIN + state.any() % span).unwrap_or(i32::MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::prompt;

    #[test]
    fn prompts_are_as_long_as_asked_and_differ_by_their_seed() {
        let first = prompt(1, 1024);
        assert_eq!(first.len(), 1024);
        assert_eq!(first, prompt(1, 1024));
        assert_ne!(first[..4], prompt(2, 1024)[..4]);
        assert!(first.iter().all(|token| (1000..30_000).contains(token)));
    }
}
