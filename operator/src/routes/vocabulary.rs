//! Vocabularies by digest, within a bound: they come with inspections and go when no model has them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// SHA-256.
pub type Digest = [u8; 32];

/// The largest vocabulary that is accepted.
pub const VOCABULARY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// All vocabularies together: the pod's memory limit leaves room for this, and common ones have 2 to 10 MiB.
const TOTAL_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The cache.
#[derive(Debug, Default)]
pub struct Vocabularies {
    by_digest: Mutex<HashMap<Digest, Bytes>>,
}

impl Vocabularies {
    /// Keeps a vocabulary whose digest the caller has checked. False when the cache is full.
    pub fn insert(&self, digest: Digest, data: Bytes) -> bool {
        let mut cache = self.lock();
        let held: usize = cache
            .iter()
            .filter(|(known, _)| **known != digest)
            .map(|(_, data)| data.len())
            .sum();
        if held + data.len() > TOTAL_BYTES_MAX {
            return false;
        }
        cache.insert(digest, data);
        true
    }

    /// The vocabulary with this digest.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.lock().get(digest).cloned()
    }

    /// Drops what no model has.
    pub fn retain(&self, wanted: impl Fn(&Digest) -> bool) {
        self.lock().retain(|digest, _| wanted(digest));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Bytes>> {
        // Single calls on the map: nothing is left half done by a panic.
        self.by_digest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_stays_as_long_as_a_model_has_it() {
        let cache = Vocabularies::default();
        assert!(cache.insert([1; 32], Bytes::from_static(b"one")) && cache.insert([2; 32], Bytes::from_static(b"two")));
        cache.retain(|digest| digest[0] == 2);
        assert_eq!(cache.get(&[1; 32]), None);
        assert_eq!(cache.get(&[2; 32]).unwrap(), "two");
    }

    #[test]
    fn the_cache_is_bounded_and_the_same_digest_counts_once() {
        let cache = Vocabularies::default();
        let large = Bytes::from(vec![0; VOCABULARY_BYTES_MAX]);
        let fits = TOTAL_BYTES_MAX / VOCABULARY_BYTES_MAX;
        for digest in 0..fits {
            assert!(cache.insert([digest as u8; 32], large.clone()));
        }
        assert!(cache.insert([0; 32], large));
        assert!(!cache.insert([255; 32], Bytes::from_static(b"x")));
    }
}
