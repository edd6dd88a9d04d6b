//! Who has how many answers in progress: nobody may take all places.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts by key. Keys that hold nothing take no memory.
#[derive(Debug)]
pub struct Occupancy<K: Eq + Hash>(Arc<Mutex<HashMap<K, usize>>>);

impl<K: Eq + Hash> Default for Occupancy<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One place, held until it is dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash> {
    key: K,
    counts: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash + Clone> Occupancy<K> {
    /// A place for `key`, unless it holds `most` already.
    pub fn enter(&self, key: &K, most: usize) -> Option<Place<K>> {
        let mut counts = lock(&self.0);
        let held = counts.get(key).copied().unwrap_or(0);
        if held >= most {
            return None;
        }
        counts.insert(key.clone(), held + 1);
        Some(Place {
            key: key.clone(),
            counts: Arc::clone(&self.0),
        })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(held) = counts.get_mut(&self.key) {
            *held -= 1;
            if *held == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

fn lock<K>(counts: &Mutex<HashMap<K, usize>>) -> MutexGuard<'_, HashMap<K, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{Occupancy, lock};

    #[test]
    fn a_key_gets_so_many_places_and_no_more_until_one_is_left() {
        let places = Occupancy::default();
        let first = places.enter(&"a", 2).unwrap();
        let _second = places.enter(&"a", 2).unwrap();
        assert!(places.enter(&"a", 2).is_none());
        assert!(places.enter(&"b", 2).is_some(), "others are not counted");
        drop(first);
        let third = places.enter(&"a", 2);
        assert!(third.is_some() && places.enter(&"a", 2).is_none());
    }

    #[test]
    fn keys_without_places_are_forgotten() {
        let places = Occupancy::default();
        drop([places.enter(&1, 1), places.enter(&2, 1)]);
        assert!(lock(&places.0).is_empty());
        assert!(places.enter(&1, 0).is_none());
    }
}
