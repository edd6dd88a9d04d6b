use super::*;

#[test]
fn sizes_are_short_and_in_binary_units() {
    assert_eq!(size(0), "0 B");
    assert_eq!(size(1023), "1023 B");
    assert_eq!(size(1536), "1.5 KiB");
    assert_eq!(size(1000 << 20), "1.0 GiB");
    assert_eq!(size(85 << 20), "85.0 MiB");
    assert_eq!(size(5 << 50), "5120.0 TiB");
}

#[test]
fn a_line_tells_share_speed_and_rest() {
    let shown = line("hashing", 1 << 30, 4 << 30, Duration::from_secs(10));
    assert_eq!(shown, "hashing: 25 % of 4.0 GiB, 102.4 MiB/s, 30 s left");
    let shown = line("hashing", 0, 0, Duration::ZERO);
    assert_eq!(shown, "hashing: 0 % of 0 B, 0 B/s, 0 s left");
    let shown = line("hashing", 1 << 20, 1 << 30, Duration::from_secs(10));
    assert!(shown.ends_with("2 h 50 min left"), "{shown}");
}
