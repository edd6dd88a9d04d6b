//! Who may reach which memory.

use crate::stage::{Played, Skip, Stage, another, pattern};
use device::{Backend, BackendError, GpuBackend, MemoryHandle};
use std::sync::Arc;

fn is_bad<T: std::fmt::Debug>(outcome: Result<T, BackendError>, handle: &MemoryHandle) {
    match outcome {
        Err(BackendError::BadHandle { handle: named, .. }) => assert_eq!(named, handle.id()),
        other => panic!("{other:?}"),
    }
}

/// Every call that takes a handle refuses it.
async fn is_out_of_reach(stage: &Stage, handle: &MemoryHandle) {
    let own = stage.face.allocate(0, 64).await.unwrap();
    let bytes: Arc<[u8]> = vec![1; 8].into();
    is_bad(stage.face.copy_to_device(handle, 0, bytes).await, handle);
    is_bad(stage.face.copy_from_device(handle, 0, 8).await, handle);
    is_bad(stage.face.copy_device_to_device(handle, 0, &own, 0, 8).await, handle);
    is_bad(stage.face.copy_device_to_device(&own, 0, handle, 0, 8).await, handle);
    is_bad(stage.face.deallocate(handle).await, handle);
    stage.face.deallocate(&own).await.unwrap();
}

pub async fn memory_is_freed_once(stage: &Stage) -> Played {
    let free_bytes = stage.free_bytes().await;
    let memory = stage.face.allocate(0, 4096).await.unwrap();
    let neighbour = stage.face.allocate(0, 4096).await.unwrap();
    stage.face.deallocate(&memory).await.unwrap();
    is_bad(stage.face.deallocate(&memory).await, &memory);
    is_bad(stage.face.deallocate(&memory.clone()).await, &memory);
    stage.face.deallocate(&neighbour).await.unwrap();
    stage.is_free_again(free_bytes).await;
    Ok(())
}

pub async fn freed_memory_is_out_of_reach(stage: &Stage) -> Played {
    let memory = stage.face.allocate(0, 4096).await.unwrap();
    stage.face.deallocate(&memory).await.unwrap();
    // Most likely at the same address.
    let heir = stage.face.allocate(0, 4096).await.unwrap();
    let bytes = pattern(3, 4096);
    stage.face.copy_to_device(&heir, 0, bytes.clone().into()).await.unwrap();
    is_out_of_reach(stage, &memory).await;
    assert!(stage.face.copy_from_device(&heir, 0, 4096).await.unwrap() == bytes);
    Ok(())
}

pub async fn memory_of_another_backend_is_refused(stage: &Stage) -> Played {
    let other = match stage.backend {
        Backend::Cpu => Backend::Vulkan,
        _ => Backend::Cpu,
    };
    let other = another(other, &stage.root)
        .await
        .map_err(|Skip(reason)| Skip(format!("no other backend: {reason}")))?;
    let foreign = other.allocate(0, 4096).await.unwrap();
    is_out_of_reach(stage, &foreign).await;
    other.deallocate(&foreign).await.unwrap();
    other.shutdown().await.unwrap();
    Ok(())
}

pub async fn memory_of_another_instance_is_refused(stage: &Stage) -> Played {
    let other = another(stage.backend, &stage.root).await?;
    let foreign = other.allocate(0, 4096).await.unwrap();
    is_out_of_reach(stage, &foreign).await;
    other.deallocate(&foreign).await.unwrap();
    other.shutdown().await.unwrap();
    Ok(())
}

pub async fn a_device_that_is_not_there_is_named_with_their_count(stage: &Stage) -> Played {
    let devices = stage.devices.len();
    for absent in [devices as u32, u32::MAX] {
        let is_absent = |error: BackendError| match error {
            BackendError::NoSuchDevice { backend, device, count } => {
                assert_eq!((backend, device, count), (stage.backend, absent, devices));
            }
            other => panic!("{other}"),
        };
        is_absent(stage.face.get_device(absent).await.unwrap_err());
        is_absent(stage.face.allocate(absent, 1).await.unwrap_err());
        is_absent(stage.face.allocate(absent, 0).await.unwrap_err());
        is_absent(stage.face.synchronize(absent).await.unwrap_err());
        is_absent(stage.face.memory_info(absent).await.unwrap_err());
        is_absent(stage.face.temperature(absent).await.unwrap_err());
        is_absent(stage.face.power_usage(absent).await.unwrap_err());
        is_absent(stage.face.clock_rate(absent).await.unwrap_err());
    }
    Ok(())
}

