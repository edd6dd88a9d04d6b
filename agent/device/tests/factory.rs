//! Which backend is taken, on a machine of which nothing but an empty tree is known.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use device::{Backend, BackendError, factory};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
}

#[test]
fn where_no_backend_has_a_device_the_error_says_why_of_each() {
    let root = tempfile::tempdir().unwrap();
    let refused = block_on(factory::choose(&[Backend::Rocm, Backend::Intel], root.path()));
    let Err(BackendError::Unavailable { backend, reason }) = refused else {
        panic!("a device was found below an empty root");
    };
    assert_eq!(backend, Backend::Intel, "the last that was asked");
    assert!(reason.starts_with("no backend has a device (rocm: "), "{reason}");
    assert!(reason.ends_with("intel: it only describes devices)"), "{reason}");
}

#[test]
fn every_backend_of_the_platform_answers_or_says_why_not() {
    let infos = block_on(factory::detect_available_backends(Path::new("/")));
    assert!(
        infos
            .iter()
            .any(|info| info.backend == Backend::Cpu && !info.devices.is_empty())
    );
    for info in infos {
        assert_eq!(info.devices.is_empty(), info.reason.is_some(), "{info:?}");
    }
}
