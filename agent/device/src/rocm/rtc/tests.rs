use super::*;

/// With the real compiler, which needs no card. Only architectures that ROCm 5 knows: its compiler takes the process down
/// over others.
#[test]
fn the_real_compiler_takes_the_kernels_for_every_generation_that_it_knows() {
    let Some(rtc) = [7, 6, 5].into_iter().find_map(|major| Rtc::open(major).ok()) else {
        println!("SKIPPED: no hipRTC here");
        return;
    };
    for architecture in ["gfx900", "gfx906", "gfx908", "gfx90a", "gfx1010", "gfx1030"] {
        let code = rtc.compile(architecture).expect(architecture);
        assert!(code.bytes().len() > 1000, "{architecture}");
    }
}
