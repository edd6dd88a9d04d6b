//! Instruction sets that really work. What `cpuid` says is what a hypervisor lets it say: some claim instructions that
//! trap, some save too little of the registers. So each is carried out once, by a forked child that may die of it.

use super::call;

/// An instruction set that the engine has kernels for, beyond those that every x86-64 has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Integers in 256 bits.
    Avx2,
    /// Multiply and add at once.
    Fma,
    /// Halves to singles and back.
    F16c,
    /// Numbers in 512 bits.
    Avx512f,
    /// Sums of products of bytes.
    Avx512Vnni,
    /// Products of tiles of bytes.
    AmxInt8,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 6] = [
        Feature::Avx2,
        Feature::Fma,
        Feature::F16c,
        Feature::Avx512f,
        Feature::Avx512Vnni,
        Feature::AmxInt8,
    ];

    /// As /proc/cpuinfo names it.
    pub fn flag(self) -> &'static str {
        match self {
            Feature::Avx2 => "avx2",
            Feature::Fma => "fma",
            Feature::F16c => "f16c",
            Feature::Avx512f => "avx512f",
            Feature::Avx512Vnni => "avx512_vnni",
            Feature::AmxInt8 => "amx_int8",
        }
    }

    /// Flags of /proc/cpuinfo that mean nothing without this one.
    fn carries(self, flag: &str) -> bool {
        match self {
            Feature::Avx512f => flag.starts_with("avx512"),
            Feature::AmxInt8 => flag.starts_with("amx"),
            other => flag == other.flag(),
        }
    }
}

/// What became of the child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It computed what it should.
    Works,
    /// It computed something else.
    Wrong,
    /// The processor or the kernel stopped it with that signal.
    Stopped(i32),
    /// It could not be tried, and why. What `cpuid` says stands.
    Untried(&'static str),
}

/// Carries the instructions out in this very process, which may die of it. True when the result is right.
/// False where this build is for another architecture.
pub fn probe_in_this_process(feature: Feature) -> bool {
    call::isa::carry_out(feature)
}

/// Carries the instructions out in a child.
pub fn probe_in_child(feature: Feature) -> Outcome {
    match call::isa::in_child(|| probe_in_this_process(feature)) {
        Some(status) => outcome(status),
        None => Outcome::Untried("no child could be started"),
    }
}

/// What the kernel's account of an ended child means. Pure.
pub fn outcome(ended: Ended) -> Outcome {
    match ended {
        Ended::Exited(0) => Outcome::Works,
        Ended::Exited(_) => Outcome::Wrong,
        Ended::Signalled(signal) => Outcome::Stopped(signal),
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With that status.
    Exited(i32),
    /// By that signal.
    Signalled(i32),
}

/// The flags among `claimed` that do not work here.
pub fn broken(claimed: &[String]) -> Vec<&'static str> {
    broken_by(claimed, probe_in_child)
}

/// The same with the trial given. Pure but for it.
pub fn broken_by(claimed: &[String], mut trial: impl FnMut(Feature) -> Outcome) -> Vec<&'static str> {
    Feature::ALL
        .into_iter()
        .filter(|feature| claimed.iter().any(|flag| flag == feature.flag()))
        .filter(|feature| matches!(trial(*feature), Outcome::Wrong | Outcome::Stopped(_)))
        .map(Feature::flag)
        .collect()
}

/// Whether a claimed flag cannot be relied on, given those that do not work.
pub fn is_void(flag: &str, broken: &[&'static str]) -> bool {
    Feature::ALL
        .into_iter()
        .any(|feature| broken.contains(&feature.flag()) && feature.carries(flag))
}

#[cfg(test)]
mod tests;
