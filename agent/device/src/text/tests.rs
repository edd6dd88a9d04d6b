use super::*;

#[test]
fn real_names_stay_as_they_are() {
    for name in [
        "NVIDIA H100 80GB HBM3",
        "llvmpipe (LLVM 15.0.6, 256 bits)",
        "AMD Radeon™ Pro W7900",
    ] {
        assert_eq!(clean(name), name);
    }
    assert_eq!(clean("  padded \n"), "padded");
}

#[test]
fn what_would_move_or_hide_is_replaced_and_what_is_endless_is_cut() {
    assert_eq!(clean("a\u{1b}[2Jb\0c\u{202e}d"), "a?[2Jb?c?d");
    assert_eq!(clean(&"x".repeat(1 << 20)).len(), CHARACTERS_MAX);
    assert_eq!(clean(""), "");
}
