//! The residual stream between memory and the wire: f32 little endian, row-major, the same bytes in both.

use std::borrow::Cow;

use bytes::Bytes;
use zerocopy::{FromBytes, IntoBytes};

#[cfg(target_endian = "big")]
compile_error!("activations travel little endian, as they lie in memory");

/// Bit patterns of two values side by side: the exponents, all ones where a value is not finite, and one more than that in
/// each, which then carries into the sign.
const EXPONENTS: u64 = 0x7f80_0000_7f80_0000;
const ONE_MORE: u64 = 0x0080_0000_0080_0000;
const CARRIED: u64 = 0x8000_0000_8000_0000;

struct Values(Vec<f32>);

impl AsRef<[u8]> for Values {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Values as they travel; nothing is copied.
pub fn encode(values: Vec<f32>) -> Bytes {
    Bytes::from_owner(Values(values))
}

/// The reverse of [`encode`]; copied only where the bytes do not lie as f32 must. `None`: the length is no multiple of four, or
/// a value is not finite.
pub fn decode(encoded: &[u8]) -> Option<Cow<'_, [f32]>> {
    if !encoded.len().is_multiple_of(size_of::<f32>()) || !all_finite(encoded) {
        return None;
    }
    let in_place = <[f32]>::ref_from_bytes(encoded).ok();
    Some(in_place.map_or_else(|| Cow::Owned(copied(encoded)), Cow::Borrowed))
}

fn copied(encoded: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0_f32; encoded.len() / size_of::<f32>()];
    values.as_mut_bytes().copy_from_slice(encoded);
    values
}

/// Two values at a time, without a branch for each: this runs over every byte of a prompt.
fn all_finite(encoded: &[u8]) -> bool {
    let (pairs, last) = encoded.as_chunks::<8>();
    let carry = |bits: u64| (bits & EXPONENTS) + ONE_MORE;
    let mut seen = pairs
        .iter()
        .fold(0, |seen, pair| seen | carry(u64::from_le_bytes(*pair)));
    if let Some(last) = last.as_array::<4>() {
        seen |= carry(u64::from(u32::from_le_bytes(*last)));
    }
    seen & CARRIED == 0
}

#[cfg(test)]
mod tests;
