use super::*;

#[test]
fn a_text_without_a_whole_certificate_is_refused_with_what_is_wrong_and_the_limit() {
    let torn = chain("-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap_err();
    assert!(matches!(torn, CertificateError::Pem { .. }), "{torn}");
    assert!(
        torn.to_string().starts_with("certificates in PEM cannot be read: "),
        "{torn}"
    );
    let long = "x".repeat(MAX_PEM_BYTES + 1);
    assert_eq!(chain(&long[1..]), Err(CertificateError::Empty));
    let refused = chain(&long).unwrap_err();
    assert_eq!(refused, CertificateError::TooLarge { length: long.len() });
    assert_eq!(
        refused.to_string(),
        "PEM text has 262145 bytes, at most 262144 are read"
    );
}

#[test]
fn bytes_that_are_no_certificate_tell_neither_an_id_nor_dates() {
    for bytes in [&b""[..], b"no certificate", &[0x30; 64]] {
        let (id, dates) = (spiffe_id(bytes).unwrap_err(), validity(bytes).unwrap_err());
        assert!(matches!(id, CertificateError::Malformed { .. }), "{id}");
        assert_eq!(id, dates);
        assert!(id.to_string().starts_with("certificate cannot be read: "), "{id}");
    }
}
