//! Instructions that may not be there, and the child that finds out.
#![allow(clippy::needless_range_loop)]

use crate::cpu::isa::{Ended, Feature};

/// Seconds after which the kernel ends the child: instructions take nanoseconds.
const CHILD_LIMIT_S: u32 = 2;

/// Runs `trial` in a forked child. It may call nothing that takes a lock or allocates: other threads' locks stay locked
/// in the child. Nothing where no child could be had or waited for.
pub(crate) fn in_child(trial: impl FnOnce() -> bool) -> Option<Ended> {
    // SAFETY: between fork and _exit the child calls only setrlimit, alarm and the trial, none of which takes a lock or
    // allocates; it never returns into the code of its parent.
    unsafe {
        let child = libc::fork();
        if child < 0 {
            return None;
        }
        if child == 0 {
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // A trap shall not leave a core file.
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            libc::alarm(CHILD_LIMIT_S);
            libc::_exit(if trial() { 0 } else { 1 });
        }
        let mut status = 0;
        loop {
            let waited = libc::waitpid(child, &mut status, 0);
            if waited == child {
                break;
            }
            if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                return None;
            }
        }
        Some(if libc::WIFEXITED(status) {
            Ended::Exited(libc::WEXITSTATUS(status))
        } else {
            Ended::Signalled(libc::WTERMSIG(status))
        })
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn carry_out(_feature: Feature) -> bool {
    false
}

/// True when the instructions are carried out and their result is right. A processor without them ends the process.
#[cfg(target_arch = "x86_64")]
pub(crate) fn carry_out(feature: Feature) -> bool {
    // SAFETY: the caller accepts that the process ends where the instructions are missing; each function touches only
    // its own memory and the registers that it declares.
    unsafe {
        match feature {
            Feature::Avx2 => avx2(),
            Feature::Fma => fma(),
            Feature::F16c => f16c(),
            Feature::Avx512f => avx512f(),
            Feature::Avx512Vnni => avx512_vnni(),
            Feature::AmxInt8 => amx_int8(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
use x86::{amx_int8, avx2, avx512_vnni, avx512f, f16c, fma};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    /// Doubles eight integers.
    pub(super) unsafe fn avx2() -> bool {
        let numbers: [i32; 8] = [1, -2, 3, -4, 5, -6, 7, -8];
        let mut sums = [0_i32; 8];
        // SAFETY: reads and writes 32 bytes of the arrays; the caller answers for the instruction.
        unsafe {
            asm!(
                "vmovdqu ymm0, [{from}]", "vpaddd ymm0, ymm0, ymm0", "vmovdqu [{to}], ymm0", "vzeroupper",
                from = in(reg) numbers.as_ptr(), to = in(reg) sums.as_mut_ptr(), out("ymm0") _, options(nostack)
            );
        }
        sums == numbers.map(|number| 2 * number)
    }

    /// x·x + x of eight numbers.
    pub(super) unsafe fn fma() -> bool {
        let numbers: [f32; 8] = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0];
        let mut sums = [0_f32; 8];
        // SAFETY: as `avx2`.
        unsafe {
            asm!(
                "vmovups ymm0, [{from}]", "vfmadd213ps ymm0, ymm0, ymm0", "vmovups [{to}], ymm0", "vzeroupper",
                from = in(reg) numbers.as_ptr(), to = in(reg) sums.as_mut_ptr(), out("ymm0") _, options(nostack)
            );
        }
        sums == numbers.map(|number| number * number + number)
    }

    /// Eight halves to singles.
    pub(super) unsafe fn f16c() -> bool {
        let halves: [u16; 8] = [0x3C00, 0xC000, 0x3800, 0x0000, 0x4400, 0x3E00, 0xBC00, 0x7BFF];
        let mut singles = [0_f32; 8];
        // SAFETY: reads 16 bytes and writes 32; the caller answers for the instruction.
        unsafe {
            asm!(
                "vcvtph2ps ymm0, [{from}]", "vmovups [{to}], ymm0", "vzeroupper",
                from = in(reg) halves.as_ptr(), to = in(reg) singles.as_mut_ptr(), out("ymm0") _, options(nostack)
            );
        }
        singles == [1.0, -2.0, 0.5, 0.0, 4.0, 1.5, -1.0, 65504.0]
    }

    /// Doubles sixteen numbers.
    pub(super) unsafe fn avx512f() -> bool {
        let mut numbers = [0_f32; 16];
        for place in 0..16 {
            numbers[place] = place as f32 - 7.5;
        }
        let mut sums = [0_f32; 16];
        // SAFETY: reads and writes 64 bytes of the arrays; the caller answers for the instruction.
        unsafe {
            asm!(
                "vmovups zmm0, [{from}]", "vaddps zmm0, zmm0, zmm0", "vmovups [{to}], zmm0", "vzeroupper",
                from = in(reg) numbers.as_ptr(), to = in(reg) sums.as_mut_ptr(), out("xmm0") _, options(nostack)
            );
        }
        sums == numbers.map(|number| 2.0 * number)
    }

    /// Sums of four products of 3 and -2 in each of sixteen places.
    pub(super) unsafe fn avx512_vnni() -> bool {
        let (threes, twos) = ([3_u8; 64], [-2_i8; 64]);
        let mut sums = [0_i32; 16];
        // SAFETY: as `avx512f`.
        unsafe {
            asm!(
                "vmovdqu64 zmm0, [{sums}]", "vmovdqu64 zmm1, [{threes}]", "vpdpbusd zmm0, zmm1, [{twos}]",
                "vmovdqu64 [{sums}], zmm0", "vzeroupper",
                threes = in(reg) threes.as_ptr(), twos = in(reg) twos.as_ptr(), sums = in(reg) sums.as_mut_ptr(),
                out("xmm0") _, out("xmm1") _, options(nostack)
            );
        }
        sums == [-24; 16]
    }

    /// The kernel gives tiles to those who ask (Documentation/arch/x86/xstate.rst).
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;

    /// One product of two tiles of 16 rows of 64 bytes.
    pub(super) unsafe fn amx_int8() -> bool {
        // Palette 1; three tiles, each 16 rows of 64 bytes (Intel SDM vol. 1, 18.2).
        let mut shape = [0_u8; 64];
        shape[0] = 1;
        for tile in 0..3 {
            shape[16 + 2 * tile] = 64;
            shape[48 + tile] = 16;
        }
        let (threes, twos) = ([3_i8; 1024], [-2_i8; 1024]);
        let mut sums = [0_i32; 256];
        // SAFETY: the tiles are loaded from and stored to arrays of 1 KiB with a stride of 64 bytes; the caller answers
        // for the instructions.
        unsafe {
            if libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0 {
                return false;
            }
            asm!(
                "ldtilecfg [{shape}]", "tilezero tmm0", "tileloadd tmm1, [{threes} + {stride}]",
                "tileloadd tmm2, [{twos} + {stride}]", "tdpbssd tmm0, tmm1, tmm2",
                "tilestored [{sums} + {stride}], tmm0", "tilerelease",
                shape = in(reg) shape.as_ptr(), threes = in(reg) threes.as_ptr(), twos = in(reg) twos.as_ptr(),
                sums = in(reg) sums.as_mut_ptr(), stride = in(reg) 64_usize, options(nostack)
            );
        }
        sums == [64 * -6; 256]
    }
}

/// An instruction that no processor has, for tests.
#[cfg(test)]
pub(crate) fn trap() {
    // SAFETY: it ends the process, which is what it is for.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("ud2", options(nomem, nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("udf #0", options(nomem, nostack));
    }
}
