//! The page of what is known of which device, made from the tables that the code goes by. `make generate` writes it.

use crate::{Prior, cuda, intel, rocm};
use std::fmt::Write as _;

/// How the facts of a kind of device came here.
struct FactSet {
    device: &'static str,
    backends: &'static str,
    tried: &'static str,
    source: &'static str,
}

/// Everything that is read from recordings, or was tried on the real thing.
const FACT_SETS: &[FactSet] = &[
    FactSet {
        device: "x86-64 processors",
        backends: "cpu",
        tried: "everything: conformance, golden product, layers split over several",
        source: "the machines that the tests run on; a server's /proc/cpuinfo (fixtures/cpuinfo-server.txt)",
    },
    FactSet {
        device: "llvmpipe (lavapipe), software Vulkan",
        backends: "vulkan",
        tried: "everything but two devices at once: conformance, golden product, layers beside the processor's",
        source: "Mesa 22.3 of Debian 12 (fixtures/vulkan-lavapipe.json)",
    },
    FactSet {
        device: "NVIDIA cards, Kepler to Blackwell",
        backends: "cuda, vulkan",
        tried: "nothing on a real card; every call through scripted libraries",
        source: "NVML's and CUDA's published interfaces",
    },
    FactSet {
        device: "NVIDIA boards with unified memory (Jetson)",
        backends: "cuda",
        tried: "nothing on a real board; through a scripted library without NVML",
        source: "CUDA's published interface",
    },
    recorded(
        "AMD Radeon RX 7900 XTX",
        include_str!("../fixtures/sysfs/rx7900xtx/SOURCE"),
    ),
    recorded("AMD Instinct MI210", include_str!("../fixtures/sysfs/mi210/SOURCE")),
    recorded(
        "AMD Radeon 8060S (Strix Halo)",
        include_str!("../fixtures/sysfs/strix-halo/SOURCE"),
    ),
    described("Intel Arc B580", include_str!("../fixtures/sysfs/arc-b580/SOURCE")),
    described("Intel Arc A770", include_str!("../fixtures/sysfs/arc-a770/SOURCE")),
    described(
        "Intel Iris Xe Graphics",
        include_str!("../fixtures/sysfs/intel-igpu/SOURCE"),
    ),
];

const fn recorded(device: &'static str, source: &'static str) -> FactSet {
    FactSet {
        device,
        backends: "rocm, vulkan",
        tried: "nothing on a real card; its files below --sysfs-root, HIP through a scripted library",
        source,
    }
}

const fn described(device: &'static str, source: &'static str) -> FactSet {
    FactSet {
        device,
        backends: "vulkan, described by intel",
        tried: "nothing on a real card; its files below --sysfs-root, Level Zero through a scripted library",
        source,
    }
}

const HEAD: &str = "\
# Devices: what is known, and from where

This page is made from the tables that the code goes by; `make generate` writes it. What a device proves itself counts
for more than anything here: it is verified by computing before it holds layers, and measured before a table is believed.

`shardwright-agent probe` prints what stands on a machine. A device that is missing here may work all the same: any
driver that Vulkan finds is tried.

## What was tried

| device | reached by | tried | facts from |
|---|---|---|---|
";

/// The whole page, in Markdown.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for set in FACT_SETS {
        let source = set.source.split_whitespace().collect::<Vec<_>>().join(" ");
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(page, "| {} | {} | {} | {source} |", set.device, set.backends, set.tried);
    }
    page.push_str("\n## AMD's generations\n\n| architecture | generation | memory |\n|---|---|---|\n");
    for (architecture, generation) in rocm::generations() {
        let memory = if generation.shares_memory {
            "the host's"
        } else {
            "its own"
        };
        let _ = writeln!(page, "| {architecture} | {} | {memory} |", generation.name);
    }
    page.push_str(
        "\n## Memory bandwidth before it was measured\n\nMakers' figures. A device for which nothing was measured is \
         planned with its figure here, marked as a prior; a name that is not here has none.\n\n\
         | model | GB/s | source |\n|---|---|---|\n",
    );
    for (model, prior) in cuda::bandwidth::priors().chain(rocm::priors()) {
        row(&mut page, "", model, &prior);
    }
    for model in intel::models() {
        if let Some(prior) = model.prior() {
            row(&mut page, "Intel ", model.name.trim_start_matches("Intel "), &prior);
        }
    }
    page
}

fn row(page: &mut String, maker: &str, model: &str, prior: &Prior) {
    let gigabytes = prior.bandwidth_bytes_per_second as f64 / 1e9;
    let _ = writeln!(page, "| {maker}{model} | {gigabytes:.0} | {} |", prior.source);
}
