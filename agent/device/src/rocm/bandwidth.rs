//! What AMD says of the memory bandwidth of its cards: a prior, until the card was measured.

use crate::Prior;

/// Width of the memory's bus in bits and bits per second on each of its lines, whose product is the bandwidth.
struct Memory {
    model: &'static str,
    bus_bits: u64,
    line_megabits: u64,
}

const SOURCE: &str = "AMD's product specifications (memory interface × data rate)";

const fn memory(model: &'static str, bus_bits: u64, line_megabits: u64) -> Memory {
    Memory {
        model,
        bus_bits,
        line_megabits,
    }
}

/// Names as drivers give them, "AMD" left out. Of MI250 and MI250X each half is a device of its own.
const MEMORIES: [Memory; 51] = [
    memory("Instinct MI355X", 8192, 8000),
    memory("Instinct MI350X", 8192, 8000),
    memory("Instinct MI325X", 8192, 6000),
    memory("Instinct MI300X", 8192, 5200),
    memory("Instinct MI300X VF", 8192, 5200),
    memory("Instinct MI300A", 8192, 5200),
    memory("Instinct MI250X", 4096, 3200),
    memory("Instinct MI250", 4096, 3200),
    memory("Instinct MI250X / MI250", 4096, 3200),
    memory("Instinct MI250X/MI250", 4096, 3200),
    memory("Instinct MI210", 4096, 3200),
    memory("Instinct MI100", 4096, 2400),
    memory("Radeon Instinct MI60", 4096, 2000),
    memory("Radeon Instinct MI50", 4096, 2000),
    memory("Radeon Instinct MI25", 2048, 1890),
    memory("Radeon VII", 4096, 2000),
    memory("Radeon RX Vega 64", 2048, 1890),
    memory("Radeon RX Vega 56", 2048, 1600),
    memory("Radeon AI PRO R9700", 256, 20_000),
    memory("Radeon RX 9070 XT", 256, 20_000),
    memory("Radeon RX 9070", 256, 20_000),
    memory("Radeon RX 9070 GRE", 192, 18_000),
    memory("Radeon RX 9060 XT", 128, 20_000),
    memory("Radeon RX 9060", 128, 18_000),
    memory("Radeon Pro W7900", 384, 18_000),
    memory("Radeon Pro W7900 Dual Slot", 384, 18_000),
    memory("Radeon Pro W7800", 256, 18_000),
    memory("Radeon Pro W7800 48GB", 384, 18_000),
    memory("Radeon Pro W7700", 256, 18_000),
    memory("Radeon Pro W7600", 128, 18_000),
    memory("Radeon RX 7900 XTX", 384, 20_000),
    memory("Radeon RX 7900 XT", 320, 20_000),
    memory("Radeon RX 7900 GRE", 256, 18_000),
    memory("Radeon RX 7900M", 256, 18_000),
    memory("Radeon RX 7800 XT", 256, 19_500),
    memory("Radeon RX 7700 XT", 192, 18_000),
    memory("Radeon RX 7600 XT", 128, 18_000),
    memory("Radeon RX 7600", 128, 18_000),
    memory("Radeon Pro W6800", 256, 16_000),
    memory("Radeon Pro V620", 256, 16_000),
    memory("Radeon RX 6950 XT", 256, 18_000),
    memory("Radeon RX 6900 XT", 256, 16_000),
    memory("Radeon RX 6800 XT", 256, 16_000),
    memory("Radeon RX 6800", 256, 16_000),
    memory("Radeon RX 6750 XT", 192, 18_000),
    memory("Radeon RX 6700 XT", 192, 16_000),
    memory("Radeon RX 6600 XT", 128, 16_000),
    memory("Radeon RX 6600", 128, 14_000),
    memory("Radeon RX 5700 XT", 256, 14_000),
    memory("Radeon RX 5700", 256, 14_000),
    // The widest memory that Strix Halo is sold with; the maker of the board decides.
    memory("Radeon 8060S Graphics", 256, 8000),
];

/// The prior of a card by its name; nothing for a name that is not in the table, never that of a similar one.
pub fn prior(model: &str) -> Option<Prior> {
    let model = model.trim();
    let name = match model.get(..4) {
        Some(start) if start.eq_ignore_ascii_case("amd ") => model[4..].trim_start(),
        _ => model,
    };
    MEMORIES
        .iter()
        .find(|memory| memory.model.eq_ignore_ascii_case(name))
        .map(Memory::prior)
}

/// Every model in the table, with its prior.
pub fn priors() -> impl Iterator<Item = (&'static str, Prior)> {
    MEMORIES.iter().map(|memory| (memory.model, memory.prior()))
}

impl Memory {
    fn prior(&self) -> Prior {
        Prior {
            bandwidth_bytes_per_second: self.bus_bits / 8 * self.line_megabits * 1_000_000,
            source: SOURCE.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gigabytes(model: &str) -> Option<u64> {
        prior(model).map(|prior| prior.bandwidth_bytes_per_second / 1_000_000_000)
    }

    #[test]
    fn the_products_of_width_and_rate_are_the_figures_that_amd_prints() {
        // Printed: 960 GB/s, 5.3 TB/s, 1.6 TB/s, 1.2 TB/s, 640 GB/s, 624.1 GB/s, 256 GB/s.
        assert_eq!(gigabytes("AMD Radeon RX 7900 XTX"), Some(960));
        assert_eq!(gigabytes("AMD Instinct MI300X"), Some(5324));
        assert_eq!(gigabytes("AMD INSTINCT MI210"), Some(1638));
        assert_eq!(gigabytes("AMD Instinct MI100"), Some(1228));
        assert_eq!(gigabytes("Radeon RX 9070 XT"), Some(640));
        assert_eq!(gigabytes("AMD Radeon RX 7800 XT"), Some(624));
        assert_eq!(gigabytes("AMD Radeon 8060S Graphics"), Some(256));
    }

    #[test]
    fn a_similar_name_has_no_prior() {
        for unknown in [
            "AMD Radeon RX 7900",
            "Radeon Graphics",
            "",
            "é",
            "AMD",
            "AMD Radeon RX 7900 XTXX",
        ] {
            assert_eq!(gigabytes(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn models_come_once() {
        for (index, memory) in MEMORIES.iter().enumerate() {
            let before = &MEMORIES[..index];
            assert!(
                before.iter().all(|other| other.model != memory.model),
                "{} twice",
                memory.model
            );
        }
    }
}
