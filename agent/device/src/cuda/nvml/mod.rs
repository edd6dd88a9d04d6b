//! What NVIDIA's management library says of cards while they work: the reader behind the `watch` child.

pub(super) mod call;
pub(super) mod parse;

use crate::cuda::fault::NvmlCode;
use crate::telemetry::{DeviceEvent, Sample, Sampler};
use crate::{Backend, Kind, Selection};
use call::{Events, Handle, Library};

/// A card or slice as it was when it was found. A lost card says nothing any more, so its name is kept here.
#[derive(Clone, Debug)]
struct Known {
    identity: String,
    pci_address: Option<String>,
    /// Nothing where the card was lost before it could be asked.
    handle: Result<Handle, NvmlCode>,
    /// The card that a slice belongs to: it has the sensors.
    card: Option<Handle>,
}

/// The reader.
pub(super) struct NvmlSampler {
    // Freed before the library ends.
    events: Option<Events>,
    library: Library,
    only: Selection,
    known: Vec<Known>,
    /// How many cards the library counted when they were found.
    count: u32,
}

impl NvmlSampler {
    /// Starts the library and finds the cards, those of `only`.
    ///
    /// # Errors
    /// What is missing, as a sentence.
    pub(super) fn open(only: &Selection) -> Result<Self, String> {
        let library = Library::open().map_err(|fault| format!("NVIDIA's cards cannot be read: {fault}"))?;
        let mut sampler = Self {
            events: None,
            library,
            only: only.clone(),
            known: Vec::new(),
            count: 0,
        };
        sampler.find()?;
        Ok(sampler)
    }

    fn find(&mut self) -> Result<(), String> {
        self.count = self
            .library
            .count()
            .map_err(|code| format!("nvmlDeviceGetCount_v2 failed: {}", code.text()))?;
        let mut known = Vec::new();
        let mut cards = Vec::new();
        for (index, card, address) in self.cards() {
            match card {
                Ok(card) => {
                    cards.push(card);
                    self.find_at(index, card, &mut known);
                }
                Err(NvmlCode::VERSION_MISMATCH) => return Err(gone(NvmlCode::VERSION_MISMATCH)),
                Err(code) if code.hides() => {}
                Err(code) => known.push(Known {
                    identity: self.remembered(index, address.as_deref()),
                    pci_address: address,
                    handle: Err(code),
                    card: None,
                }),
            }
        }
        self.known = known;
        if let Some(events) = self.events.take() {
            self.library.unwatch(events);
        }
        self.events = self.library.watch(cards.into_iter());
        Ok(())
    }

    /// Each card's number, and its address where it was asked for by that: handles by number touch other cards.
    fn cards(&self) -> Vec<(u32, Result<Handle, NvmlCode>, Option<String>)> {
        match self.only.addresses() {
            None => (0..self.count)
                .map(|index| (index, self.library.handle(index), None))
                .collect(),
            Some(addresses) => (0..)
                .zip(addresses)
                .map(|(index, address)| (index, self.library.handle_at(address), Some(address.to_owned())))
                .collect(),
        }
    }

    fn find_at(&self, index: u32, card: Handle, known: &mut Vec<Known>) {
        let slices = self.library.slices(card);
        if slices.is_empty() {
            known.push(self.one(index, card, None));
        }
        for slice in slices {
            known.push(self.one(index, slice, Some(card)));
        }
    }

    fn one(&self, index: u32, handle: Handle, card: Option<Handle>) -> Known {
        let pci_address = self.library.pci_address(card.unwrap_or(handle));
        let uuid = self.library.facts(handle).ok().and_then(|facts| facts.uuid);
        let mut device = crate::GpuDevice::new(Backend::Cuda, index, Kind::Discrete);
        device.uuid = uuid;
        // Slices of one card have one address; it tells none of them from another.
        device.pci_address = pci_address.clone().filter(|_| card.is_none());
        Known {
            identity: device.identity(),
            pci_address,
            handle: Ok(handle),
            card,
        }
    }

    /// The identity that the card at this place had before it was lost.
    fn remembered(&self, index: u32, address: Option<&str>) -> String {
        let at = |known: &&Known| address.is_some() && known.pci_address.as_deref() == address;
        let here = self.known.iter().find(at).or_else(|| {
            let all = self.only == Selection::All && self.known.len() == self.count as usize;
            self.known.get(index as usize).filter(|_| all)
        });
        here.map_or_else(
            || format!("{}:{index}", Backend::Cuda.name()),
            |known| known.identity.clone(),
        )
    }

    fn read(&self, known: &Known) -> Result<Sample, NvmlCode> {
        let handle = known.handle?;
        let mut raw = self.library.readings(handle)?;
        if let Some(card) = known.card {
            raw = raw.with_sensors_of(&self.library.readings(card)?);
        }
        let mut sample = parse::sample(&known.identity, &raw);
        sample.pci_address.clone_from(&known.pci_address);
        Ok(sample)
    }
}

/// That nothing can be read any more.
fn gone(code: NvmlCode) -> String {
    format!("NVIDIA's cards cannot be read any more: {}", code.text())
}

impl Sampler for NvmlSampler {
    fn backend(&self) -> Backend {
        Backend::Cuda
    }

    fn sample(&mut self) -> Result<Vec<Sample>, String> {
        let count = self.library.count().map_err(gone)?;
        if count != self.count {
            self.find()?;
        }
        let mut samples = Vec::with_capacity(self.known.len());
        for known in &self.known {
            match self.read(known) {
                Ok(sample) => samples.push(sample),
                Err(NvmlCode::VERSION_MISMATCH) => return Err(gone(NvmlCode::VERSION_MISMATCH)),
                Err(code) => samples.push(Sample {
                    device: known.identity.clone(),
                    lost: Some(code.text()),
                    ..Sample::default()
                }),
            }
        }
        Ok(samples)
    }

    fn events(&mut self) -> Vec<DeviceEvent> {
        let Some(events) = &self.events else { return Vec::new() };
        let address = |handle: Handle| {
            let known = |known: &&Known| known.handle == Ok(handle) || known.card == Some(handle);
            self.known
                .iter()
                .find(known)
                .and_then(|known| known.pci_address.clone())
        };
        self.library
            .take(events)
            .into_iter()
            .filter_map(|xid| {
                Some(DeviceEvent {
                    pci_address: address(xid.device),
                    xid: u32::try_from(xid.number).ok()?,
                    text: "told by NVML".to_owned(),
                })
            })
            .collect()
    }
}

impl Drop for NvmlSampler {
    fn drop(&mut self) {
        if let Some(events) = self.events.take() {
            self.library.unwatch(events);
        }
    }
}
