//! The key-value part of a GGUF file, in the file's order, with typed access.

use std::collections::HashMap;

use thiserror::Error;

use crate::value::{Array, Value, ValueType};

/// Why a key could not be read as asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetadataError {
    /// The key is not there.
    #[error("the model's metadata has no key `{key}`; convert the model again with a current converter")]
    Missing {
        /// The key asked for.
        key: String,
    },
    /// The key holds something else.
    #[error(
        "the metadata key `{key}` holds {found:?} where {wanted} is needed; convert the model again with a current converter"
    )]
    WrongType {
        /// The key asked for.
        key: String,
        /// What was asked for, in words.
        wanted: &'static str,
        /// What the file holds.
        found: ValueType,
    },
}

/// Keys and values in the order of the file; keys are unique.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    places: HashMap<String, usize>,
}

impl Metadata {
    /// Adds an entry. Returns `false`, and changes nothing, if the key is there already.
    pub fn insert(&mut self, key: &str, value: Value) -> bool {
        if self.places.contains_key(key) {
            return false;
        }
        self.places.insert(key.to_owned(), self.entries.len());
        self.entries.push((key.to_owned(), value));
        true
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.places.get(key).map(|&place| &self.entries[place].1)
    }

    /// All entries in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn require(&self, key: &str) -> Result<&Value, MetadataError> {
        self.get(key)
            .ok_or_else(|| MetadataError::Missing { key: key.to_owned() })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, MetadataError> {
        let value = self.require(key)?;
        read(value).ok_or_else(|| MetadataError::WrongType {
            key: key.to_owned(),
            wanted,
            found: value.value_type(),
        })
    }

    /// Text that must be there.
    pub fn string(&self, key: &str) -> Result<&str, MetadataError> {
        self.typed(key, "text in UTF-8", Value::as_str)
    }

    /// A number that must be there; any integer type that holds it will do.
    pub fn u32(&self, key: &str) -> Result<u32, MetadataError> {
        self.typed(key, "a number from 0 to 2^32 - 1", |value| {
            value.as_u64()?.try_into().ok()
        })
    }

    /// A number for each of so many layers, whether the file has one for all or one for each; `None` where it has neither. What is
    /// not said of a layer is taken to be the most that is said of any.
    pub fn by_layer(&self, key: &str, layers: u32) -> Result<Option<Vec<u32>>, MetadataError> {
        let layers = layers as usize;
        let Some(array) = self.get(key).and_then(|value| value.as_array()) else {
            return Ok(optional(self.u32(key))?.map(|number| vec![number; layers]));
        };
        let number = |value: Value| u32::try_from(value.as_u64().unwrap_or(0)).unwrap_or(u32::MAX);
        let mut numbers: Vec<u32> = array.values().map(number).collect();
        let most = numbers.iter().copied().max().unwrap_or(0);
        numbers.resize(layers, most);
        Ok(Some(numbers))
    }

    /// An array that must be there.
    pub fn array(&self, key: &str) -> Result<&Array, MetadataError> {
        self.typed(key, "an array", Value::as_array)
    }
}

/// Turns "the key is not there" into `None` and leaves a wrong type an error.
pub fn optional<T>(result: Result<T, MetadataError>) -> Result<Option<T>, MetadataError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MetadataError::Missing { .. }) => Ok(None),
        Err(wrong) => Err(wrong),
    }
}
