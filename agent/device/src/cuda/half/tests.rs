use super::*;

fn to_single(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((half >> 10) & 31);
    let fraction = f32::from(half & 0x3ff);
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        exponent => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

#[test]
fn every_half_comes_back_from_the_single_that_it_is() {
    for half in 0..=u16::MAX {
        let single = to_single(half);
        if single.is_nan() {
            assert_eq!(from_single(single) & 0x7c00, 0x7c00);
            assert_ne!(from_single(single) & 0x03ff, 0);
        } else {
            assert_eq!(from_single(single), half, "{half:#06x} is {single}");
        }
    }
}

#[test]
fn what_lies_between_goes_to_the_nearer_half_and_ties_to_the_even_one() {
    for half in 0..0x7bffu16 {
        let (low, high) = (to_single(half), to_single(half + 1));
        let middle = f64::midpoint(f64::from(low), f64::from(high)) as f32;
        let even = if half & 1 == 0 { half } else { half + 1 };
        assert_eq!(from_single(middle), even, "between {low} and {high}");
        assert_eq!(from_single(middle.next_down()), half);
        assert_eq!(from_single(middle.next_up()), half + 1);
    }
}

#[test]
fn what_is_too_large_is_infinite() {
    assert_eq!(from_single(65519.9), 0x7bff);
    assert_eq!(from_single(65520.0), 0x7c00);
    assert_eq!(from_single(-1e30), 0xfc00);
    assert_eq!(from_single(f32::INFINITY), 0x7c00);
}
