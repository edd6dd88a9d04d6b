use super::*;

#[test]
fn numbers_that_follow_each_other_become_ranges() {
    assert_eq!(runs(&[1, 2, 3, 7, 9, 10]), "1-3, 7, 9-10");
    assert_eq!(runs(&[4, 8, 12]), "4, 8, 12");
    assert_eq!(ranges(&[5, 5, 5, 7, 5]), "0-2: 5 B each; 3: 7 B; 4: 5 B");
}

#[test]
fn parameters_are_counted_in_millions_and_thousands_of_them() {
    assert_eq!(count(12), "12");
    assert_eq!(count(134_515_008), "134.5 M");
    assert_eq!(count(8_030_261_248), "8.0 G");
}
