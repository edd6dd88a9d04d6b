//! Bounded reads of a header's primitive parts.

use std::io::{BufReader, Read};

use super::ParseError;
use crate::value::{Array, Value, ValueType};

/// Read-ahead: large enough that a vocabulary of 200,000 short strings costs few system calls.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Reads little-endian parts and knows how far it may go.
pub(super) struct HeaderReader<'a, R: Read> {
    source: BufReader<&'a mut R>,
    position: u64,
    file_bytes: u64,
    limit_bytes: u64,
}

impl<'a, R: Read> HeaderReader<'a, R> {
    pub(super) fn new(source: &'a mut R, file_bytes: u64, limit_bytes: u64) -> Self {
        let source = BufReader::with_capacity(READ_AHEAD_BYTES, source);
        Self {
            source,
            position: 0,
            file_bytes,
            limit_bytes,
        }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Fails unless `length` more bytes are in the file and within the header's limit.
    fn admit(&self, length: u64, what: &str) -> Result<(), ParseError> {
        let needed = self.position.saturating_add(length);
        if needed > self.file_bytes {
            return Err(ParseError::Truncated {
                what: what.to_owned(),
                needed,
                actual: self.file_bytes,
            });
        }
        if needed > self.limit_bytes {
            let limit = self.limit_bytes;
            return Err(ParseError::TooLarge {
                what: "the header's bytes",
                found: needed,
                limit,
            });
        }
        Ok(())
    }

    /// Appends exactly `length` bytes to `out`; memory grows with what is really read.
    fn append(&mut self, length: u64, what: &str, out: &mut Vec<u8>) -> Result<(), ParseError> {
        self.admit(length, what)?;
        let got = self.source.by_ref().take(length).read_to_end(out)? as u64;
        self.position += got;
        if got < length {
            let needed = self.position + (length - got);
            return Err(ParseError::Truncated {
                what: what.to_owned(),
                needed,
                actual: self.position,
            });
        }
        Ok(())
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ParseError> {
        let mut bytes = [0; N];
        self.admit(N as u64, what)?;
        let mut filled = 0;
        while filled < N {
            match self.source.read(&mut bytes[filled..]) {
                Ok(0) => {
                    let (needed, actual) = (self.position + N as u64, self.position + filled as u64);
                    return Err(ParseError::Truncated {
                        what: what.to_owned(),
                        needed,
                        actual,
                    });
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.position += N as u64;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ParseError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ParseError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count that is at most `limit`.
    pub(super) fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, ParseError> {
        let found = self.u64(what)?;
        if found > limit {
            return Err(ParseError::TooLarge { what, found, limit });
        }
        Ok(found)
    }

    /// A string in UTF-8, not empty and at most `limit` bytes long.
    pub(super) fn name(&mut self, what: &'static str, limit: u64) -> Result<String, ParseError> {
        let length = self.count(what, limit)?;
        let mut bytes = Vec::new();
        self.append(length, what, &mut bytes)?;
        match String::from_utf8(bytes) {
            Ok(name) if name.is_empty() => Err(ParseError::Malformed {
                what: format!("{what} is empty"),
            }),
            // A name travels as a C string later on: what follows a zero byte would be lost there.
            Ok(name) if name.contains('\0') => Err(ParseError::Malformed {
                what: format!("{what} contains a zero byte"),
            }),
            Ok(name) => Ok(name),
            Err(_) => Err(ParseError::Malformed {
                what: format!("{what} is not UTF-8"),
            }),
        }
    }

    /// The value of `key`, its type first.
    pub(super) fn value(&mut self, key: &str) -> Result<Value, ParseError> {
        let kind = self.value_type(key)?;
        match kind {
            ValueType::String => {
                let length = self.u64(key)?;
                let mut bytes = Vec::new();
                self.append(length, key, &mut bytes)?;
                Ok(Value::String(bytes))
            }
            ValueType::Array => self.array_value(key),
            fixed => {
                let mut bytes = Vec::with_capacity(8);
                self.append(fixed.fixed_bytes().unwrap_or(0) as u64, key, &mut bytes)?;
                Value::decode_fixed(fixed, &bytes).ok_or_else(|| malformed_value(key))
            }
        }
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType, ParseError> {
        let id = self.u32(key)?;
        ValueType::from_id(id).ok_or_else(|| ParseError::Malformed {
            what: format!("the key `{key}` has the unknown value type {id}"),
        })
    }

    fn array_value(&mut self, key: &str) -> Result<Value, ParseError> {
        let element = self.value_type(key)?;
        let len = self.u64(key)?;
        let mut bytes = Vec::new();
        match (element, element.fixed_bytes()) {
            (_, Some(width)) => {
                let length = len.checked_mul(width as u64).ok_or_else(|| malformed_value(key))?;
                self.append(length, key, &mut bytes)?;
            }
            (ValueType::String, None) => {
                // Each string takes its length's eight bytes at least: a lying count ends here.
                self.admit(len.saturating_mul(8), key)?;
                for _ in 0..len {
                    let length = self.array::<8>(key)?;
                    bytes.extend(length);
                    self.append(u64::from_le_bytes(length), key, &mut bytes)?;
                }
            }
            _ => {
                return Err(ParseError::Malformed {
                    what: format!("the key `{key}` holds an array of arrays"),
                });
            }
        }
        Ok(Value::Array(Array::from_checked(element, len, bytes)))
    }
}

fn malformed_value(key: &str) -> ParseError {
    ParseError::Malformed {
        what: format!("the value of `{key}` cannot be read"),
    }
}
