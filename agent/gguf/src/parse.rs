//! Reads the header of a GGUF file, trusting nothing in it.
//!
//! The weights are not touched: a header is enough to know where each tensor lies. Every count, length and offset is
//! checked against the file's length and a limit before memory is taken for it.

mod read;
pub mod split;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::metadata::Metadata;
use crate::tensor_type::TensorType;
use read::HeaderReader;

/// What a header may take at most. The defaults fit every published model with room to spare.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the header, hence of memory taken for it. The largest vocabularies in use take about 30 MiB.
    pub header_bytes: u64,
    /// Metadata entries; published files have fewer than 100.
    pub entries: u64,
    /// Tensors; 512 layers of some 40 tensors each, doubled and more.
    pub tensors: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 256 << 20,
            entries: 1 << 14,
            tensors: 1 << 16,
        }
    }
}

/// A tensor has at most four dimensions: ggml's own limit.
pub const MAX_DIMENSIONS: u32 = 4;
/// Longest tensor name in bytes: ggml keeps names in 64 bytes with a closing zero.
pub const MAX_TENSOR_NAME_BYTES: u64 = 63;
/// Longest key in bytes, by the format's definition.
pub const MAX_KEY_BYTES: u64 = 65_535;
/// Largest alignment accepted. Files use 32; a huge one only serves to push offsets out of reach.
pub const MAX_ALIGNMENT: u32 = 1 << 20;
/// Longest file in bytes: what file systems and ggml count in signed 64 bits, halved so that padding fits as well.
pub const MAX_FILE_BYTES: u64 = 1 << 62;
/// The alignment of a file that states none.
pub const DEFAULT_ALIGNMENT: u32 = 32;

/// Why a file is not a GGUF file that this crate can use.
#[derive(Debug, Error)]
pub enum ParseError {
    /// The source could not be read.
    #[error("reading the GGUF file failed: {0}")]
    Io(#[from] io::Error),
    /// The file could not be opened.
    #[error("opening the model {} failed: {source}; check that it exists and can be read", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The first four bytes are not `GGUF`.
    #[error("this is no GGUF file: it begins with {found:02x?} and not with `GGUF`; give the path of a .gguf model")]
    NotGguf {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The file begins as a safetensors file does.
    #[error(
        "this is a safetensors file; convert the model's folder with llama.cpp: \
         `python convert_hf_to_gguf.py <folder> --outfile model.gguf`, then give model.gguf"
    )]
    Safetensors,
    /// A version this crate does not read.
    #[error(
        "GGUF version {version} cannot be read, only 2 and 3 (little endian); convert the model again with a current converter"
    )]
    UnsupportedVersion {
        /// The version in the file.
        version: u32,
    },
    /// The file ends too early.
    #[error("the GGUF file is truncated: {what} needs {needed} bytes but the file has {actual}; fetch it again")]
    Truncated {
        /// What did not fit.
        what: String,
        /// Length in bytes that the file must have at least.
        needed: u64,
        /// Length in bytes that it has.
        actual: u64,
    },
    /// A count or length above its limit.
    #[error(
        "the GGUF header states {found} for {what}, more than the {limit} accepted; the file is damaged or not a model"
    )]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// The number in the file.
        found: u64,
        /// The most accepted.
        limit: u64,
    },
    /// An entry or tensor that makes no sense.
    #[error("the GGUF header is damaged: {what}; fetch or convert the model again")]
    Malformed {
        /// What, in words, with the name concerned.
        what: String,
    },
    /// A tensor that does not begin at a multiple of the alignment.
    #[error(
        "tensor `{tensor}` begins at {offset}, not a multiple of the alignment {alignment}; convert the model again"
    )]
    Misaligned {
        /// The tensor's name.
        tensor: String,
        /// Its offset in bytes inside the data section.
        offset: u64,
        /// The file's alignment in bytes.
        alignment: u32,
    },
    /// Two tensors that claim the same bytes.
    #[error("tensors `{first}` and `{second}` overlap; the file is damaged, fetch or convert the model again")]
    Overlap {
        /// The tensor that begins first.
        first: String,
        /// The tensor that begins inside it.
        second: String,
    },
    /// A tensor type that ggml does not read.
    #[error("tensor `{tensor}` has the unknown type {id}; this version reads no such quantisation, use another")]
    UnknownTensorType {
        /// The tensor's name.
        tensor: String,
        /// The type's number in the file.
        id: u32,
    },
}

