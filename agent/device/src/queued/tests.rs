use super::*;
use crate::fake::{Fake, Fault};

fn queued(fake: Fake) -> Queued {
    Queued::new(Box::new(fake)).unwrap()
}

#[tokio::test]
async fn a_driver_that_opens_and_does_not_list_its_devices_is_not_initialised() {
    let mut fake = Fake::new(1);
    fake.fault = Fault::FailsToList;
    let face = queued(fake);
    assert!(matches!(face.initialize().await, Err(BackendError::Lost { .. })));
    assert!(matches!(
        face.list_devices().await,
        Err(BackendError::NotInitialised { .. })
    ));
}

#[tokio::test]
async fn a_driver_that_panics_is_an_error_for_those_who_wait_and_for_those_who_come() {
    let mut fake = Fake::new(1);
    fake.fault = Fault::Panics;
    let face = queued(fake);
    face.initialize().await.unwrap();
    for _ in 0..2 {
        let outcome = face.synchronize(0).await;
        let Err(BackendError::Unavailable { reason, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(reason, "its driver's thread has ended");
    }
}

#[tokio::test]
async fn memory_that_nobody_waited_for_is_freed_before_the_next_call() {
    use futures::FutureExt;
    let face = queued(Fake::new(1));
    face.initialize().await.unwrap();
    // The driver's thread waits, so that the allocation is dropped before it is made ...
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let mut gated = Box::pin(face.open(move |_| Ok(gate.recv().is_ok())));
    assert!(gated.as_mut().now_or_never().is_none());
    let mut before = face.allocate(0, 1 << 20);
    assert!(before.as_mut().now_or_never().is_none());
    drop(before);
    // ... and another one after it was made and before it was taken.
    let mut after = face.allocate(0, 1 << 20);
    assert!(after.as_mut().now_or_never().is_none());
    go.send(()).unwrap();
    assert!(gated.await.unwrap());
    face.synchronize(0).await.unwrap();
    drop(after);
    let held = face.open(|worker| Ok(worker.book.empty().len())).await.unwrap();
    assert_eq!(held, 0);
}

#[tokio::test]
async fn a_failed_copy_leaves_its_handles_as_they_were() {
    let mut fake = Fake::new(1);
    fake.fault = Fault::FailsAt(2);
    let face = queued(fake);
    face.initialize().await.unwrap();
    let (one, other) = (face.allocate(0, 8).await.unwrap(), face.allocate(0, 8).await.unwrap());
    let copied = face.copy_device_to_device(&one, 0, &other, 0, 8).await;
    assert!(matches!(copied, Err(BackendError::Lost { .. })), "{copied:?}");
    face.deallocate(&one).await.unwrap();
    face.deallocate(&other).await.unwrap();
}
