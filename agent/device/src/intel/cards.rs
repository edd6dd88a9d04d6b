//! What is known of Intel's cards by PCI id.

use crate::Prior;

/// A model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Of the kind of card.
    pub device_id: u32,
    /// As Intel names it.
    pub name: &'static str,
    /// As Intel names the architecture.
    pub architecture: &'static str,
    /// Sizes it is sold with; empty where it uses the host's memory.
    pub memory_gib: &'static [u64],
    /// Intel's figure, gigabytes per second; 0 where it depends on the machine or the size.
    bandwidth_gb: u64,
}

const fn model(
    device_id: u32,
    name: &'static str,
    architecture: &'static str,
    memory_gib: &'static [u64],
    bandwidth_gb: u64,
) -> Model {
    Model {
        device_id,
        name,
        architecture,
        memory_gib,
        bandwidth_gb,
    }
}

const SOURCE: &str = "Intel's product specifications (graphics memory bandwidth)";

/// Sources: the hardware table of Intel's documentation of its data-centre GPU drivers (names, architectures), Intel's
/// product specifications (memory and its bandwidth), the kernel's include/drm/intel/pciids.h (ids).
static MODELS: [Model; 38] = [
    model(0xE20B, "Intel Arc B580", "Xe2-HPG", &[12], 456),
    model(0xE20C, "Intel Arc B570", "Xe2-HPG", &[10], 380),
    model(0xE211, "Intel Arc Pro B60", "Xe2-HPG", &[24], 456),
    model(0xE212, "Intel Arc Pro B50", "Xe2-HPG", &[16], 224),
    model(0x56A0, "Intel Arc A770", "Xe-HPG", &[8, 16], 0),
    model(0x56A1, "Intel Arc A750", "Xe-HPG", &[8], 512),
    model(0x56A2, "Intel Arc A580", "Xe-HPG", &[8], 512),
    model(0x56A5, "Intel Arc A380", "Xe-HPG", &[6], 186),
    model(0x56A6, "Intel Arc A310", "Xe-HPG", &[4], 124),
    model(0x5690, "Intel Arc A770M", "Xe-HPG", &[16], 512),
    model(0x5691, "Intel Arc A730M", "Xe-HPG", &[12], 336),
    model(0x5692, "Intel Arc A550M", "Xe-HPG", &[8], 224),
    model(0x5693, "Intel Arc A370M", "Xe-HPG", &[4], 112),
    model(0x5694, "Intel Arc A350M", "Xe-HPG", &[4], 112),
    model(0x56B1, "Intel Arc Pro A40/A50", "Xe-HPG", &[6], 0),
    model(0x56B2, "Intel Arc Pro A60M", "Xe-HPG", &[12], 0),
    model(0x56B3, "Intel Arc Pro A60", "Xe-HPG", &[12], 384),
    model(0x56C0, "Intel Data Center GPU Flex 170", "Xe-HPG", &[16], 576),
    model(0x56C1, "Intel Data Center GPU Flex 140", "Xe-HPG", &[6], 0),
    model(0x0BD5, "Intel Data Center GPU Max 1550", "Xe-HPC", &[128], 3276),
    model(0x0BDA, "Intel Data Center GPU Max 1100", "Xe-HPC", &[48], 1228),
    model(0x4905, "Intel Iris Xe MAX", "Xe-LP", &[4], 68),
    model(0x64A0, "Intel Arc 140V", "Xe2-LPG", &[], 0),
    model(0x6420, "Intel Graphics (Lunar Lake)", "Xe2-LPG", &[], 0),
    model(0x7D51, "Intel Arc 140T", "Xe-LPG+", &[], 0),
    model(0x7DD1, "Intel Graphics (Arrow Lake)", "Xe-LPG+", &[], 0),
    model(0x7D67, "Intel Graphics (Arrow Lake)", "Xe-LPG", &[], 0),
    model(0x7D55, "Intel Arc Graphics (Meteor Lake)", "Xe-LPG", &[], 0),
    model(0x7D45, "Intel Graphics (Meteor Lake)", "Xe-LPG", &[], 0),
    model(0xA7A0, "Intel Iris Xe Graphics (Raptor Lake)", "Xe-LP", &[], 0),
    model(0xA780, "Intel UHD Graphics 770 (Raptor Lake)", "Xe-LP", &[], 0),
    model(0x46A6, "Intel Iris Xe Graphics (Alder Lake)", "Xe-LP", &[], 0),
    model(0x4680, "Intel UHD Graphics 770 (Alder Lake)", "Xe-LP", &[], 0),
    model(0x46D1, "Intel UHD Graphics (Alder Lake-N)", "Xe-LP", &[], 0),
    model(0x9A49, "Intel Iris Xe Graphics (Tiger Lake)", "Xe-LP", &[], 0),
    model(0x9BC5, "Intel UHD Graphics 630 (Comet Lake)", "Gen9.5", &[], 0),
    model(0x3E92, "Intel UHD Graphics 630 (Coffee Lake)", "Gen9.5", &[], 0),
    model(0x5917, "Intel UHD Graphics 620 (Kaby Lake)", "Gen9.5", &[], 0),
];

/// The model of that id; nothing for one that is not in the table.
pub fn known(device_id: u32) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.device_id == device_id)
}

/// Every model in the table.
pub fn models() -> &'static [Model] {
    &MODELS
}

impl Model {
    /// Intel's figure of the memory's bandwidth.
    pub fn prior(&self) -> Option<Prior> {
        (self.bandwidth_gb > 0).then(|| Prior {
            bandwidth_bytes_per_second: self.bandwidth_gb * 1_000_000_000,
            source: SOURCE.to_owned(),
        })
    }

    /// The one size it is sold with; of several the one that fills the window that the card opened to the host.
    pub fn memory_bytes(&self, window_bytes: Option<u64>) -> Option<u64> {
        let bytes = |gib: &u64| gib << 30;
        match self.memory_gib {
            [one] => Some(bytes(one)),
            several => several.iter().map(bytes).find(|size| Some(*size) == window_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_once_and_a_size_that_is_not_certain_is_not_given() {
        for (index, model) in MODELS.iter().enumerate() {
            assert!(
                MODELS[..index].iter().all(|other| other.device_id != model.device_id),
                "{}",
                model.name
            );
        }
        let memory = |id, window| known(id).unwrap().memory_bytes(window);
        assert_eq!(memory(0xE20B, None), Some(12 << 30));
        assert_eq!(memory(0x56A0, Some(16 << 30)), Some(16 << 30));
        // 256 MiB is what a card opens where the firmware gives no more.
        assert_eq!(memory(0x56A0, Some(256 << 20)), None);
        assert_eq!(memory(0x7D55, Some(256 << 20)), None);
        assert_eq!(known(0x1234), None);
    }
}
