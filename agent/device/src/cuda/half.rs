//! Numbers of half precision, as cards keep them: one bit of sign, five of exponent, ten of fraction.

/// The nearest half, ties to even; what is too large is infinite, what is no number stays none.
pub(super) fn from_single(number: f32) -> u16 {
    let bits = number.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    // 65520 is the first number that rounds to infinity.
    if magnitude >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    // Below 2^-14 halves are 2^-24 apart: adding 0.5, whose neighbours are as far apart, rounds to them.
    if magnitude < 0x3880_0000 {
        let shifted = f32::from_bits(magnitude) + 0.5;
        return sign | (shifted.to_bits() - 0.5f32.to_bits()) as u16;
    }
    let odd = (magnitude >> 13) & 1;
    let rebased = magnitude - ((127 - 15) << 23);
    sign | ((rebased + 0xfff + odd) >> 13) as u16
}

#[cfg(test)]
mod tests;
