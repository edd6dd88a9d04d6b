//! What happens when, and what becomes of calls that nobody waits for.

use crate::stage::{Played, Stage, pattern};
use device::{BackendError, GpuBackend};
use futures::FutureExt;
use futures::future::join_all;
use std::pin::Pin;

type Call<'a> = Pin<Box<dyn Future<Output = Result<Option<Vec<u8>>, BackendError>> + Send + 'a>>;

pub async fn a_thousand_interleaved_calls_happen_in_the_order_asked(stage: &Stage) -> Played {
    const SIZE: usize = 64 << 10;
    let memories = [
        stage.face.allocate(0, SIZE as u64).await.unwrap(),
        stage.face.allocate(0, SIZE as u64).await.unwrap(),
    ];
    let mut model = [vec![0_u8; SIZE], vec![0_u8; SIZE]];
    for memory in &memories {
        stage
            .face
            .copy_to_device(memory, 0, vec![0; SIZE].into())
            .await
            .unwrap();
    }
    let mut calls: Vec<Call<'_>> = Vec::new();
    let mut expected = Vec::new();
    let mut state = 1_u64;
    let mut random = |below: usize| {
        // Knuth's MMIX generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for number in 0..1000_u32 {
        let (one, length) = (random(2), 1 + random(SIZE / 2));
        let (from, to) = (random(SIZE - length), random(SIZE - length));
        let (memory, other) = (&memories[one], &memories[1 - one]);
        let (length_bytes, from_bytes, to_bytes) = (length as u64, from as u64, to as u64);
        let mut seen = None;
        match number % 4 {
            0 => {
                let bytes = pattern(number, length);
                model[one][to..][..length].copy_from_slice(&bytes);
                let call = stage.face.copy_to_device(memory, to_bytes, bytes.into());
                calls.push(Box::pin(call.map(|done| done.map(|()| None))));
            }
            1 => {
                let sent = model[one][from..][..length].to_vec();
                model[1 - one][to..][..length].copy_from_slice(&sent);
                let face = &stage.face;
                let call = face.copy_device_to_device(memory, from_bytes, other, to_bytes, length_bytes);
                calls.push(Box::pin(call.map(|done| done.map(|()| None))));
            }
            2 => calls.push(Box::pin(stage.face.synchronize(0).map(|done| done.map(|()| None)))),
            _ => {
                seen = Some(model[one][from..][..length].to_vec());
                let call = stage.face.copy_from_device(memory, from_bytes, length_bytes);
                calls.push(Box::pin(call.map(|done| done.map(Some))));
            }
        }
        expected.push(seen);
    }
    // All are asked before the first is answered, more than the queue holds.
    let answers = join_all(calls).await;
    for (number, (answer, expected)) in answers.into_iter().zip(expected).enumerate() {
        assert!(answer.unwrap() == expected, "call {number} saw another moment");
    }
    Ok(())
}

pub async fn a_dropped_copy_is_whole_or_never_began(stage: &Stage) -> Played {
    const SIZE: usize = 8 << 20;
    let memory = stage.face.allocate(0, SIZE as u64).await.unwrap();
    let (old, new) = (pattern(1, SIZE), pattern(2, SIZE));
    stage.face.copy_to_device(&memory, 0, old.clone().into()).await.unwrap();
    let mut copied = 0;
    for asked in [false, true] {
        let mut copy = stage.face.copy_to_device(&memory, 0, new.clone().into());
        if asked {
            // Under way, or waiting in the queue.
            assert!(copy.as_mut().now_or_never().is_none_or(|done| done.is_ok()));
        }
        drop(copy);
        stage.face.synchronize(0).await.unwrap();
        let back = stage.face.copy_from_device(&memory, 0, SIZE as u64).await.unwrap();
        assert!(back == old || back == new, "half a copy");
        assert!(asked || back == old, "a copy that nobody began was carried out");
        copied += usize::from(back == new);
    }
    assert_eq!(copied, 1, "a copy that began is finished");
    // The same for a read and for a copy within: the queue goes on.
    let other = stage.face.allocate(0, SIZE as u64).await.unwrap();
    let mut read = stage.face.copy_from_device(&memory, 0, SIZE as u64);
    let _ = read.as_mut().now_or_never();
    drop(read);
    let mut within = stage.face.copy_device_to_device(&memory, 0, &other, 0, SIZE as u64);
    let _ = within.as_mut().now_or_never();
    drop(within);
    let back = stage.face.copy_from_device(&other, 0, SIZE as u64).await.unwrap();
    assert!(back == new);
    Ok(())
}

pub async fn a_dropped_allocation_is_freed(stage: &Stage) -> Played {
    let free_bytes = stage.free_bytes().await;
    for _ in 0..100 {
        let mut allocation = stage.face.allocate(0, 1 << 20);
        // Only when it was asked for does it have to be undone.
        let early = allocation.as_mut().now_or_never();
        drop(allocation);
        if let Some(memory) = early {
            stage.face.deallocate(&memory.unwrap()).await.unwrap();
        }
    }
    stage.is_free_again(free_bytes).await;
    Ok(())
}
