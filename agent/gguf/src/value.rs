//! Metadata values, as typed in the file. Arrays keep the file's own bytes and are decoded when asked.

use std::fmt;

/// The type of a metadata value or of an array's elements, numbered as in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

const VALUE_TYPES: [ValueType; 13] = [
    ValueType::U8,
    ValueType::I8,
    ValueType::U16,
    ValueType::I16,
    ValueType::U32,
    ValueType::I32,
    ValueType::F32,
    ValueType::Bool,
    ValueType::String,
    ValueType::Array,
    ValueType::U64,
    ValueType::I64,
    ValueType::F64,
];

impl ValueType {
    /// The type with this number in the file.
    pub fn from_id(id: u32) -> Option<Self> {
        VALUE_TYPES.get(usize::try_from(id).ok()?).copied()
    }

    /// Its number in the file.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of one value; `None` for strings and arrays, whose length varies.
    pub fn fixed_bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Bytes, because writers are not bound to UTF-8; see [`Value::as_str`].
    String(Vec<u8>),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// A string value.
    pub fn string(text: &str) -> Self {
        Self::String(text.as_bytes().to_vec())
    }

    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The number, if this is an integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(number) => Some(number.into()),
            Self::U16(number) => Some(number.into()),
            Self::U32(number) => Some(number.into()),
            Self::U64(number) => Some(number),
            Self::I8(number) => number.try_into().ok(),
            Self::I16(number) => number.try_into().ok(),
            Self::I32(number) => number.try_into().ok(),
            Self::I64(number) => number.try_into().ok(),
            _ => None,
        }
    }

    /// The truth value, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(truth) => Some(truth),
            _ => None,
        }
    }

    /// The text, if this is a string of UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The array, if this is one.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Appends the value as it stands in a file, its type left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(number) => out.push(*number),
            Self::I8(number) => out.extend(number.to_le_bytes()),
            Self::U16(number) => out.extend(number.to_le_bytes()),
            Self::I16(number) => out.extend(number.to_le_bytes()),
            Self::U32(number) => out.extend(number.to_le_bytes()),
            Self::I32(number) => out.extend(number.to_le_bytes()),
            Self::F32(number) => out.extend(number.to_le_bytes()),
            Self::Bool(truth) => out.push(u8::from(*truth)),
            Self::String(bytes) => encode_string(bytes, out),
            Self::Array(array) => {
                out.extend(array.element.id().to_le_bytes());
                out.extend(array.len.to_le_bytes());
                out.extend(&array.bytes);
            }
            Self::U64(number) => out.extend(number.to_le_bytes()),
            Self::I64(number) => out.extend(number.to_le_bytes()),
            Self::F64(number) => out.extend(number.to_le_bytes()),
        }
    }

    /// The value of a fixed-size type from exactly its bytes. `None` for other types or another length.
    pub(crate) fn decode_fixed(kind: ValueType, bytes: &[u8]) -> Option<Self> {
        Some(match kind {
            ValueType::U8 => Self::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U32 => Self::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I32 => Self::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => Self::Bool(u8::from_le_bytes(bytes.try_into().ok()?) != 0),
            ValueType::U64 => Self::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => Self::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::String | ValueType::Array => return None,
        })
    }
}

/// Appends a string as GGUF has it: length, then bytes.
pub(crate) fn encode_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

/// An array value: the elements' bytes as they stand in the file, already checked to be well formed.
#[derive(Clone, PartialEq)]
pub struct Array {
    element: ValueType,
    len: u64,
    bytes: Vec<u8>,
}

impl Array {
    /// `bytes` holds exactly `len` well-formed elements; the parser and the constructors below see to it.
    pub(crate) fn from_checked(element: ValueType, len: u64, bytes: Vec<u8>) -> Self {
        Self { element, len, bytes }
    }

    /// An array of strings.
    pub fn of_strings<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Self {
        let mut bytes = Vec::new();
        let mut len = 0;
        for string in strings {
            encode_string(string.as_ref(), &mut bytes);
            len += 1;
        }
        Self {
            element: ValueType::String,
            len,
            bytes,
        }
    }

    /// An array of unsigned 32-bit numbers.
    pub fn of_u32(numbers: impl IntoIterator<Item = u32>) -> Self {
        let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        Self {
            element: ValueType::U32,
            len: (bytes.len() / 4) as u64,
            bytes,
        }
    }

    /// An array of signed 32-bit numbers.
    pub fn of_i32(numbers: impl IntoIterator<Item = i32>) -> Self {
        let bytes: Vec<u8> = numbers.into_iter().flat_map(i32::to_le_bytes).collect();
        Self {
            element: ValueType::I32,
            len: (bytes.len() / 4) as u64,
            bytes,
        }
    }

    /// An array of 32-bit floats.
    pub fn of_f32(numbers: impl IntoIterator<Item = f32>) -> Self {
        let bytes: Vec<u8> = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
        Self {
            element: ValueType::F32,
            len: (bytes.len() / 4) as u64,
            bytes,
        }
    }

    /// An array of truth values.
    pub fn of_bools(truths: impl IntoIterator<Item = bool>) -> Self {
        let bytes: Vec<u8> = truths.into_iter().map(u8::from).collect();
        Self {
            element: ValueType::Bool,
            len: bytes.len() as u64,
            bytes,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order, when they are of a fixed-size type; else nothing.
    pub fn values(&self) -> impl Iterator<Item = Value> + '_ {
        let width = self.element.fixed_bytes();
        let bytes: &[u8] = if width.is_some() { &self.bytes } else { &[] };
        bytes
            .chunks_exact(width.unwrap_or(1))
            .filter_map(|chunk| Value::decode_fixed(self.element, chunk))
    }

    /// The elements in order, when they are strings; else nothing.
    pub fn strings(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = if self.element == ValueType::String {
            &self.bytes
        } else {
            &[]
        };
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let (text, tail) = tail.split_at_checked(length)?;
            rest = tail;
            Some(text)
        })
    }

    /// Elements `[first, end)` as an array of their own; `None` for strings or a range outside.
    pub fn slice(&self, first: u64, end: u64) -> Option<Self> {
        let width = self.element.fixed_bytes()?;
        if first > end || end > self.len {
            return None;
        }
        let range = usize::try_from(first).ok()? * width..usize::try_from(end).ok()? * width;
        let bytes = self.bytes.get(range)?.to_vec();
        Some(Self {
            element: self.element,
            len: end - first,
            bytes,
        })
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{:?}; {}]", self.element, self.len)
    }
}

#[cfg(test)]
mod tests;