/// One tensor of the file's table.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// The name, at most [`MAX_TENSOR_NAME_BYTES`] long.
    pub name: String,
    /// One to four dimensions, the fastest first, none zero.
    pub dimensions: Vec<u64>,
    /// The element type.
    pub tensor_type: TensorType,
    /// Number of the file that holds the data: 0 but for models in several files.
    pub file: u16,
    /// Where the data begins, in bytes from the start of that file.
    pub offset_bytes: u64,
    /// Length of the data in bytes, without padding.
    pub size_bytes: u64,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dimensions.iter().product()
    }
}

/// The measures of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileExtent {
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Where the data section begins, in bytes. Beyond the end where a file without tensors is not padded.
    pub data_offset_bytes: u64,
}

/// A model's header: metadata and the tensor table, all tensors inside their file and apart from each other.
///
/// Parsed from one file; [`Gguf::merge`] joins those of a model in several files.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// The format's version: 2 or 3; of the first file.
    pub version: u32,
    /// Keys and values.
    pub metadata: Metadata,
    /// Tensors in the order of the table.
    pub tensors: Vec<Tensor>,
    /// The files in order; one but for a split set.
    pub files: Vec<FileExtent>,
}

impl Gguf {
    /// Reads the header of a file that is `file_bytes` long.
    ///
    /// Reads from the start of `source`, in pieces, and not beyond the header but for a read-ahead of 64 KiB.
    pub fn parse(source: &mut (impl Read + Seek), file_bytes: u64, limits: Limits) -> Result<Self, ParseError> {
        // Sums of lengths inside the file then never overflow.
        if file_bytes > MAX_FILE_BYTES {
            return Err(ParseError::TooLarge {
                what: "the file's bytes",
                found: file_bytes,
                limit: MAX_FILE_BYTES,
            });
        }
        source.seek(SeekFrom::Start(0))?;
        let mut reader = HeaderReader::new(source, file_bytes, limits.header_bytes);
        let version = read_version(&mut reader)?;
        let tensor_count = reader.count("tensors", limits.tensors)?;
        let entry_count = reader.count("metadata entries", limits.entries)?;
        let metadata = read_metadata(&mut reader, entry_count)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = read_tensors(&mut reader, tensor_count, alignment)?;
        let data_offset_bytes = reader.position().next_multiple_of(u64::from(alignment));
        place_tensors(&mut tensors, data_offset_bytes, file_bytes)?;
        Ok(Self {
            version,
            metadata,
            tensors,
            files: vec![FileExtent {
                bytes: file_bytes,
                data_offset_bytes,
            }],
        })
    }

    /// Reads the header of the file at `path` with the default limits.
    pub fn open(path: &Path) -> Result<Self, ParseError> {
        let mut file = File::open(path).map_err(|source| ParseError::Open {
            path: path.to_owned(),
            source,
        })?;
        let file_bytes = file.metadata()?.len();
        Self::parse(&mut file, file_bytes, Limits::default())
    }

    /// Length of all files together in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

fn read_version<R: Read>(reader: &mut HeaderReader<R>) -> Result<u32, ParseError> {
    let found = reader.array::<4>("the file's mark")?;
    if &found != b"GGUF" {
        return Err(foreign(reader, found));
    }
    let version = reader.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(ParseError::UnsupportedVersion { version });
    }
    Ok(version)
}

/// Longest header of a safetensors file in bytes, by its own definition.
const SAFETENSORS_HEADER_BYTES: u64 = 100_000_000;

/// What a file that does not begin with `GGUF` is. A safetensors file begins with the length of a JSON object as 64 bits,
/// and that object.
fn foreign<R: Read>(reader: &mut HeaderReader<R>, found: [u8; 4]) -> ParseError {
    let rest = reader.array::<5>("the file's mark");
    match rest {
        Ok([high @ .., b'{']) if u64::from(u32::from_le_bytes(found)) <= SAFETENSORS_HEADER_BYTES && high == [0; 4] => {
            ParseError::Safetensors
        }
        _ => ParseError::NotGguf { found },
    }
}

