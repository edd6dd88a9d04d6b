use super::*;

#[test]
fn a_whole_number_is_one_in_every_width_and_never_below_zero() {
    let wide = [
        Value::U8(7),
        Value::U16(7),
        Value::U32(7),
        Value::U64(7),
        Value::I8(7),
        Value::I16(7),
        Value::I32(7),
        Value::I64(7),
    ];
    for number in wide {
        assert_eq!(number.as_u64(), Some(7), "{number:?}");
    }
    let none = [
        Value::I8(-1),
        Value::I16(-1),
        Value::I32(-1),
        Value::I64(-1),
        Value::F32(7.0),
        Value::F64(7.0),
        Value::Bool(true),
        Value::string("7"),
        Value::Array(Array::of_u32([7])),
    ];
    for other in none {
        assert_eq!(other.as_u64(), None, "{other:?}");
    }
}

#[test]
fn an_array_gives_its_elements_and_any_range_inside_it() {
    let floats = Array::of_f32([0.5, -1.0]);
    assert!(floats.values().eq([Value::F32(0.5), Value::F32(-1.0)]));
    let numbers = Array::of_i32([-1, 7, 9]);
    assert_eq!((numbers.len(), numbers.is_empty()), (3, false));
    assert_eq!(numbers.slice(1, 3), Some(Array::of_i32([7, 9])));
    assert_eq!(numbers.slice(3, 3), Some(Array::of_i32([])));
    assert!(numbers.slice(3, 3).is_some_and(|none| none.is_empty()));
    assert_eq!((numbers.slice(2, 1), numbers.slice(1, 4)), (None, None));
    assert_eq!(numbers.strings().count(), 0);
    let strings = Array::of_strings(["one", ""]);
    assert!(strings.strings().eq([&b"one"[..], b""]));
    assert_eq!((strings.values().count(), strings.slice(0, 1)), (0, None));
}
