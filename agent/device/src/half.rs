//! IEEE half precision in software: what a device is given when it asks for halves, and what the processor computes with.

/// The nearest half, ties to even; too large a number becomes infinite, and what is not a number stays that.
pub fn to_half(number: f32) -> u16 {
    let bits = number.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7FFF_FFFF;
    if magnitude > 0x7F80_0000 {
        return sign | 0x7E00;
    }
    // 65520 is half way between the largest half and what would follow it; its even neighbour is infinite.
    if magnitude >= 0x477F_F000 {
        return sign | 0x7C00;
    }
    // 2^-14, the smallest normal half: below it a half counts in steps of 2^-24, and adding 0.5 to a single of that
    // size leaves exactly those steps in its last bits, rounded by the processor.
    if magnitude < 0x3880_0000 {
        let shifted = f32::from_bits(magnitude) + 0.5;
        return sign | (shifted.to_bits() - 0.5_f32.to_bits()) as u16;
    }
    let odd = (magnitude >> 13) & 1;
    // The exponent's bias goes from 127 to 15; 0xFFF and the lowest bit that stays round to even.
    let rounded = magnitude - (112 << 23) + 0xFFF + odd;
    sign | (rounded >> 13) as u16
}

/// The same number; every half is a single.
pub fn from_half(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(half >> 10) & 0x1F, u32::from(half & 0x3FF));
    match exponent {
        // Steps of 2^-24.
        0 => {
            let magnitude = fraction as f32 * (1.0 / 16_777_216.0);
            f32::from_bits(sign | magnitude.to_bits())
        }
        0x1F => f32::from_bits(sign | 0x7F80_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

#[cfg(test)]
mod tests;
