use super::*;

#[test]
fn a_pin_reads_as_a_person_would_say_it() {
    let said = |min_layers, max_layers| {
        let pin = Pin {
            backend: Some("vulkan".to_owned()),
            node: None,
            device: None,
            min_layers,
            max_layers,
        };
        pin.to_string()
    };
    assert_eq!(said(1, None), "at least 1 layer on backend vulkan");
    assert_eq!(said(2, None), "at least 2 layers on backend vulkan");
    assert_eq!(said(0, Some(1)), "at most 1 layer on backend vulkan");
    assert_eq!(said(3, Some(3)), "3 layers on backend vulkan");
    assert_eq!(said(2, Some(4)), "2-4 layers on backend vulkan");
    let everywhere = Pin {
        backend: None,
        node: Some("n".to_owned()),
        device: Some("d".to_owned()),
        min_layers: 1,
        max_layers: Some(1),
    };
    assert_eq!(everywhere.to_string(), "1 layer on node n, device d");
}
