//! Numbers that look random and follow from a seed.

/// `SplitMix64` (Steele, Lea, Flood, OOPSLA 2014): small, seeded, good enough to choose victims, fates of packets and prompts.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..count`; 0 of none.
    pub fn below(&mut self, count: usize) -> usize {
        let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.any() % count).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.any() % (high.saturating_sub(low) + 1)
    }

    /// Whether something comes to pass that does so this often in a thousand.
    pub fn comes_to_pass(&mut self, per_mille: u16) -> bool {
        self.any() % 1000 < u64::from(per_mille)
    }

    /// Puts a slice into some order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn a_seed_gives_the_same_numbers_again_and_they_stay_within_their_bounds() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.between(3, 5)).collect::<Vec<u64>>()
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        assert!((3..=5).all(|number| numbers(7).contains(&number)));
        assert!(numbers(7).iter().all(|number| (3..=5).contains(number)));
        let mut random = Random::new(7);
        let often = (0..10_000).filter(|_| random.comes_to_pass(250)).count();
        assert!((2300..2700).contains(&often), "{often}");
        assert!(!random.comes_to_pass(0) && random.comes_to_pass(1000));
    }
}