pub async fn copies_beyond_the_end_change_nothing(stage: &Stage) -> Played {
    const SIZE: u64 = 1000;
    let memory = stage.face.allocate(0, SIZE).await.unwrap();
    let other = stage.face.allocate(0, SIZE).await.unwrap();
    let bytes = pattern(4, SIZE as usize);
    stage
        .face
        .copy_to_device(&memory, 0, bytes.clone().into())
        .await
        .unwrap();
    stage
        .face
        .copy_to_device(&other, 0, bytes.clone().into())
        .await
        .unwrap();
    let leaves = |outcome: Result<(), BackendError>, offset: u64, length: u64| match outcome {
        Err(BackendError::OutOfBounds {
            offset: named,
            bytes,
            size_bytes,
        }) => assert_eq!((named, bytes, size_bytes), (offset, length, SIZE)),
        other => panic!("{other:?}"),
    };
    for (offset, length) in [(0, SIZE + 1), (SIZE - 1, 2), (SIZE + 1, 0), (u64::MAX, 2)] {
        let zeros: Arc<[u8]> = vec![0; length as usize].into();
        let face = &stage.face;
        leaves(face.copy_to_device(&memory, offset, zeros).await, offset, length);
        let read = face.copy_from_device(&memory, offset, length).await;
        leaves(read.map(drop), offset, length);
        let from = face.copy_device_to_device(&memory, offset, &other, 0, length).await;
        leaves(from, offset, length);
        // The source is asked first: where it is too short as well, it is the one that is named.
        if length <= SIZE {
            let to = face.copy_device_to_device(&other, 0, &memory, offset, length).await;
            leaves(to, offset, length);
        }
    }
    for memory in [&memory, &other] {
        assert!(stage.face.copy_from_device(memory, 0, SIZE).await.unwrap() == bytes);
    }
    Ok(())
}

pub async fn shutdown_frees_what_is_still_held(stage: &Stage) -> Played {
    let free_bytes = stage.free_bytes().await;
    let mut held = Vec::new();
    for size_bytes in [0, 1, 4096, 16 << 20] {
        held.push(stage.face.allocate(0, size_bytes).await.unwrap());
    }
    stage.face.shutdown().await.unwrap();
    stage.face.shutdown().await.unwrap();
    let closed = stage.face.deallocate(&held[2]).await;
    assert!(matches!(closed, Err(BackendError::NotInitialised { .. })), "{closed:?}");
    stage.face.initialize().await.unwrap();
    stage.is_free_again(free_bytes).await;
    for memory in &held {
        is_bad(stage.face.deallocate(memory).await, memory);
    }
    Ok(())
}

pub async fn before_it_is_initialised_a_backend_does_nothing(stage: &Stage) -> Played {
    let held = stage.face.allocate(0, 64).await.unwrap();
    stage.face.shutdown().await.unwrap();
    let closed = |error: BackendError| {
        let backend = stage.backend;
        assert_eq!(error, BackendError::NotInitialised { backend });
    };
    let bytes: Arc<[u8]> = vec![1; 8].into();
    closed(stage.face.list_devices().await.unwrap_err());
    closed(stage.face.get_device(0).await.unwrap_err());
    closed(stage.face.allocate(0, 64).await.unwrap_err());
    closed(stage.face.copy_to_device(&held, 0, bytes).await.unwrap_err());
    closed(stage.face.copy_from_device(&held, 0, 8).await.unwrap_err());
    closed(
        stage
            .face
            .copy_device_to_device(&held, 0, &held, 8, 8)
            .await
            .unwrap_err(),
    );
    closed(stage.face.synchronize(0).await.unwrap_err());
    closed(stage.face.memory_info(0).await.unwrap_err());
    stage.face.initialize().await.unwrap();
    stage.face.initialize().await.unwrap();
    assert_eq!(stage.face.list_devices().await.unwrap().len(), stage.devices.len());
    Ok(())
}
