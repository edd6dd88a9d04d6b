//! Which weights and which architectures a device computes. A device without a kernel would have such layers computed by the
//! processor, at another speed than placement reckons with.
//!
//! Weights: reviewed from ggml's own answers (`supports_op` of a matrix product) in the version that workers are built with. What is
//! not in the table is allowed, and shows at loading.
//!
//! Architectures: what operators they need is from llama.cpp's graphs (`src/models` of that version); whether a device has them its
//! backend is asked by a worker. Where nobody asked yet, the table of backends counts, from the same `supports_op`.

/// Backends and quantisations, as files name them, that they have no kernels for; a `*` at the end stands for any ending.
const WITHOUT_KERNEL: &[(&str, &[&str])] = &[
    ("cuda", &["TQ*"]),
    ("rocm", &["TQ*"]),
    ("sycl", &["TQ*"]),
    (
        "opencl",
        &["TQ*", "IQ1*", "IQ2*", "IQ3*", "IQ4_XS", "Q2_K*", "Q3_K*", "NVFP4"],
    ),
];

/// Why a device of this backend takes no layers of a model so quantised; reads on after the device's name. `None` where it does, or
/// nothing is known.
pub fn refuses(backend: &str, quantisation: &str) -> Option<String> {
    let (_, without) = WITHOUT_KERNEL.iter().find(|(known, _)| *known == backend)?;
    let matches = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(begin) => quantisation.starts_with(begin),
        None => quantisation == *pattern,
    };
    without
        .iter()
        .any(matches)
        .then(|| format!("computes no {quantisation} weights: backend {backend} has no kernel for them"))
}

/// Architectures and the operators that they need beside those that every backend has: of each group one is enough.
const NEEDS: &[(&[&str], &[&[&str]])] = &[
    (&["mamba", "jamba"], &[&["SSM_CONV"], &["SSM_SCAN_MAMBA1"]]),
    (
        &["mamba2", "falcon-h1", "granitehybrid", "nemotron_h", "nemotron_h_moe"],
        &[&["SSM_CONV"], &["SSM_SCAN_MAMBA2"]],
    ),
    // They have no scan.
    (&["lfm2", "lfm2moe"], &[&["SSM_CONV"]]),
    // Where the fused operator is missing, llama.cpp computes it from others, of which this one is rare.
    (
        &["qwen3next", "qwen35", "qwen35moe", "kimi-linear"],
        &[&["SSM_CONV"], &["GATED_DELTA_NET", "SOLVE_TRI"]],
    ),
    (&["rwkv6"], &[&["RWKV_WKV6"]]),
    (&["rwkv6qwen2"], &[&["GATED_LINEAR_ATTN"]]),
    (&["rwkv7", "arwkv7"], &[&["RWKV_WKV7"]]),
];

/// Backends and operators that none of their devices has.
const WITHOUT_OPERATOR: &[(&str, &[&str])] = &[
    ("vulkan", &["SSM_SCAN_MAMBA1"]),
    ("sycl", &["SSM_SCAN_MAMBA1"]),
    ("metal", &["GATED_LINEAR_ATTN"]),
    ("opencl", &["RWKV_WKV6", "RWKV_WKV7", "GATED_LINEAR_ATTN"]),
];

/// Why a device takes no layers of an architecture; reads on after the device's name. `missing`: operators that it lacks by its
/// backend's own answer, if it was asked. `None` where it takes them, or the architecture needs nothing unusual.
pub fn lacks(backend: &str, missing: Option<&[String]>, architecture: &str) -> Option<String> {
    let (_, needs) = NEEDS.iter().find(|(known, _)| known.contains(&architecture))?;
    let lacks = |operator: &&str| match missing {
        Some(missing) => missing.iter().any(|name| name == operator),
        None => {
            let mut backends = WITHOUT_OPERATOR.iter();
            backends.any(|(known, without)| *known == backend && without.contains(operator))
        }
    };
    let group = needs.iter().find(|group| group.iter().all(lacks))?;
    Some(format!(
        "computes no {architecture} models: backend {backend} has no kernel for {} here (another backend's device may, a CPU does)",
        group.join(" or ")
    ))
}

#[cfg(test)]
mod tests {
    use super::{lacks, refuses};

    #[test]
    fn an_architecture_is_refused_by_what_the_backend_says_and_else_by_the_table() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            lacks("vulkan", None, "mamba").as_deref(),
            Some(
                "computes no mamba models: backend vulkan has no kernel for SSM_SCAN_MAMBA1 here \
                 (another backend's device may, a CPU does)"
            )
        );
        // A newer backend may have what the table says it has not, and one card lack what others have.
        assert_eq!(lacks("vulkan", Some(&[]), "mamba"), None);
        assert!(lacks("vulkan", Some(&names(&["SSM_SCAN_MAMBA2"])), "nemotron_h").is_some());
        assert_eq!(lacks("vulkan", Some(&names(&["SSM_SCAN_MAMBA2"])), "mamba"), None);
        // Of two ways one is enough.
        assert_eq!(lacks("cuda", Some(&names(&["GATED_DELTA_NET"])), "qwen3next"), None);
        let neither = lacks("cuda", Some(&names(&["SOLVE_TRI", "GATED_DELTA_NET"])), "qwen3next");
        assert!(neither.is_some_and(|why| why.contains("GATED_DELTA_NET or SOLVE_TRI")));
        for (backend, architecture) in [
            ("vulkan", "llama"),
            ("vulkan", "mamba2"),
            ("cuda", "rwkv7"),
            ("cpu", "mamba"),
            ("unheard-of", "rwkv6"),
            ("opencl", ""),
        ] {
            assert_eq!(lacks(backend, None, architecture), None, "{backend} {architecture}");
        }
        assert_eq!(lacks("vulkan", Some(&names(&["SSM_SCAN_MAMBA1"])), "llama"), None);
    }

    #[test]
    fn only_what_is_known_to_have_no_kernel_is_refused() {
        assert_eq!(
            refuses("opencl", "IQ3_XXS").as_deref(),
            Some("computes no IQ3_XXS weights: backend opencl has no kernel for them")
        );
        assert!(refuses("cuda", "TQ1_0").is_some());
        for (backend, quantisation) in [
            ("cpu", "TQ1_0"),
            ("vulkan", "IQ3_XXS"),
            ("cuda", "Q4_K_M"),
            ("opencl", "IQ4_NL"),
            ("opencl", "Q4_0"),
            ("unheard-of", "Q4_0"),
            ("cuda", ""),
        ] {
            assert_eq!(refuses(backend, quantisation), None, "{backend} {quantisation}");
        }
    }
}
