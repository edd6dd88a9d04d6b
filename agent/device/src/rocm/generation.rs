//! Which family of processors a gfx name stands for.

/// A family as AMD names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// `RDNA 3`.
    pub name: &'static str,
    /// The processors sit beside the CPU's and use the host's memory.
    pub shares_memory: bool,
}

/// Sources: LLVM's AMDGPU usage guide, table "AMDGPU Processors" (architecture and whether a processor is an APU), and
/// AMD's "Accelerator and GPU hardware specifications" of ROCm's documentation (names of the generations).
const GENERATIONS: [(&str, &str, bool); 44] = [
    ("gfx700", "GCN 2", true),
    ("gfx701", "GCN 2", false),
    ("gfx702", "GCN 2", false),
    ("gfx703", "GCN 2", true),
    ("gfx704", "GCN 2", false),
    ("gfx705", "GCN 2", true),
    ("gfx801", "GCN 3", true),
    ("gfx802", "GCN 3", false),
    ("gfx803", "GCN 3 or 4", false),
    ("gfx810", "GCN 3", true),
    ("gfx900", "GCN 5", false),
    ("gfx902", "GCN 5", true),
    ("gfx904", "GCN 5", false),
    ("gfx906", "GCN 5.1", false),
    ("gfx908", "CDNA", false),
    ("gfx909", "GCN 5", true),
    ("gfx90a", "CDNA 2", false),
    ("gfx90c", "GCN 5", true),
    ("gfx940", "CDNA 3", false),
    ("gfx941", "CDNA 3", false),
    ("gfx942", "CDNA 3", false),
    ("gfx950", "CDNA 4", false),
    ("gfx1010", "RDNA", false),
    ("gfx1011", "RDNA", false),
    ("gfx1012", "RDNA", false),
    ("gfx1013", "RDNA", true),
    ("gfx1030", "RDNA 2", false),
    ("gfx1031", "RDNA 2", false),
    ("gfx1032", "RDNA 2", false),
    ("gfx1033", "RDNA 2", true),
    ("gfx1034", "RDNA 2", false),
    ("gfx1035", "RDNA 2", true),
    ("gfx1036", "RDNA 2", true),
    ("gfx1037", "RDNA 2", true),
    ("gfx1100", "RDNA 3", false),
    ("gfx1101", "RDNA 3", false),
    ("gfx1102", "RDNA 3", false),
    ("gfx1103", "RDNA 3", true),
    ("gfx1150", "RDNA 3.5", true),
    ("gfx1151", "RDNA 3.5", true),
    ("gfx1152", "RDNA 3.5", true),
    ("gfx1153", "RDNA 3.5", true),
    ("gfx1200", "RDNA 4", false),
    ("gfx1201", "RDNA 4", false),
];

/// PCI ids of MI300A, whose gfx name is that of the card MI300X.
const MI300A: [u32; 1] = [0x74A0];

/// The family; nothing for a name that is not known.
pub fn generation(architecture: &str, device_id: u32) -> Option<Generation> {
    GENERATIONS
        .iter()
        .find(|(gfx, ..)| *gfx == architecture)
        .map(|&(_, name, shares_memory)| Generation {
            name,
            shares_memory: shares_memory || MI300A.contains(&device_id),
        })
}

/// Every gfx name that is known, with its family.
pub fn generations() -> impl Iterator<Item = (&'static str, Generation)> {
    GENERATIONS
        .iter()
        .map(|&(gfx, name, shares_memory)| (gfx, Generation { name, shares_memory }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_apart_and_names_come_once() {
        let name = |gfx: &str| generation(gfx, 0).map(|generation| generation.name);
        assert_eq!(name("gfx1100"), Some("RDNA 3"));
        assert_eq!(name("gfx90a"), Some("CDNA 2"));
        assert_eq!(name("gfx906"), Some("GCN 5.1"));
        assert_eq!(name("gfx9999"), None);
        for (index, (gfx, ..)) in GENERATIONS.iter().enumerate() {
            assert!(
                GENERATIONS[..index].iter().all(|(other, ..)| other != gfx),
                "{gfx} twice"
            );
        }
    }

    #[test]
    fn processors_beside_the_cpu_share_its_memory() {
        let shares = |gfx, id| generation(gfx, id).unwrap().shares_memory;
        assert!(shares("gfx1151", 0x1586) && shares("gfx942", 0x74A0));
        assert!(!shares("gfx942", 0x74A1) && !shares("gfx1100", 0x744C));
    }
}
