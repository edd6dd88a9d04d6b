use super::*;
use crate::Verification;
use crate::driver::{Precision, Product, Span};
use crate::verify::{random, verify};

fn opened() -> Option<driver::Devices> {
    let mut driver = driver::Devices::new(Path::new("/"));
    match driver.open() {
        Ok(()) => Some(driver),
        Err(reason) => {
            println!("SKIPPED: {reason}");
            None
        }
    }
}

#[test]
fn devices_are_numbered_as_the_driver_enumerates_them() {
    let Ok(loader) = call::Loader::open() else {
        println!("SKIPPED: no Vulkan loader");
        return;
    };
    let facts = loader.physical_devices().unwrap();
    for (position, one) in facts.iter().enumerate() {
        assert_eq!(one.index as usize, position);
        assert!(!one.name.is_empty() && !one.heaps.is_empty());
    }
    assert!(
        loader.heaps_of(facts.len() as u32).is_err(),
        "an index that is not there is an answer"
    );
}

#[test]
fn a_card_whose_memory_the_host_cannot_reach_is_verified_through_staging() {
    if opened().is_none() {
        return;
    }
    // Odd parts: what is copied crosses several, never at the same place on both sides.
    for part_bytes_max in [u64::MAX, 300_007] {
        let mut driver = driver::Devices::constrained(Path::new("/"), part_bytes_max);
        driver.open().unwrap();
        assert_eq!(verify(&mut driver, 0), Verification::Verified);
    }
}

#[test]
fn bytes_that_move_over_themselves_arrive_whole_through_many_pieces() {
    if opened().is_none() {
        return;
    }
    // Longer than the staging buffer, so that the pieces' order matters.
    let bytes = 40 << 20;
    let pattern: Vec<u8> = (0..bytes as u32)
        .map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8)
        .collect();
    for part_bytes_max in [u64::MAX, 3_000_017] {
        let mut driver = driver::Devices::constrained(Path::new("/"), part_bytes_max);
        driver.open().unwrap();
        let block = driver.allocate(0, bytes).unwrap();
        let span = |offset| Span {
            device: 0,
            block,
            offset,
        };
        for (from, to) in [(0_u64, 12_345_u64), (12_345, 0)] {
            driver.write(span(0), &pattern).unwrap();
            let moved = bytes - 12_345;
            driver.copy(span(from), span(to), moved).unwrap();
            let mut back = vec![0; moved as usize];
            driver.read(span(to), &mut back).unwrap();
            assert!(back == pattern[from as usize..][..moved as usize], "{from} to {to}");
        }
    }
}

#[test]
fn a_product_of_any_size_is_the_processors_in_both_precisions() {
    let Some(mut driver) = opened() else { return };
    let mut processors = crate::cpu::driver(Path::new("/"));
    for size in [16, 64, 80, 192] {
        let (a, b) = (random(1, size * size), random(2, size * size));
        for precision in [Precision::F32, Precision::F16] {
            let product = Product {
                precision,
                size,
                a: &a,
                b: &b,
                repeats: 2,
            };
            let ours = match driver.multiply(0, &product) {
                Ok(ours) => ours.c,
                Err(crate::BackendError::Unsupported { what, device }) => {
                    println!("SKIPPED: {device} has no {what}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let theirs = processors.multiply(0, &product).unwrap().c;
            let far = ours.iter().zip(&theirs).find(|(x, y)| (**x - **y).abs() > 1e-4);
            assert_eq!((ours.len(), far), (size * size, None), "{size} {precision:?}");
        }
    }
}

#[test]
fn what_goes_through_main_memory_arrives_whole_part_by_part() {
    let Some(mut driver) = opened() else { return };
    let bytes = (20 << 20) + 3;
    let mut span = || Span {
        device: 0,
        block: driver.allocate(0, bytes + 5).unwrap(),
        offset: 5,
    };
    let (from, to) = (span(), span());
    let sent: Vec<u8> = (0..bytes as u32)
        .map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8)
        .collect();
    driver.write(from, &sent).unwrap();
    driver.copy_between(from, to, bytes).unwrap();
    let mut back = vec![0; bytes as usize];
    driver.read(to, &mut back).unwrap();
    assert!(back == sent);
}
