//! Data that comes with inspections, by its digest and within a bound: vocabularies for gateways, weight indexes for agents.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// SHA-256.
pub type Digest = [u8; 32];

/// Bytes of one piece on the wire, as the protocol promises.
pub const PIECE_BYTES: usize = 1024 * 1024;

/// A cache. What no model has is dropped; what does not fit is not taken.
#[derive(Debug)]
pub struct ByDigest {
    held: Mutex<HashMap<Digest, Bytes>>,
    total_bytes_max: usize,
}

impl ByDigest {
    /// Empty, for so many bytes altogether.
    #[must_use]
    pub fn new(total_bytes_max: usize) -> Self {
        Self {
            held: Mutex::default(),
            total_bytes_max,
        }
    }

    /// Keeps data whose digest the caller has checked. False when the cache is full.
    pub fn insert(&self, digest: Digest, data: Bytes) -> bool {
        let mut cache = self.lock();
        let held: usize = cache
            .iter()
            .filter(|(known, _)| **known != digest)
            .map(|(_, data)| data.len())
            .sum();
        if held + data.len() > self.total_bytes_max {
            return false;
        }
        cache.insert(digest, data);
        true
    }

    /// The data with this digest.
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
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Data as the protocol carries it: pieces of at most [`PIECE_BYTES`], none of them empty.
pub fn pieces(mut data: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let piece = data.split_to(PIECE_BYTES.min(data.len()));
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_stays_as_long_as_a_model_has_it() {
        let cache = ByDigest::new(100);
        assert!(cache.insert([1; 32], Bytes::from_static(b"one")) && cache.insert([2; 32], Bytes::from_static(b"two")));
        cache.retain(|digest| digest[0] == 2);
        assert_eq!(cache.get(&[1; 32]), None);
        assert_eq!(cache.get(&[2; 32]).unwrap(), "two");
    }

    #[test]
    fn the_cache_is_bounded_and_the_same_digest_counts_once() {
        let cache = ByDigest::new(80);
        let large = Bytes::from(vec![0; 10]);
        for digest in 0..8 {
            assert!(cache.insert([digest; 32], large.clone()));
        }
        assert!(cache.insert([0; 32], large));
        assert!(!cache.insert([255; 32], Bytes::from_static(b"x")));
    }

    #[test]
    fn pieces_are_bounded_and_together_give_the_whole() {
        let data: Vec<u8> = (0..PIECE_BYTES * 2 + 5).map(|at| at as u8).collect();
        let cut: Vec<Bytes> = pieces(data.clone().into()).collect();
        assert_eq!(
            cut.iter().map(Bytes::len).collect::<Vec<_>>(),
            [PIECE_BYTES, PIECE_BYTES, 5]
        );
        assert_eq!(cut.concat(), data);
        assert_eq!(pieces(Bytes::new()).count(), 0);
    }
}
