use super::*;
use device::{Backend, Kind};

const UUID: &str = "8f2c1a90-0b1c-4a5e-9d52-0f6f6a3a9b11";

fn plugin(vendor: Vendor, name: &str) -> Option<Identity> {
    Identity::of_plugin(vendor, name, &Aliases::default())
}

fn card(uuid: Option<&str>, address: Option<&str>) -> Identity {
    Identity::of_device(&GpuDevice {
        uuid: uuid.map(str::to_owned),
        pci_address: address.map(str::to_owned),
        ..GpuDevice::new(Backend::Cuda, 0, Kind::Discrete)
    })
}

#[test]
fn nvidias_names_are_the_drivers_uuids_with_or_without_a_replica() {
    let whole = format!("GPU-{UUID}");
    let ours = card(Some(&whole), None);
    for name in [whole.clone(), format!("{whole}::3"), whole.to_uppercase()] {
        let theirs = plugin(Vendor::Nvidia, &name).unwrap();
        assert_eq!(theirs.matches(&ours), Match::Same, "{name}");
    }
    let bare = card(Some(UUID), None);
    assert_eq!(
        bare.matches(&ours),
        Match::Same,
        "Vulkan gives the same UUID without a prefix"
    );
    let other = plugin(Vendor::Nvidia, "GPU-00000000-0b1c-4a5e-9d52-0f6f6a3a9b11").unwrap();
    assert_eq!(other.matches(&ours), Match::Different);
}

#[test]
fn two_slices_of_a_card_are_two_devices_and_a_slice_is_not_apart_from_its_card() {
    let slice = |name: &str| plugin(Vendor::Nvidia, name).unwrap();
    let (one, two) = (
        slice(&format!("MIG-{UUID}")),
        slice("MIG-11111111-0b1c-4a5e-9d52-0f6f6a3a9b11"),
    );
    assert_eq!(one.matches(&one), Match::Same);
    assert_eq!(one.matches(&two), Match::Different);
    assert_eq!(
        one.matches(&card(Some(&format!("GPU-{UUID}")), None)),
        Match::CannotTell,
        "the name of a slice does not tell its card"
    );
    let old = slice(&format!("MIG-GPU-{UUID}/7/0"));
    assert_eq!(
        old.matches(&card(Some(&format!("GPU-{UUID}")), None)),
        Match::Same,
        "older names do"
    );
    assert_eq!(old.matches(&slice(&format!("MIG-GPU-{UUID}/8/0"))), Match::Different);
    let claimed = Identity::of_attributes(
        Some("MIG-22222222-0b1c-4a5e-9d52-0f6f6a3a9b11"),
        Some(&format!("GPU-{UUID}")),
        None,
    );
    assert_eq!(
        claimed.matches(&card(Some(UUID), None)),
        Match::Same,
        "so do DRA's attributes"
    );
}

#[test]
fn addresses_are_compared_whatever_the_length_of_their_domain() {
    let amd = plugin(Vendor::Amd, "0000:3b:00.0").unwrap();
    assert_eq!(amd.matches(&card(None, Some("00000000:3B:00.0"))), Match::Same);
    assert_eq!(amd.matches(&card(None, Some("0000:3b:00.1"))), Match::Different);
    assert_eq!(amd.matches(&card(Some(UUID), None)), Match::CannotTell);
    let slice = plugin(Vendor::Amd, "0000:3b:00.0-slice-2").unwrap();
    assert_eq!(slice.matches(&amd), Match::Same);
}

#[test]
fn names_that_say_nothing_are_nobodys() {
    for (vendor, name) in [
        (Vendor::Nvidia, ""),
        (Vendor::Nvidia, "GPU-"),
        (Vendor::Nvidia, "GPU-zzzzzzzz-0b1c"),
        (Vendor::Nvidia, "MIG-../../etc/passwd"),
        (Vendor::Nvidia, "nvidia9"),
        (Vendor::Nvidia, "nvidia"),
        (Vendor::Nvidia, "::::"),
        (Vendor::Amd, "amdgpu_xcp_3"),
        (Vendor::Amd, "-slice-"),
        (Vendor::Amd, "0000:3b:00"),
        (Vendor::Amd, "0000:3b:00.0:1"),
        (Vendor::Amd, "+000:3b:00.0"),
        (Vendor::Intel, "card-0"),
        (Vendor::Intel, "\u{0}\u{7f}"),
    ] {
        assert_eq!(plugin(vendor, name), None, "{name:?}");
    }
    assert_eq!(plugin(Vendor::Nvidia, &"a".repeat(1 << 20)), None);
}

proptest::proptest! {
    #[test]
    fn no_name_brings_the_agent_down(name in ".{0,300}", vendor in 0..3_u8) {
        let vendor = [Vendor::Nvidia, Vendor::Amd, Vendor::Intel][usize::from(vendor)];
        if let Some(identity) = plugin(vendor, &name) {
            proptest::prop_assert_eq!(identity.matches(&identity), Match::Same);
        }
    }
}
