use proptest::prelude::*;

use super::{decode, encode};

proptest! {
    #[test]
    fn values_come_back_wherever_their_bytes_lie(values in prop::collection::vec(-1e30_f32..1e30, 0..40), offset in 0..8_usize) {
        let encoded = encode(values.clone());
        prop_assert_eq!(encoded.len(), values.len() * 4);
        let mut moved = vec![0xff; offset];
        moved.extend_from_slice(&encoded);
        let decoded = decode(&moved[offset..]).unwrap();
        prop_assert_eq!(decoded.as_ref(), values.as_slice());
    }

    #[test]
    fn what_is_refused_is_exactly_what_is_not_finite(bits in prop::collection::vec(any::<u32>(), 0..9)) {
        let finite = bits.iter().all(|bits| f32::from_bits(*bits).is_finite());
        let encoded: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        prop_assert_eq!(decode(&encoded).is_some(), finite);
    }
}

#[test]
fn a_value_that_is_not_finite_is_refused_at_every_place() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for length in 1..6 {
            for place in 0..length {
                let mut values = vec![f32::MAX; length];
                assert!(decode(&encode(values.clone())).is_some());
                values[place] = bad;
                assert_eq!(decode(&encode(values)), None, "{bad} at {place} of {length}");
            }
        }
    }
}

#[test]
fn a_length_that_is_no_multiple_of_four_is_refused() {
    assert_eq!(decode(&[0; 7]), None);
}
