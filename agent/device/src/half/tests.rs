use super::*;

#[test]
fn every_half_survives_the_way_through_a_single() {
    for half in 0..=u16::MAX {
        let single = from_half(half);
        if single.is_nan() {
            assert!(from_half(to_half(single)).is_nan());
        } else {
            assert_eq!(to_half(single), half, "{single}");
        }
    }
}

#[test]
fn known_numbers_have_the_bits_that_the_standard_gives_them() {
    for (number, bits) in [
        (1.0, 0x3C00),
        (-2.0, 0xC000),
        (65504.0, 0x7BFF),
        (65519.9, 0x7BFF),
        (65520.0, 0x7C00),
        (f32::INFINITY, 0x7C00),
        (-1e30, 0xFC00),
        (0.000_060_975_55, 0x03FF),
        (5.960_464_5e-8, 0x0001),
        (1e-9, 0x0000),
        (-0.0, 0x8000),
        (0.1, 0x2E66),
    ] {
        assert_eq!(to_half(number), bits, "{number}");
    }
}

#[test]
fn what_lies_half_way_goes_to_the_even_neighbour() {
    for half in 0..0x7BFF_u16 {
        let (low, high) = (from_half(half), from_half(half + 1));
        let even = if half % 2 == 0 { half } else { half + 1 };
        let middle = (low + high) / 2.0;
        assert_eq!(to_half(middle), even, "between {low} and {high}");
        assert_eq!(to_half(middle.next_down()), half);
        assert_eq!(to_half(middle.next_up()), half + 1);
    }
}
