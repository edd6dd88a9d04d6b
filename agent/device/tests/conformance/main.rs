//! One suite for every backend. A body is written once, against [`device::GpuBackend`], and runs for each backend whose
//! driver opens on this machine; else it prints `SKIPPED: <backend>: <reason>`. Every run prints a line for the matrix of
//! `make test-devices`: `MATRIX <backend> <body> <pass, FAILED, or skipped: reason>`, separated by tabs.

#![allow(clippy::unwrap_used, reason = "a body that cannot go on has failed")]

mod bodies;
mod stage;

use device::Backend;

/// The bodies of one backend.
macro_rules! suite {
    ($module:ident, $backend:expr, $($area:ident :: $body:ident),+ $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $body() {
                    crate::stage::run($backend, stringify!($body), |stage| {
                        Box::pin(crate::bodies::$area::$body(stage))
                    });
                }
            )+
        }
    };
}

/// Every body for every backend that computes.
macro_rules! suites {
    ($($area:ident :: $body:ident),+ $(,)?) => {
        suite!(cpu, super::Backend::Cpu, $($area::$body),+);
        suite!(vulkan, super::Backend::Vulkan, $($area::$body),+);
        suite!(cuda, super::Backend::Cuda, $($area::$body),+);
        suite!(rocm, super::Backend::Rocm, $($area::$body),+);
    };
}

suites!(
    memory::exactly_the_free_memory_is_allocated_and_usable_to_its_last_byte,
    memory::more_than_is_free_is_refused_with_both_numbers,
    memory::fragmented_memory_serves_blocks_of_the_size_that_was_freed,
    memory::freed_memory_is_used_again,
    memory::ten_thousand_cycles_leave_nothing_behind,
    memory::zero_bytes_are_an_allocation_like_any_other,
    handles::memory_is_freed_once,
    handles::freed_memory_is_out_of_reach,
    handles::memory_of_another_backend_is_refused,
    handles::memory_of_another_instance_is_refused,
    handles::a_device_that_is_not_there_is_named_with_their_count,
    handles::copies_beyond_the_end_change_nothing,
    handles::shutdown_frees_what_is_still_held,
    handles::before_it_is_initialised_a_backend_does_nothing,
    copies::unaligned_sizes_and_offsets_arrive_whole,
    copies::copies_between_memories_of_one_device_arrive_whole_at_their_offsets,
    copies::copies_between_two_devices_arrive_whole_at_their_offsets,
    copies::overlapping_copies_arrive_as_if_through_a_third_memory,
    order::a_thousand_interleaved_calls_happen_in_the_order_asked,
    order::a_dropped_copy_is_whole_or_never_began,
    order::a_dropped_allocation_is_freed,
    facts::devices_say_what_they_are,
    facts::readings_are_believable_or_absent,
    facts::every_device_is_verified,
    facts::every_device_is_measured,
);