fn read_metadata<R: Read>(reader: &mut HeaderReader<R>, count: u64) -> Result<Metadata, ParseError> {
    let mut metadata = Metadata::default();
    for _ in 0..count {
        let key = reader.name("a metadata key", MAX_KEY_BYTES)?;
        let value = reader.value(&key)?;
        if !metadata.insert(&key, value) {
            return Err(ParseError::Malformed {
                what: format!("the key `{key}` appears twice"),
            });
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &Metadata) -> Result<u32, ParseError> {
    const KEY: &str = "general.alignment";
    if metadata.get(KEY).is_none() {
        return Ok(DEFAULT_ALIGNMENT);
    }
    match metadata.u32(KEY) {
        Ok(alignment) if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT => Ok(alignment),
        _ => Err(ParseError::Malformed {
            what: format!("`{KEY}` is not a power of two up to {MAX_ALIGNMENT}"),
        }),
    }
}

/// Reads the table; offsets stay relative to the data section.
fn read_tensors<R: Read>(reader: &mut HeaderReader<R>, count: u64, alignment: u32) -> Result<Vec<Tensor>, ParseError> {
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..count {
        let tensor = read_tensor(reader)?;
        if !tensor.offset_bytes.is_multiple_of(u64::from(alignment)) {
            return Err(ParseError::Misaligned {
                tensor: tensor.name,
                offset: tensor.offset_bytes,
                alignment,
            });
        }
        if !names.insert(tensor.name.clone()) {
            return Err(ParseError::Malformed {
                what: format!("the tensor `{}` appears twice", tensor.name),
            });
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_tensor<R: Read>(reader: &mut HeaderReader<R>) -> Result<Tensor, ParseError> {
    let name = reader.name("a tensor name", MAX_TENSOR_NAME_BYTES)?;
    let dimension_count = reader.u32("a tensor's dimensions")?;
    if !(1..=MAX_DIMENSIONS).contains(&dimension_count) {
        let what = format!("tensor `{name}` has {dimension_count} dimensions, not 1 to {MAX_DIMENSIONS}");
        return Err(ParseError::Malformed { what });
    }
    let mut dimensions = Vec::with_capacity(MAX_DIMENSIONS as usize);
    for _ in 0..dimension_count {
        dimensions.push(reader.u64("a tensor's dimensions")?);
    }
    let id = reader.u32("a tensor's type")?;
    let offset_bytes = reader.u64("a tensor's offset")?;
    let Some(tensor_type) = TensorType::from_id(id) else {
        return Err(ParseError::UnknownTensorType { tensor: name, id });
    };
    let size_bytes = size_of(tensor_type, &dimensions).ok_or_else(|| ParseError::Malformed {
        what: format!("tensor `{name}` of type {tensor_type} cannot have the shape {dimensions:?}"),
    })?;
    Ok(Tensor {
        name,
        dimensions,
        tensor_type,
        file: 0,
        offset_bytes,
        size_bytes,
    })
}

/// Bytes of a tensor; `None` for a zero dimension, a row of torn blocks, or an overflow of ggml's signed 64 bits.
fn size_of(tensor_type: TensorType, dimensions: &[u64]) -> Option<u64> {
    let row = *dimensions.first()?;
    if dimensions.contains(&0) || !row.is_multiple_of(tensor_type.block_elements()) {
        return None;
    }
    let elements = dimensions
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size))?;
    i64::try_from(elements).ok()?;
    tensor_type
        .bytes_of(elements)
        .filter(|&bytes| i64::try_from(bytes).is_ok())
}

/// Makes offsets absolute and checks that all tensors lie in the file, apart from each other.
fn place_tensors(tensors: &mut [Tensor], data_offset_bytes: u64, file_bytes: u64) -> Result<(), ParseError> {
    for tensor in tensors.iter_mut() {
        let begin = data_offset_bytes.checked_add(tensor.offset_bytes);
        let end = begin.and_then(|begin| begin.checked_add(tensor.size_bytes));
        let (Some(begin), Some(end)) = (begin, end) else {
            return Err(ParseError::Malformed {
                what: format!("the offset of tensor `{}` overflows", tensor.name),
            });
        };
        if end > file_bytes {
            let what = format!("tensor `{}`", tensor.name);
            return Err(ParseError::Truncated {
                what,
                needed: end,
                actual: file_bytes,
            });
        }
        tensor.offset_bytes = begin;
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset_bytes);
    for pair in order.windows(2) {
        if pair[0].offset_bytes + pair[0].size_bytes > pair[1].offset_bytes {
            return Err(ParseError::Overlap {
                first: pair[0].name.clone(),
                second: pair[1].name.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
