//! Models in several files: `name-00001-of-00003.gguf` and so on, each with some of the tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Gguf, MAX_FILE_BYTES, ParseError, Tensor};
use crate::metadata::{Metadata, MetadataError, optional};

/// Most files of one model. The largest sets published have about 200.
pub const MAX_FILES: usize = 1024;

/// Digits of the numbers in a file's name.
const NUMBER_DIGITS: usize = 5;

const SUFFIX: &str = ".gguf";

const SPLIT_NUMBER: &str = "split.no";
const SPLIT_COUNT: &str = "split.count";
const SPLIT_TENSORS: &str = "split.tensors.count";

/// Why files are not one model.
#[derive(Debug, Error)]
pub enum SplitError {
    /// A part was given in place of the set.
    #[error("{name} is part {number} of {count} of a model; give the first part, {first}")]
    NotFirst {
        /// The name given.
        name: String,
        /// Its number, from 1.
        number: u32,
        /// Parts in all.
        count: u32,
        /// The name of the first part.
        first: String,
    },
    /// The parts cannot be found by this name.
    #[error(
        "{name} is the first part of a model in {count} files, but its name does not end in `-00001-of-{count:05}.gguf`, by \
         which the others are found; give all files their names back"
    )]
    Misnamed {
        /// The name given.
        name: String,
        /// Parts in all.
        count: u32,
    },
    /// More parts than accepted.
    #[error("the model states {count} files, more than the {MAX_FILES} accepted; the file is damaged")]
    TooMany {
        /// The count in the file.
        count: u32,
    },
    /// Files that state sizes nothing has.
    #[error("the parts say they have more than {MAX_FILE_BYTES} bytes together; they are damaged")]
    TooLarge,
    /// A part could not be read.
    #[error("{name}: {source}")]
    Part {
        /// The file.
        name: String,
        /// Why.
        source: ParseError,
    },
    /// A key of the set is missing or of the wrong type.
    #[error("part {number} of the model: {source}")]
    Key {
        /// The part, from 1.
        number: usize,
        /// Which key.
        source: MetadataError,
    },
    /// Parts missing or too many.
    #[error("the model has {expected} files, {found} were given; fetch the missing parts")]
    PartCount {
        /// Files given.
        found: usize,
        /// Files per the first one.
        expected: u32,
    },
    /// A part that says something else of the set than the first.
    #[error(
        "part {number} states {found} for `{key}` where {expected} belongs; the parts are not of one model, fetch all again"
    )]
    Disagrees {
        /// The part, from 1.
        number: usize,
        /// The key.
        key: String,
        /// Its value.
        found: u32,
        /// What it must be.
        expected: u32,
    },
    /// A part whose metadata contradicts the first one's.
    #[error("part {number} has another `{key}` than part 1; the parts are not of one model, fetch all again")]
    OtherModel {
        /// The part, from 1.
        number: usize,
        /// The key.
        key: String,
    },
    /// A tensor in two parts.
    #[error(
        "tensor `{tensor}` is in part {first} and in part {second}; the parts are not of one model, fetch all again"
    )]
    DuplicateTensor {
        /// The tensor's name.
        tensor: String,
        /// The part that has it first, from 1.
        first: usize,
        /// The other part, from 1.
        second: usize,
    },
    /// Parts with more or fewer tensors than stated.
    #[error(
        "the parts hold {found} tensors, `split.tensors.count` says {expected}; the set is incomplete, fetch all again"
    )]
    TensorCount {
        /// Tensors in all parts.
        found: usize,
        /// Tensors per the first one.
        expected: u32,
    },
}

/// The name of one file of a set, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitName {
    stem: String,
    number: u32,
    count: u32,
}

impl SplitName {
    /// Takes `stem-00002-of-00003.gguf` apart. `None` for any other name.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_suffix(SUFFIX)?;
        let (rest, count) = rest.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let (number, count) = (padded(number)?, padded(count)?);
        (1..=count).contains(&number).then(|| Self {
            stem: stem.to_owned(),
            number,
            count,
        })
    }

    /// The file's number, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Files of the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The name of file `number`, from 1.
    pub fn file(&self, number: u32) -> String {
        format!(
            "{}-{number:0NUMBER_DIGITS$}-of-{:0NUMBER_DIGITS$}{SUFFIX}",
            self.stem, self.count
        )
    }
}

