//! Finding the cards: both libraries are asked once, and what they say is joined.

use super::call::{Facts, Library};
use super::devices::{Described, Surroundings, join};
use super::fault::NvmlCode;
use super::nvml::call as nvml;
use super::nvml::parse::RawFacts;
use super::open::{Open, Slot};
use crate::Selection;

/// NVML's list, with the handles beside it.
type DescribedList = Vec<(Described, Option<(nvml::Handle, nvml::Handle)>)>;

/// The cards, and where each is plugged in, as far as that is known without asking it.
fn cards(library: &nvml::Library, only: &Selection) -> Vec<(Result<nvml::Handle, NvmlCode>, Option<String>)> {
    match only.addresses() {
        None => (0..library.count().unwrap_or(0))
            .map(|index| (library.handle(index), None))
            .collect(),
        // By address: asking for the handle at a place in the list would touch the cards before it.
        Some(addresses) => addresses
            .map(|address| (library.handle_at(address), Some(address.to_owned())))
            .collect(),
    }
}

fn describe(library: &nvml::Library, only: &Selection) -> DescribedList {
    let mut list = Vec::new();
    for (card, pci_address) in cards(library, only) {
        let lost = |code: NvmlCode, facts: RawFacts| Described {
            facts,
            card: None,
            lost: Some(code.text()),
        };
        let card = match card {
            Ok(card) => card,
            Err(code) if code.hides() => continue,
            Err(code) => {
                let facts = RawFacts {
                    pci_address,
                    ..RawFacts::default()
                };
                list.push((lost(code, facts), None));
                continue;
            }
        };
        let facts = match library.answers(card).and_then(|()| library.facts(card)) {
            Ok(facts) => facts,
            Err(code) => {
                let remembered = library.remembered(card);
                list.push((lost(code, remembered), Some((card, card))));
                continue;
            }
        };
        let slices = library.slices(card);
        for slice in &slices {
            if let Ok(own) = library.facts(*slice) {
                let described = Described {
                    facts: own,
                    card: Some(facts.clone()),
                    lost: None,
                };
                list.push((described, Some((*slice, card))));
            }
        }
        // A divided card without slices has nothing to allocate from; CUDA does not show it.
        if slices.is_empty() {
            let described = Described {
                facts,
                card: None,
                lost: None,
            };
            list.push((described, Some((card, card))));
        }
    }
    list
}

/// Both libraries' lists; what is missing is a sentence. Cards that are not among `only` have their places in CUDA's list.
pub(super) fn gather(only: &Selection) -> Result<Open, String> {
    let nvml = nvml::Library::open();
    let (cuda, reached, no_cuda): (Option<Library>, Vec<Facts>, Option<String>) = match Library::open() {
        Ok(library) => match library.devices(only) {
            Ok(reached) => (Some(library), reached, None),
            Err(code) => (
                None,
                Vec::new(),
                Some(format!("cuDeviceGetCount failed: {}", code.text())),
            ),
        },
        Err(fault) => (None, Vec::new(), Some(fault.to_string())),
    };
    let described = nvml.as_ref().map(|library| describe(library, only)).unwrap_or_default();
    let around = Surroundings {
        driver: version(nvml.as_ref().ok(), cuda.as_ref()),
        chosen: std::env::var_os("CUDA_VISIBLE_DEVICES").is_some(),
        no_cuda: no_cuda.clone(),
    };
    let (described, handles): (Vec<Described>, Vec<_>) = described.into_iter().unzip();
    let slots: Vec<Slot> = join(&reached, &described, &around)
        .into_iter()
        .map(|joined| {
            let handle = joined.described.and_then(|place| handles[place]);
            Slot::new(joined.device, joined.ordinal, handle)
        })
        .collect();
    let fault = nvml.as_ref().err().map(ToString::to_string);
    let open = Open::new(cuda, nvml.ok(), slots);
    if open.is_worth_opening() {
        return Ok(open);
    }
    let cuda = no_cuda.unwrap_or_else(|| "CUDA shows no device".to_owned());
    Err(match fault {
        Some(fault) => format!("{cuda}; {fault}"),
        None => cuda,
    })
}

fn version(nvml: Option<&nvml::Library>, cuda: Option<&Library>) -> Option<String> {
    let described = nvml.and_then(nvml::Library::driver_version);
    let offered = cuda
        .and_then(Library::version)
        .map(|version| format!("CUDA {}.{}", version / 1000, version % 1000 / 10));
    match (described, offered) {
        (Some(driver), Some(cuda)) => Some(format!("{driver} ({cuda})")),
        (driver, cuda) => driver.or(cuda),
    }
}
