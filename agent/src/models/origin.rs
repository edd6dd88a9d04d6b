//! The source of a fetch, opened when it is first needed, and read in long runs.

use super::{Models, Wanted};
use crate::shard::observed::Fault;
use crate::source::{Address, Kind, Source, SourceFile};
use crds::conditions::reason;
use gguf::Tensor;
use gguf::index::{INDEX_SUFFIX, MAX_INDEX_BYTES, WeightIndex};
use std::collections::BTreeMap;
use std::sync::Mutex;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

/// Bytes between two tensors that are read and thrown away rather than asked around.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// Neighbouring tensors of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of the file.
    pub file: u16,
    /// First byte.
    pub begin: u64,
    /// One past the last.
    pub end: u64,
    /// Which tensors, in the order of their places.
    pub tensors: Vec<usize>,
}

/// Joins tensors, given by their numbers, into as few ranges as possible.
pub(super) fn runs(tensors: &[&Tensor], wanted: &[usize]) -> Vec<Run> {
    let mut order = wanted.to_vec();
    order.sort_by_key(|&number| (tensors[number].file, tensors[number].offset_bytes));
    let mut runs: Vec<Run> = Vec::new();
    for number in order {
        let tensor = tensors[number];
        let (begin, end) = (tensor.offset_bytes, tensor.offset_bytes + tensor.size_bytes);
        match runs.last_mut() {
            Some(run) if run.file == tensor.file && begin >= run.end && begin - run.end <= GAP_BYTES_MAX => {
                run.end = end;
                run.tensors.push(number);
            }
            _ => runs.push(Run {
                file: tensor.file,
                begin,
                end,
                tensors: vec![number],
            }),
        }
    }
    runs
}

/// The source of what is wanted.
pub(super) struct Origin<'a> {
    models: &'a Models,
    wanted: &'a Wanted,
    opened: OnceCell<Result<Source, Fault>>,
    files: Mutex<BTreeMap<u16, SourceFile>>,
}

impl<'a> Origin<'a> {
    pub fn new(models: &'a Models, wanted: &'a Wanted) -> Self {
        Self {
            models,
            wanted,
            opened: OnceCell::new(),
            files: Mutex::default(),
        }
    }

    /// A file of this very node, which is read rather than anybody asked.
    pub fn is_near(&self) -> bool {
        matches!(Address::parse(&self.wanted.uri), Ok(Address::File(_)))
    }

    pub fn kind(&self) -> Kind {
        match self.opened.get() {
            Some(Ok(source)) => source.kind(),
            _ => Kind::File,
        }
    }

    /// Its address, as it may be shown to anyone.
    pub fn shown(&self) -> String {
        crate::source::shown(&self.wanted.uri)
    }

    async fn source(&self) -> Result<&Source, Fault> {
        let open = || async {
            Source::open(&self.models.setting().sources, &self.wanted.uri, &self.wanted.access)
                .await
                .map_err(Fault::from)
        };
        self.opened.get_or_init(open).await.as_ref().map_err(Clone::clone)
    }

    /// A file of the model, found to be as long as the index says.
    pub fn file(&self, index: &WeightIndex, number: u16, stop: &CancellationToken) -> Result<SourceFile, Fault> {
        // Held while it is opened, so that connections beside each other do not all ask for its length.
        let mut files = super::locked(&self.files);
        if let Some(file) = files.get(&number) {
            return Ok(file.clone());
        }
        let indexed = index
            .files()
            .get(usize::from(number))
            .ok_or_else(|| Fault::new(reason::SOURCE_CHANGED, "the weight index has no such file"))?;
        let file = self.models.wait(stop, async {
            let source = self.source().await?;
            // The first file is found by the address, whatever it is called there.
            let name = if number == 0 { source.first() } else { &indexed.name };
            source.file(name).await.map_err(Fault::from)
        })?;
        if file.bytes() != indexed.bytes {
            let what = if file.bytes() < indexed.bytes {
                reason::TRUNCATED
            } else {
                reason::SOURCE_CHANGED
            };
            let message = format!(
                "{} of {} has {} bytes, the weight index says {}; restore the file that was inspected, or apply the model anew",
                indexed.name,
                self.shown(),
                file.bytes(),
                indexed.bytes
            );
            return Err(Fault::new(what, message));
        }
        files.insert(number, file.clone());
        Ok(file)
    }

    pub fn header(&self, index: &WeightIndex, number: u16, stop: &CancellationToken) -> Result<Vec<u8>, Fault> {
        let file = self.file(index, number, stop)?;
        let bytes = self
            .models
            .wait(stop, file.read_all(0, index.files()[usize::from(number)].header_bytes))?;
        self.models.counters().received(self.kind(), bytes.len() as u64);
        Ok(bytes)
    }

    pub fn index_beside(&self, stop: &CancellationToken) -> Result<Vec<u8>, Fault> {
        let bytes = self.models.wait(stop, async {
            let source = self.source().await?;
            let name = format!("{}{INDEX_SUFFIX}", source.first());
            source
                .read_small(&name, MAX_INDEX_BYTES as u64)
                .await
                .map_err(Fault::from)
        })?;
        self.models.counters().received(self.kind(), bytes.len() as u64);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
