use super::*;

#[test]
fn bytes_and_times_are_written_as_people_read_them() {
    assert_eq!(bytes(0), "0 B");
    assert_eq!(bytes((5 << 30) + (3 << 30) / 10), "5.2 GiB");
    assert_eq!(bytes(112 << 20), "112.0 MiB");
    assert_eq!(us(1), 1);
    assert_eq!((layers(0, 10), layers(7, 8)), ("0-9".to_owned(), "7".to_owned()));
}
