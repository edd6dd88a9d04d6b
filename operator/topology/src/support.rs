//! Which weights a backend computes: reviewed from ggml's own answers (`supports_op` of a matrix product) in the version that
//! workers are built with. A device whose backend has no kernel would hold such layers in host memory and compute them there, at
//! another speed than placement reckons with. What is not in the table is allowed, and shows at loading.

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

#[cfg(test)]
mod tests {
    use super::refuses;

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
