//! How much there is, and that it comes back.

use crate::stage::{Played, Skip, Stage, pattern};
use device::{BackendError, GpuBackend, MemoryHandle};

const MIB: u64 = 1 << 20;
/// A card's driver keeps a part of what it calls free for its own tables.
const CARD_TENTHS: u64 = 9;
/// What caches of an allocator may keep of a process's memory.
const KEPT_BYTES_MAX: u64 = 64 << 20;

/// Writes and reads the first and the last mebibyte.
async fn use_ends(stage: &Stage, memory: &MemoryHandle) {
    let length = memory.size_bytes().min(MIB);
    for (seed, offset) in [(1, 0), (2, memory.size_bytes() - length)] {
        let bytes = pattern(seed, length as usize);
        stage
            .face
            .copy_to_device(memory, offset, bytes.clone().into())
            .await
            .unwrap();
        let back = stage.face.copy_from_device(memory, offset, length).await.unwrap();
        assert!(
            back == bytes,
            "bytes at {offset} of {} came back changed",
            memory.size_bytes()
        );
    }
}

pub async fn exactly_the_free_memory_is_allocated_and_usable_to_its_last_byte(stage: &Stage) -> Played {
    let free_bytes = stage.free_bytes().await;
    let memory = match stage.face.allocate(0, free_bytes).await {
        Ok(memory) => memory,
        Err(BackendError::OutOfMemory { wanted_bytes, .. }) if !stage.counts_every_byte() => {
            assert_eq!(wanted_bytes, free_bytes);
            stage.is_free_again(free_bytes).await;
            stage.face.allocate(0, free_bytes / 10 * CARD_TENTHS).await.unwrap()
        }
        Err(error) => panic!("{free_bytes} bytes are free: {error}"),
    };
    if stage.counts_every_byte() {
        assert_eq!(stage.free_bytes().await, 0);
        let more = stage.face.allocate(0, 1).await;
        assert!(
            matches!(
                more,
                Err(BackendError::OutOfMemory {
                    wanted_bytes: 1,
                    free_bytes: 0,
                    ..
                })
            ),
            "{more:?}"
        );
    }
    use_ends(stage, &memory).await;
    stage.face.deallocate(&memory).await.unwrap();
    stage.is_free_again(free_bytes).await;
    Ok(())
}

pub async fn more_than_is_free_is_refused_with_both_numbers(stage: &Stage) -> Played {
    let before = stage.free_bytes().await;
    for wanted in [before + 1, 2 * before, 1 << 50, u64::MAX] {
        match stage.face.allocate(0, wanted).await {
            Err(BackendError::OutOfMemory {
                device,
                wanted_bytes,
                free_bytes,
            }) => {
                assert_eq!(wanted_bytes, wanted);
                let exact = free_bytes == before;
                assert!(
                    exact || !stage.counts_every_byte() && free_bytes < wanted,
                    "{free_bytes} free"
                );
                assert!(device.starts_with(stage.backend.name()), "{device}");
            }
            other => panic!("{wanted} bytes: {other:?}"),
        }
    }
    stage.is_free_again(before).await;
    let memory = stage.face.allocate(0, MIB).await.unwrap();
    use_ends(stage, &memory).await;
    Ok(())
}

pub async fn fragmented_memory_serves_blocks_of_the_size_that_was_freed(stage: &Stage) -> Played {
    let mut held = Vec::new();
    for number in 0..32 {
        let memory = stage.face.allocate(0, 2 * MIB).await.unwrap();
        let bytes = pattern(number, 4096);
        stage.face.copy_to_device(&memory, MIB, bytes.into()).await.unwrap();
        held.push((number, memory));
    }
    for (_, memory) in held.extract_if(.., |(number, _)| *number % 2 == 0) {
        stage.face.deallocate(&memory).await.unwrap();
    }
    for _ in 0..16 {
        let memory = stage.face.allocate(0, 2 * MIB).await.unwrap();
        use_ends(stage, &memory).await;
    }
    for (number, memory) in held {
        let back = stage.face.copy_from_device(&memory, MIB, 4096).await.unwrap();
        assert!(back == pattern(number, 4096), "block {number} was overwritten");
    }
    Ok(())
}

pub async fn freed_memory_is_used_again(stage: &Stage) -> Played {
    let free_bytes = stage.free_bytes().await;
    // Two of them do not fit, so each needs what the one before gave back.
    let share = free_bytes / 10 * 6;
    let mut last: Option<MemoryHandle> = None;
    for _ in 0..8 {
        let memory = stage.face.allocate(0, share).await.unwrap();
        if let Some(last) = &last {
            assert_ne!(last.id(), memory.id(), "a handle is never given twice");
        }
        let second = stage.face.allocate(0, share).await;
        assert!(matches!(second, Err(BackendError::OutOfMemory { .. })), "{second:?}");
        use_ends(stage, &memory).await;
        stage.face.deallocate(&memory).await.unwrap();
        last = Some(memory);
    }
    stage.is_free_again(free_bytes).await;
    Ok(())
}

pub async fn ten_thousand_cycles_leave_nothing_behind(stage: &Stage) -> Played {
    // A first one lets allocators and drivers take what they keep for good.
    cycle(stage, 1).await;
    let (free_bytes, resident) = (stage.free_bytes().await, resident_bytes());
    for number in 0..10_000 {
        cycle(stage, number).await;
    }
    stage.is_free_again(free_bytes).await;
    let Some((before, after)) = resident.zip(resident_bytes()) else {
        return Err(Skip("/proc/self/statm is not there to be read".to_owned()));
    };
    // Cycles take 10,000 times 64 KiB to 1 MiB: a leak of any of it is gibibytes.
    assert!(
        after < before + KEPT_BYTES_MAX,
        "the process grew from {before} to {after} bytes"
    );
    Ok(())
}

async fn cycle(stage: &Stage, number: u64) {
    let size_bytes = (64 << 10) * (1 + number % 16) - number % 7;
    let memory = stage.face.allocate(0, size_bytes).await.unwrap();
    let bytes = vec![number as u8; 64];
    stage
        .face
        .copy_to_device(&memory, size_bytes - 64, bytes.into())
        .await
        .unwrap();
    stage.face.deallocate(&memory).await.unwrap();
}

fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

pub async fn zero_bytes_are_an_allocation_like_any_other(stage: &Stage) -> Played {
    let nothing = stage.face.allocate(0, 0).await.unwrap();
    let other = stage.face.allocate(0, 0).await.unwrap();
    assert_eq!(nothing.size_bytes(), 0);
    assert_ne!(nothing.id(), other.id());
    let none: Vec<u8> = Vec::new();
    stage.face.copy_to_device(&nothing, 0, none.into()).await.unwrap();
    assert!(stage.face.copy_from_device(&nothing, 0, 0).await.unwrap().is_empty());
    stage
        .face
        .copy_device_to_device(&nothing, 0, &other, 0, 0)
        .await
        .unwrap();
    let beyond = stage.face.copy_from_device(&nothing, 0, 1).await;
    assert!(matches!(beyond, Err(BackendError::OutOfBounds { .. })), "{beyond:?}");
    stage.face.deallocate(&nothing).await.unwrap();
    let again = stage.face.deallocate(&nothing).await;
    assert!(matches!(again, Err(BackendError::BadHandle { .. })), "{again:?}");
    Ok(())
}
