use super::*;
use crate::error::Fault;

/// An index that no test's environment names, and no machine has.
const ABSENT: u32 = 99;

fn gpu(backend: &str) -> Device {
    Device::Gpu {
        backend: backend.to_owned(),
        index: ABSENT,
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_processor_that_lacks_instructions_is_refused_with_their_names_and_what_to_use_instead() {
    assert!(have_all(&[("AVX", true), ("FMA", true)]).is_ok());
    let error = have_all(&[("AVX", true), ("AVX2", false), ("FMA", false)]).unwrap_err();
    assert_eq!(error.fault(), Fault::Cpu);
    assert_eq!(
        error.to_string(),
        "this processor lacks AVX2, FMA: the engine needs x86-64-v3; use a node that has it"
    );
}

#[test]
fn a_backend_that_is_not_there_is_refused_with_where_it_was_looked_for_and_how_to_make_it() {
    let folder = tempfile::tempdir().unwrap();
    let folders = [folder.path().to_owned()];
    let error = load_module(&folders, "nonesuch").unwrap_err();
    assert_eq!(error.fault(), Fault::Device);
    let said = error.to_string();
    let module = folder.path().join("libggml-nonesuch.so");
    for part in [
        format!("backend nonesuch: there is no {};", module.display()),
        "hack/build-backend.sh nonesuch".to_owned(),
        BACKEND_DIR_VARIABLE.to_owned(),
    ] {
        assert!(said.contains(&part), "{part} in {said}");
    }
    let error = load_module(&folders, "../nonesuch").unwrap_err().to_string();
    assert!(error.contains("that is not a backend's name"), "{error}");
}

#[test]
fn a_device_that_is_not_there_is_refused_with_those_that_are() {
    let runtime = Runtime::load_for(None, &Device::Cpu { threads: 1 }).unwrap();
    let error = runtime.missing_operators(&gpu("cuda")).unwrap_err();
    assert!(matches!(error, EngineError::DeviceUnavailable { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Device);
    let found = runtime.devices().remove(0).name;
    let said = error.to_string();
    assert!(
        said.starts_with("cuda device 99 is not there; found: ") && said.contains(&found),
        "{said}"
    );
}

#[test]
fn a_vulkan_device_that_was_not_named_to_the_process_is_refused_with_how_to_name_it() {
    let error = Runtime::load_for(None, &gpu("vulkan")).unwrap_err();
    assert!(matches!(error, EngineError::DeviceNotSelected { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Device);
    let said = error.to_string();
    assert!(said.starts_with("Vulkan device 99 was not selected"), "{said}");
    let remedy = format!("start the process with {VULKAN_DEVICES_VARIABLE}=99");
    assert!(said.ends_with(&remedy), "{said}");
}

fn group(backend: &str, members: usize) -> Device {
    Device::Group {
        backend: backend.to_owned(),
        indices: vec![ABSENT; members],
    }
}

#[test]
fn a_group_of_fewer_than_two_devices_or_more_than_eight_is_refused() {
    let runtime = Runtime::load_for(None, &Device::Cpu { threads: 1 }).unwrap();
    for members in [0, 1, 9] {
        let error = runtime.accelerators(&group("cuda", members)).unwrap_err();
        assert_eq!(error.fault(), Fault::Config, "{error}");
        let said = error.to_string();
        assert!(
            said.contains(&format!("a group of {members} devices: it must have 2 to 8")),
            "{said}"
        );
    }
    let error = runtime.accelerators(&group("cuda", 2)).unwrap_err();
    assert!(matches!(error, EngineError::DeviceUnavailable { .. }), "{error}");
}

#[test]
fn a_group_of_vulkan_devices_must_be_named_to_the_process_with_all_its_members() {
    let group = group("vulkan", 2);
    assert_eq!((group.backend(), group.members()), ("vulkan", 2));
    let said = Runtime::load_for(None, &group).unwrap_err().to_string();
    assert!(said.ends_with(&format!("{VULKAN_DEVICES_VARIABLE}=99,99")), "{said}");
    assert!(is_selected("cuda", &[0, 1]), "they need not be");
    assert_eq!(Device::Cpu { threads: 4 }.members(), 1);
}
