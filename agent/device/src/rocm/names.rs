//! Names of cards by PCI id, for kernels that do not tell them.

/// Device id, revision, name. Source: libdrm's `data/amdgpu.ids`, the compute cards and those with 8 GiB or more.
const NAMES: [(u32, u32, &str); 62] = [
    (0x1586, 0xD1, "AMD Radeon 8060S Graphics"),
    (0x66A0, 0x00, "AMD Radeon Instinct MI50"),
    (0x66A1, 0x00, "AMD Radeon Instinct MI60"),
    (0x66AF, 0xC1, "AMD Radeon VII"),
    (0x6860, 0x00, "AMD Radeon Instinct MI25"),
    (0x687F, 0xC1, "AMD Radeon RX Vega 64"),
    (0x687F, 0xC3, "AMD Radeon RX Vega 56"),
    (0x731F, 0xC1, "AMD Radeon RX 5700 XT"),
    (0x731F, 0xC4, "AMD Radeon RX 5700"),
    (0x738C, 0x01, "AMD Instinct MI100"),
    (0x73A1, 0x00, "AMD Radeon Pro V620"),
    (0x73A3, 0x00, "AMD Radeon Pro W6800"),
    (0x73A5, 0xC0, "AMD Radeon RX 6950 XT"),
    (0x73AF, 0xC0, "AMD Radeon RX 6900 XT"),
    (0x73BF, 0xC0, "AMD Radeon RX 6900 XT"),
    (0x73BF, 0xC1, "AMD Radeon RX 6800 XT"),
    (0x73BF, 0xC3, "AMD Radeon RX 6800"),
    (0x73DF, 0xC0, "AMD Radeon RX 6750 XT"),
    (0x73DF, 0xC1, "AMD Radeon RX 6700 XT"),
    (0x73DF, 0xC5, "AMD Radeon RX 6700 XT"),
    (0x73EF, 0xC1, "AMD Radeon RX 6650 XT"),
    (0x73FF, 0xC1, "AMD Radeon RX 6600 XT"),
    (0x73FF, 0xC7, "AMD Radeon RX 6600"),
    (0x7408, 0x00, "AMD Instinct MI250X"),
    (0x740C, 0x01, "AMD Instinct MI250X / MI250"),
    (0x740F, 0x02, "AMD Instinct MI210"),
    (0x7448, 0x00, "AMD Radeon Pro W7900"),
    (0x7449, 0x00, "AMD Radeon Pro W7800 48GB"),
    (0x744A, 0x00, "AMD Radeon Pro W7900 Dual Slot"),
    (0x744B, 0x00, "AMD Radeon Pro W7900D"),
    (0x744C, 0xC8, "AMD Radeon RX 7900 XTX"),
    (0x744C, 0xCC, "AMD Radeon RX 7900 XT"),
    (0x744C, 0xCE, "AMD Radeon RX 7900 GRE"),
    (0x744C, 0xCF, "AMD Radeon RX 7900M"),
    (0x745E, 0xCC, "AMD Radeon Pro W7800"),
    (0x7460, 0x00, "AMD Radeon Pro V710"),
    (0x7470, 0x00, "AMD Radeon Pro W7700"),
    (0x747E, 0xC8, "AMD Radeon RX 7800 XT"),
    (0x747E, 0xFF, "AMD Radeon RX 7700 XT"),
    (0x7480, 0x00, "AMD Radeon Pro W7600"),
    (0x7480, 0xC0, "AMD Radeon RX 7600 XT"),
    (0x7480, 0xCF, "AMD Radeon RX 7600"),
    (0x74A0, 0x00, "AMD Instinct MI300A"),
    (0x74A1, 0x00, "AMD Instinct MI300X"),
    (0x74A2, 0x00, "AMD Instinct MI308X"),
    (0x74A5, 0x00, "AMD Instinct MI325X"),
    (0x74A9, 0x00, "AMD Instinct MI300X HF"),
    (0x74B5, 0x00, "AMD Instinct MI300X VF"),
    (0x74B6, 0x00, "AMD Instinct MI308X"),
    (0x7550, 0xC0, "AMD Radeon RX 9070 XT"),
    (0x7550, 0xC2, "AMD Radeon RX 9070 GRE"),
    (0x7550, 0xC3, "AMD Radeon RX 9070"),
    (0x7551, 0xC0, "AMD Radeon AI PRO R9700"),
    (0x7551, 0xC8, "AMD Radeon AI PRO R9600D"),
    (0x7590, 0xC0, "AMD Radeon RX 9060 XT"),
    (0x7590, 0xC1, "AMD Radeon RX 9060 XT LP"),
    (0x7590, 0xC7, "AMD Radeon RX 9060"),
    (0x75A0, 0x00, "AMD Instinct MI350X"),
    (0x75A3, 0x00, "AMD Instinct MI355X"),
    (0x75B0, 0x00, "AMD Instinct MI350X VF"),
    (0x75B3, 0x00, "AMD Instinct MI355X VF"),
    (0x7489, 0x00, "AMD Radeon Pro W7500"),
];

/// The name of a card that is in the table.
pub fn known(device_id: u32, revision: u32) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|&&(id, step, _)| (id, step) == (device_id, revision))
        .map(|(_, _, name)| *name)
}

/// The name of a card; for one that is not in the table its number, which is what a person can look up.
pub fn name(device_id: u32, revision: u32) -> String {
    known(device_id, revision).map_or_else(
        || format!("AMD GPU 1002:{device_id:04x} (rev {revision:02x})"),
        str::to_owned,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_tells_cards_of_one_id_apart_and_an_unknown_one_is_named_by_its_number() {
        assert_eq!(name(0x744C, 0xC8), "AMD Radeon RX 7900 XTX");
        assert_eq!(name(0x744C, 0xCC), "AMD Radeon RX 7900 XT");
        assert_eq!(name(0x744C, 0x01), "AMD GPU 1002:744c (rev 01)");
        for (index, (id, step, _)) in NAMES.iter().enumerate() {
            assert!(
                NAMES[..index].iter().all(|(i, s, _)| (i, s) != (id, step)),
                "{id:x} twice"
            );
        }
    }
}
