//! What an index must satisfy, whoever wrote it.

use super::weights::{IndexedFile, IndexedTensor, Table, WeightIndexError, within};
use crate::parse::split::{MAX_FILES, SplitName};
use crate::parse::{Limits, MAX_FILE_BYTES, MAX_TENSOR_NAME_BYTES};

/// Most tensors of an index: as many as a header may have.
pub const MAX_TENSORS: u64 = 1 << 16;

/// Longest file name in bytes: what file systems accept.
pub const MAX_FILE_NAME_BYTES: usize = 255;

/// Checks a table; gives the places of its tensors in the order of their names.
pub(super) fn check(table: &Table) -> Result<Vec<u32>, WeightIndexError> {
    within("files", table.files.len() as u64, MAX_FILES as u64)?;
    within("tensors", table.tensors.len() as u64, MAX_TENSORS)?;
    check_files(&table.files)?;
    check_places(table)?;
    let mut by_name: Vec<u32> = (0..table.tensors.len() as u32).collect();
    by_name.sort_by_key(|&place| &table.tensors[place as usize].name);
    for pair in by_name.windows(2) {
        let name = |place: u32| &table.tensors[place as usize].name;
        if name(pair[0]) == name(pair[1]) {
            return malformed(format!("tensor `{}` appears twice", name(pair[0])));
        }
    }
    Ok(by_name)
}

/// Whether a name can be a file's, and nothing but a file's: it is joined to folders and addresses.
pub(crate) fn is_file_name(name: &str) -> bool {
    let plain = |c: char| !c.is_control() && !['/', '\\', '?', '#'].contains(&c);
    !name.is_empty() && name.len() <= MAX_FILE_NAME_BYTES && !name.starts_with('.') && name.chars().all(plain)
}

fn check_files(files: &[IndexedFile]) -> Result<(), WeightIndexError> {
    let Some(first) = files.first() else {
        return malformed("it names no file".to_owned());
    };
    let set = SplitName::parse(&first.name);
    if files.len() > 1 && set.as_ref().is_none_or(|set| set.count() as usize != files.len()) {
        return malformed(format!(
            "{:?} is no name for the first of {} files",
            first.name,
            files.len()
        ));
    }
    let (mut total, mut headers) = (0u64, 0u64);
    for (number, file) in (1u32..).zip(files) {
        if !is_file_name(&file.name) {
            return malformed(format!("{:?} is no file name", file.name));
        }
        let expected = set.as_ref().filter(|_| files.len() > 1).map(|set| set.file(number));
        if let Some(expected) = expected.filter(|expected| *expected != file.name) {
            return malformed(format!("file {number} is named {:?} and not {expected:?}", file.name));
        }
        if file.header_bytes > file.bytes {
            return malformed(format!("the header of {:?} is longer than the file", file.name));
        }
        total = total.saturating_add(file.bytes);
        headers = headers.saturating_add(file.header_bytes);
    }
    // Headers are read into memory, all of a model together.
    within("bytes in all headers", headers, Limits::default().header_bytes)?;
    within("bytes in all files", total, MAX_FILE_BYTES)
}

fn check_places(table: &Table) -> Result<(), WeightIndexError> {
    let mut before: Option<&IndexedTensor> = None;
    for tensor in &table.tensors {
        let name = &tensor.name;
        if name.is_empty() || name.len() as u64 > MAX_TENSOR_NAME_BYTES || name.contains('\0') {
            return malformed(format!("{name:?} is no tensor name"));
        }
        let Some(file) = table.files.get(usize::from(tensor.file)) else {
            return malformed(format!(
                "tensor `{name}` is in file {}, which it does not name",
                tensor.file
            ));
        };
        let end = tensor.offset_bytes.checked_add(tensor.size_bytes);
        if tensor.size_bytes == 0 || tensor.offset_bytes < file.header_bytes || end.is_none_or(|end| end > file.bytes) {
            return malformed(format!(
                "tensor `{name}` of {} bytes at {} is not inside the data of {:?}",
                tensor.size_bytes, tensor.offset_bytes, file.name
            ));
        }
        if let Some(before) = before {
            // Inside its file, as checked in the round before: no overflow.
            let begin = (before.file, before.offset_bytes + before.size_bytes);
            if (tensor.file, tensor.offset_bytes) < begin {
                return malformed(format!(
                    "tensors `{}` and `{name}` overlap or are out of order",
                    before.name
                ));
            }
        }
        before = Some(tensor);
    }
    Ok(())
}

fn malformed<T>(what: String) -> Result<T, WeightIndexError> {
    Err(WeightIndexError::Malformed { what })
}

#[cfg(test)]
mod tests;
