//! What NVIDIA says of the memory of its cards, from Kepler to Blackwell: a first guess until a card was measured. Each
//! row is of one kind of memory on one kind of board, because a name that is shorter than the board's is not the board:
//! "A100-SXM4-80GB" and "A100-SXM4-40GB" differ, and a laptop's part shares only its name with the desktop's card.

use crate::Prior;

/// A board whose memory NVIDIA has published.
struct Row {
    /// The words that its name consists of, without those of [`DECORATION`].
    name: &'static str,
    /// In 10⁹ bytes per second, as published.
    gigabytes_per_second: u64,
    /// The document that has the figure.
    source: &'static str,
}

const fn row(name: &'static str, gigabytes_per_second: u64, source: &'static str) -> Row {
    Row {
        name,
        gigabytes_per_second,
        source,
    }
}

/// Words that a driver's name of a board may have or lack without being another board: the maker, the family and the
/// kind of memory (where that makes a difference, the row's name says the size).
const DECORATION: &[&str] = &[
    "nvidia", "tesla", "geforce", "quadro", "graphics", "hbm2", "hbm2e", "hbm3", "hbm3e",
];

/// Data centre, then workstation, then consumer; the newest last.
const TABLE: &[Row] = &[
    // Kepler, Maxwell. Where a board has several GPUs the row is for one, which is what a driver shows.
    row("K20X", 250, "NVIDIA Tesla K20X GPU accelerator board specification"),
    row("K20Xm", 250, "NVIDIA Tesla K20X GPU accelerator board specification"),
    row("K20m", 208, "NVIDIA Tesla K20 GPU accelerator board specification"),
    row("K40m", 288, "NVIDIA Tesla K40 GPU accelerator board specification"),
    row("K40c", 288, "NVIDIA Tesla K40 GPU accelerator board specification"),
    row(
        "K80",
        240,
        "NVIDIA Tesla K80 GPU accelerator board specification (480 GB/s for its two GPUs)",
    ),
    row("M4", 88, "NVIDIA Tesla M4 GPU accelerator datasheet"),
    row("M40", 288, "NVIDIA Tesla M40 GPU accelerator datasheet"),
    row("M40 24GB", 288, "NVIDIA Tesla M40 GPU accelerator datasheet"),
    row("M60", 160, "NVIDIA Tesla M60 GPU accelerator datasheet (2 x 160 GB/s)"),
    // Pascal, Volta, Turing.
    row("P4", 192, "NVIDIA Tesla P4 GPU accelerator datasheet"),
    row("P40", 346, "NVIDIA Tesla P40 GPU accelerator datasheet"),
    row("P100-PCIE-12GB", 549, "NVIDIA Tesla P100 GPU accelerator datasheet"),
    row("P100-PCIE-16GB", 732, "NVIDIA Tesla P100 GPU accelerator datasheet"),
    row("P100-SXM2-16GB", 732, "NVIDIA Tesla P100 GPU accelerator datasheet"),
    row("V100-PCIE-16GB", 900, "NVIDIA V100 Tensor Core GPU datasheet"),
    row("V100-PCIE-32GB", 900, "NVIDIA V100 Tensor Core GPU datasheet"),
    row("V100-SXM2-16GB", 900, "NVIDIA V100 Tensor Core GPU datasheet"),
    row("V100-SXM2-32GB", 900, "NVIDIA V100 Tensor Core GPU datasheet"),
    row("V100-SXM3-32GB", 981, "NVIDIA DGX-2 datasheet"),
    row("V100S-PCIE-32GB", 1134, "NVIDIA V100 Tensor Core GPU datasheet (V100S)"),
    row("T4", 320, "NVIDIA T4 Tensor Core GPU datasheet"),
    // Ampere, Ada.
    row("A2", 200, "NVIDIA A2 Tensor Core GPU datasheet"),
    row("A10", 600, "NVIDIA A10 Tensor Core GPU datasheet"),
    row("A10G", 600, "Amazon EC2 G5 instances: NVIDIA A10G Tensor Core GPU"),
    row("A16", 200, "NVIDIA A16 datasheet (4 x 200 GB/s)"),
    row("A30", 933, "NVIDIA A30 Tensor Core GPU datasheet"),
    row("A40", 696, "NVIDIA A40 datasheet"),
    row("A100-PCIE-40GB", 1555, "NVIDIA A100 Tensor Core GPU datasheet"),
    row("A100-SXM4-40GB", 1555, "NVIDIA A100 Tensor Core GPU datasheet"),
    row("A100 80GB PCIe", 1935, "NVIDIA A100 Tensor Core GPU datasheet"),
    row("A100-SXM4-80GB", 2039, "NVIDIA A100 Tensor Core GPU datasheet"),
    row("A800-SXM4-80GB", 2039, "NVIDIA A800 Tensor Core GPU datasheet"),
    row("L4", 300, "NVIDIA L4 Tensor Core GPU datasheet"),
    row("L40", 864, "NVIDIA L40 GPU datasheet"),
    row("L40S", 864, "NVIDIA L40S GPU datasheet"),
    // Hopper, Blackwell.
    row(
        "H100 PCIe",
        2000,
        "NVIDIA H100 Tensor Core GPU datasheet (2022: PCIe, 2 TB/s)",
    ),
    row(
        "H100 80GB",
        3350,
        "NVIDIA H100 Tensor Core GPU datasheet (SXM, 3.35 TB/s)",
    ),
    row(
        "H100 NVL",
        3900,
        "NVIDIA H100 Tensor Core GPU datasheet (NVL, 3.9 TB/s)",
    ),
    row("H800", 3350, "NVIDIA H800 Tensor Core GPU datasheet (SXM, 3.35 TB/s)"),
    row(
        "H800 PCIe",
        2000,
        "NVIDIA H800 Tensor Core GPU datasheet (PCIe, 2 TB/s)",
    ),
    row("H20", 4000, "NVIDIA H20 Tensor Core GPU datasheet (4.0 TB/s)"),
    row("H200", 4800, "NVIDIA H200 Tensor Core GPU datasheet (4.8 TB/s)"),
    row("H200 NVL", 4800, "NVIDIA H200 Tensor Core GPU datasheet (4.8 TB/s)"),
    row(
        "GH200 480GB",
        4000,
        "NVIDIA GH200 Grace Hopper Superchip datasheet (96 GB HBM3, 4 TB/s)",
    ),
    row("B200", 8000, "NVIDIA DGX B200 datasheet (64 TB/s for its eight GPUs)"),
    row("GB200", 8000, "NVIDIA GB200 NVL72 datasheet (16 TB/s for its two GPUs)"),
    row("B300", 8000, "NVIDIA DGX B300 datasheet (8 TB/s each)"),
    row("GB10", 273, "NVIDIA DGX Spark datasheet (unified memory)"),
    // Workstations.
    row("P6000", 432, "NVIDIA Quadro P6000 datasheet"),
    row("RTX 8000", 672, "NVIDIA Quadro RTX 8000 datasheet"),
    row("RTX 6000", 672, "NVIDIA Quadro RTX 6000 datasheet"),
    row("RTX A4000", 448, "NVIDIA RTX A4000 datasheet"),
    row("RTX A5000", 768, "NVIDIA RTX A5000 datasheet"),
    row("RTX A6000", 768, "NVIDIA RTX A6000 datasheet"),
    row(
        "RTX 4000 SFF Ada Generation",
        280,
        "NVIDIA RTX 4000 SFF Ada Generation datasheet",
    ),
    row(
        "RTX 4000 Ada Generation",
        360,
        "NVIDIA RTX 4000 Ada Generation datasheet",
    ),
    row(
        "RTX 5000 Ada Generation",
        576,
        "NVIDIA RTX 5000 Ada Generation datasheet",
    ),
    row(
        "RTX 6000 Ada Generation",
        960,
        "NVIDIA RTX 6000 Ada Generation datasheet",
    ),
    row(
        "RTX PRO 6000 Blackwell Workstation Edition",
        1792,
        "NVIDIA RTX PRO 6000 Blackwell datasheet",
    ),
    row(
        "RTX PRO 6000 Blackwell Server Edition",
        1597,
        "NVIDIA RTX PRO 6000 Blackwell Server Edition datasheet",
    ),
    // Consumers.
    row("GTX TITAN Black", 336, "NVIDIA GeForce GTX TITAN Black specifications"),
    row("GTX 780 Ti", 336, "NVIDIA GeForce GTX 780 Ti specifications"),
    row("GTX 980", 224, "NVIDIA GeForce GTX 980 specifications"),
    row("GTX 980 Ti", 336, "NVIDIA GeForce GTX 980 Ti specifications"),
    row("GTX 1060 6GB", 192, "NVIDIA GeForce GTX 1060 specifications"),
    row("GTX 1070", 256, "NVIDIA GeForce GTX 1070 specifications"),
    row("GTX 1080", 320, "NVIDIA GeForce GTX 1080 specifications"),
    row("GTX 1080 Ti", 484, "NVIDIA GeForce GTX 1080 Ti specifications"),
    row("TITAN Xp", 547, "NVIDIA TITAN Xp specifications"),
    row("TITAN V", 653, "NVIDIA TITAN V specifications"),
    row("TITAN RTX", 672, "NVIDIA TITAN RTX specifications"),
    row("RTX 2060", 336, "NVIDIA GeForce RTX 2060 specifications"),
    row("RTX 2070", 448, "NVIDIA GeForce RTX 2070 specifications"),
    row("RTX 2080", 448, "NVIDIA GeForce RTX 2080 specifications"),
    row("RTX 2080 Ti", 616, "NVIDIA GeForce RTX 2080 Ti specifications"),
    row("RTX 3070", 448, "NVIDIA GeForce RTX 3070 specifications"),
    row("RTX 3070 Ti", 608, "NVIDIA GeForce RTX 3070 Ti specifications"),
    row("RTX 3090", 936, "NVIDIA GeForce RTX 3090 specifications"),
    row("RTX 3090 Ti", 1008, "NVIDIA GeForce RTX 3090 Ti specifications"),
    row("RTX 4060", 272, "NVIDIA GeForce RTX 4060 specifications"),
    row("RTX 4060 Ti", 288, "NVIDIA GeForce RTX 4060 Ti specifications"),
    row("RTX 4070 Ti", 504, "NVIDIA GeForce RTX 4070 Ti specifications"),
    row("RTX 4080", 717, "NVIDIA GeForce RTX 4080 specifications"),
    row("RTX 4080 SUPER", 736, "NVIDIA GeForce RTX 4080 SUPER specifications"),
    row("RTX 4090", 1008, "NVIDIA GeForce RTX 4090 specifications"),
    row("RTX 5070", 672, "NVIDIA GeForce RTX 5070 specifications"),
    row("RTX 5070 Ti", 896, "NVIDIA GeForce RTX 5070 Ti specifications"),
    row("RTX 5080", 960, "NVIDIA GeForce RTX 5080 specifications"),
    row("RTX 5090", 1792, "NVIDIA GeForce RTX 5090 specifications"),
];

/// NVIDIA's figure for a board of that name; nothing where the table has not that very board. A slice of a card has a
/// share of the card's paths to memory that its name does not tell, so it has none either.
pub fn prior(model: &str) -> Option<Prior> {
    let asked = words(model);
    let row = TABLE.iter().find(|row| words(row.name) == asked)?;
    Some(row.prior())
}

/// Every board in the table, as NVIDIA's drivers name it.
pub fn priors() -> impl Iterator<Item = (&'static str, Prior)> {
    TABLE.iter().map(|row| (row.name, row.prior()))
}

impl Row {
    fn prior(&self) -> Prior {
        Prior {
            bandwidth_bytes_per_second: self.gigabytes_per_second * 1_000_000_000,
            source: self.source.to_owned(),
        }
    }
}

/// A name as the words that make it this board and no other. A family's name counts where it is all there is.
fn words(name: &str) -> Vec<String> {
    name.split_whitespace()
        .map(str::to_lowercase)
        .filter(|word| !DECORATION.contains(&word.as_str()))
        .collect()
}

#[cfg(test)]
mod tests;
