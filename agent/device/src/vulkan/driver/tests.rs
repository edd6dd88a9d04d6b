use super::*;
use crate::driver::Precision;
use crate::vulkan::call::session::Limits;

fn call(result: vk::Result) -> CallError {
    CallError::Failed {
        call: "vkQueueSubmit",
        result,
    }
}

#[test]
fn a_lost_device_and_one_that_does_not_finish_are_lost_and_other_failures_are_named() {
    let lost = failed(2, call(vk::Result::ERROR_DEVICE_LOST));
    assert!(
        matches!(&lost, BackendError::Lost { device, .. } if device == "vulkan2"),
        "{lost}"
    );
    let stuck = failed(0, call(vk::Result::TIMEOUT));
    assert!(stuck.to_string().contains("did not finish within 10 s"), "{stuck}");
    let other = failed(0, call(vk::Result::ERROR_TOO_MANY_OBJECTS));
    assert!(
        matches!(
            other,
            BackendError::Failed {
                call: "vkQueueSubmit",
                ..
            }
        ),
        "{other}"
    );
}

#[test]
fn numbers_are_padded_with_zeros_to_whole_tiles_in_both_precisions() {
    let numbers = [1.0, -2.0, 0.5, 4.0];
    let singles = product::bytes_of(&numbers, 2, 3, Precision::F32);
    let expected: Vec<u8> = [1.0, -2.0, 0.0, 0.5, 4.0, 0.0, 0.0, 0.0, 0.0_f32]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    assert_eq!(singles, expected);
    let halves = product::bytes_of(&numbers, 2, 2, Precision::F16);
    assert_eq!(halves, [0x00, 0x3C, 0x00, 0xC0, 0x00, 0x38, 0x00, 0x44]);
}

#[test]
fn a_product_that_the_device_cannot_do_is_named() {
    let limits = Limits {
        allocation_bytes: 1 << 31,
        storage_bytes: 128 << 20,
        kernels: true,
        halves: false,
    };
    assert_eq!(product::beyond(limits, Precision::F32, 2048), None);
    assert!(product::beyond(limits, Precision::F16, 64).is_some_and(|what| what.contains("half")));
    assert!(product::beyond(limits, Precision::F32, 8192).is_some_and(|what| what.contains("size")));
    let old = Limits {
        kernels: false,
        ..limits
    };
    assert!(product::beyond(old, Precision::F32, 64).is_some_and(|what| what.contains("1.1")));
}
