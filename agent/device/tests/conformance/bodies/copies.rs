//! Bytes arrive, all of them, and nowhere else.

use crate::stage::{Played, Skip, Stage, pattern};
use device::{GpuBackend, MemoryHandle};

/// Sizes and offsets that fit no alignment, and some that fit all.
const ODD: [(u64, u64); 8] = [
    (1, 0),
    (1, 4095),
    (3, 1),
    (4097, 63),
    (65_537, 4093),
    (4096, 4096),
    ((1 << 20) + 1, 7),
    (3_000_001, 999_999),
];
const SIZE: u64 = 4 << 20;

async fn filled(stage: &Stage, device: u32, seed: u32) -> (MemoryHandle, Vec<u8>) {
    let memory = stage.face.allocate(device, SIZE).await.unwrap();
    let bytes = pattern(seed, SIZE as usize);
    stage
        .face
        .copy_to_device(&memory, 0, bytes.clone().into())
        .await
        .unwrap();
    (memory, bytes)
}

async fn holds(stage: &Stage, memory: &MemoryHandle, expected: &[u8], what: &str) {
    let back = stage
        .face
        .copy_from_device(memory, 0, expected.len() as u64)
        .await
        .unwrap();
    let first = back.iter().zip(expected).position(|(x, y)| x != y);
    assert_eq!(first, None, "{what}: that byte differs");
}

pub async fn unaligned_sizes_and_offsets_arrive_whole(stage: &Stage) -> Played {
    let (memory, mut expected) = filled(stage, 0, 1).await;
    for (length, offset) in ODD {
        let bytes = pattern(length as u32, length as usize);
        expected[offset as usize..][..length as usize].copy_from_slice(&bytes);
        stage
            .face
            .copy_to_device(&memory, offset, bytes.clone().into())
            .await
            .unwrap();
        let back = stage.face.copy_from_device(&memory, offset, length).await.unwrap();
        assert!(back == bytes, "{length} bytes at {offset}");
    }
    holds(stage, &memory, &expected, "beside what was written").await;
    for size_bytes in [1, 3, 255, 4097, 1_000_003] {
        let memory = stage.face.allocate(0, size_bytes).await.unwrap();
        let bytes = pattern(9, size_bytes as usize);
        stage
            .face
            .copy_to_device(&memory, 0, bytes.clone().into())
            .await
            .unwrap();
        holds(stage, &memory, &bytes, "an odd size").await;
    }
    Ok(())
}

async fn between(stage: &Stage, from: u32, to: u32) {
    let (source, sent) = filled(stage, from, 5).await;
    let (target, mut expected) = filled(stage, to, 6).await;
    for (number, (length, offset)) in ODD.into_iter().enumerate() {
        // From another offset than to.
        let start = (number as u64 * 12_347) % (SIZE - length);
        expected[offset as usize..][..length as usize].copy_from_slice(&sent[start as usize..][..length as usize]);
        stage
            .face
            .copy_device_to_device(&source, start, &target, offset, length)
            .await
            .unwrap();
    }
    holds(stage, &target, &expected, "the target").await;
    holds(stage, &source, &sent, "the source").await;
    stage.face.deallocate(&source).await.unwrap();
    stage.face.deallocate(&target).await.unwrap();
}

pub async fn copies_between_memories_of_one_device_arrive_whole_at_their_offsets(stage: &Stage) -> Played {
    for device in 0..stage.devices.len() as u32 {
        between(stage, device, device).await;
    }
    Ok(())
}

pub async fn copies_between_two_devices_arrive_whole_at_their_offsets(stage: &Stage) -> Played {
    let count = stage.devices.len() as u32;
    if count < 2 {
        return Err(Skip("it has one device".to_owned()));
    }
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            between(stage, from, to).await;
        }
    }
    Ok(())
}

pub async fn overlapping_copies_arrive_as_if_through_a_third_memory(stage: &Stage) -> Played {
    const LENGTH: u64 = 3_000_001;
    let (memory, mut expected) = filled(stage, 0, 7).await;
    for (from, to) in [(0, 1), (1, 0), (5, 900_000), (900_000, 5), (17, 17)] {
        expected.copy_within(from..from + LENGTH as usize, to);
        stage
            .face
            .copy_device_to_device(&memory, from as u64, &memory, to as u64, LENGTH)
            .await
            .unwrap();
        holds(stage, &memory, &expected, &format!("{from} to {to}")).await;
    }
    Ok(())
}