fn padded(digits: &str) -> Option<u32> {
    let plain = digits.len() == NUMBER_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// The names of all files of a model, given the name (without folders) and the header of its first. A model in one file
/// gives its own name alone.
pub fn file_names(name: &str, header: &Gguf) -> Result<Vec<String>, SplitError> {
    let split = SplitName::parse(name);
    let key = |source| SplitError::Key { number: 1, source };
    let count = optional(header.metadata.u32(SPLIT_COUNT))
        .map_err(key)?
        .unwrap_or(1)
        .max(1);
    let index = optional(header.metadata.u32(SPLIT_NUMBER)).map_err(key)?.unwrap_or(0);
    if count as usize > MAX_FILES {
        return Err(SplitError::TooMany { count });
    }
    if index > 0 {
        let set = split.filter(|split| split.count == count);
        return Err(SplitError::NotFirst {
            name: name.to_owned(),
            number: index.saturating_add(1),
            count,
            first: set.map_or_else(
                || format!("whose name ends in `-00001-of-{count:05}.gguf`"),
                |set| set.file(1),
            ),
        });
    }
    if count == 1 {
        return Ok(vec![name.to_owned()]);
    }
    match split.filter(|split| split.count == count && split.number == 1) {
        Some(set) => Ok((1..=count).map(|number| set.file(number)).collect()),
        None => Err(SplitError::Misnamed {
            name: name.to_owned(),
            count,
        }),
    }
}

/// A model on disk.
#[derive(Debug)]
pub struct FileSet {
    /// The model, its tensors with the number of their file.
    pub gguf: Gguf,
    /// The files' names without folders, in order.
    pub names: Vec<String>,
    /// The files, in order.
    pub paths: Vec<PathBuf>,
}

impl FileSet {
    /// Reads the headers of the model whose first, or only, file is at `path`; the others lie beside it.
    pub fn open(path: &Path) -> Result<Self, SplitError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let part = |path: &Path| {
            Gguf::open(path).map_err(|source| SplitError::Part {
                name: path.display().to_string(),
                source,
            })
        };
        let first = part(path)?;
        let names = file_names(&name, &first)?;
        let mut paths = vec![path.to_owned()];
        paths.extend(names.iter().skip(1).map(|name| path.with_file_name(name)));
        let others = paths[1..].iter().map(|path| part(path)).collect::<Result<_, _>>()?;
        let gguf = Gguf::merge(first, others)?;
        Ok(Self { gguf, names, paths })
    }
}

impl Gguf {
    /// Joins the headers of a split set to one model: the first one's metadata and all tensors, each with the number of
    /// its file. A model in one file is given back as it is.
    ///
    /// Numbers, counts and tensors must be those of one whole set, and no part may contradict the first one's metadata.
    pub fn merge(first: Self, others: Vec<Self>) -> Result<Self, SplitError> {
        let count = set_entry(&first, 1, SPLIT_COUNT, others.is_empty())?
            .unwrap_or(1)
            .max(1);
        if count as usize > MAX_FILES {
            return Err(SplitError::TooMany { count });
        }
        if count as usize != others.len() + 1 {
            return Err(SplitError::PartCount {
                found: others.len() + 1,
                expected: count,
            });
        }
        if count == 1 {
            return Ok(first);
        }
        let tensors = set_entry(&first, 1, SPLIT_TENSORS, false)?.unwrap_or(0);
        let mut merged = first;
        for (index, part) in (0u16..).zip(std::iter::once(&merged).chain(&others)) {
            check_part(&merged.metadata, index, part, count, tensors)?;
        }
        let sizes = merged.files.iter().chain(others.iter().flat_map(|part| &part.files));
        let total = sizes.fold(0u64, |sum, file| sum.saturating_add(file.bytes));
        if total > MAX_FILE_BYTES {
            return Err(SplitError::TooLarge);
        }
        for (file, part) in (1u16..).zip(others) {
            merged.files.extend(part.files);
            merged
                .tensors
                .extend(part.tensors.into_iter().map(|tensor| Tensor { file, ..tensor }));
        }
        if merged.tensors.len() != tensors as usize {
            return Err(SplitError::TensorCount {
                found: merged.tensors.len(),
                expected: tensors,
            });
        }
        check_unique(&merged.tensors)?;
        Ok(merged)
    }
}

/// A number that every part states; where `may_lack`, `None` if it does not.
fn set_entry(part: &Gguf, number: usize, key: &str, may_lack: bool) -> Result<Option<u32>, SplitError> {
    let read = part.metadata.u32(key);
    let read = if may_lack { optional(read) } else { read.map(Some) };
    read.map_err(|source| SplitError::Key { number, source })
}

fn check_part(first: &Metadata, index: u16, part: &Gguf, count: u32, tensors: u32) -> Result<(), SplitError> {
    let number = usize::from(index) + 1;
    for (key, expected) in [
        (SPLIT_NUMBER, index.into()),
        (SPLIT_COUNT, count),
        (SPLIT_TENSORS, tensors),
    ] {
        let found = set_entry(part, number, key, false)?.unwrap_or(0);
        if found != expected {
            return Err(SplitError::Disagrees {
                number,
                key: key.to_owned(),
                found,
                expected,
            });
        }
    }
    // What describes the file and not the model may differ.
    let of_model = |key: &str| !key.starts_with("split.") && key != "general.alignment";
    let contradicts = |(key, value): &(&str, _)| of_model(key) && first.get(key).is_some_and(|known| known != *value);
    match part.metadata.iter().find(contradicts) {
        Some((key, _)) => Err(SplitError::OtherModel {
            number,
            key: key.to_owned(),
        }),
        None => Ok(()),
    }
}

fn check_unique(tensors: &[Tensor]) -> Result<(), SplitError> {
    let mut seen: HashMap<&str, u16> = HashMap::new();
    for tensor in tensors {
        if let Some(first) = seen.insert(&tensor.name, tensor.file) {
            return Err(SplitError::DuplicateTensor {
                tensor: tensor.name.clone(),
                first: usize::from(first) + 1,
                second: usize::from(tensor.file) + 1,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
