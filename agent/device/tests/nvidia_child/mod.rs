//! What the child does with NVIDIA's libraries, and how it answers: one line of JSON.

use device::driver::{Block, Driver, Precision, Product, Span};
use device::{Backend, BackendError};
use serde_json::{Value, json};
use std::path::Path;

/// Names the task.
pub const TASK: &str = "SHARDWRIGHT_TEST_TASK";
/// Before the answer's JSON.
pub const ANSWER: &str = "ANSWER ";

#[test]
fn does_as_told() {
    let Ok(task) = std::env::var(TASK) else { return };
    let answer = match task.as_str() {
        "sample" | "sample-twice" => sample(&task),
        "events" => events(),
        _ => match with_driver(&task) {
            Ok(answer) => answer,
            Err(error) => told(&error),
        },
    };
    println!("\n{ANSWER}{answer}");
}

fn told(error: &BackendError) -> Value {
    let kind = format!("{error:?}");
    let kind = kind.split(|c: char| !c.is_alphanumeric()).next().unwrap();
    json!({"error": error.to_string(), "kind": kind})
}

/// Tells the parent that it may change the machine, and waits until it has.
fn ready() {
    println!("\nREADY");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

fn sample(task: &str) -> Value {
    let read = || -> Result<Value, String> {
        let only = device::Selection::All;
        let mut sampler = device::telemetry::sampler(Backend::Cuda, Path::new("/"), &only)?.ok_or("no sampler")?;
        let mut samples = sampler.sample()?;
        if task == "sample-twice" {
            ready();
            samples = sampler.sample()?;
        }
        Ok(json!(samples))
    };
    read().unwrap_or_else(|error| json!({"error": error}))
}

fn events() -> Value {
    let mut sampler = device::telemetry::sampler(Backend::Cuda, Path::new("/"), &device::Selection::All)
        .unwrap()
        .unwrap();
    json!({"first": sampler.events(), "second": sampler.events()})
}

fn with_driver(task: &str) -> Result<Value, BackendError> {
    let mut driver = device::factory::driver(Backend::Cuda, Path::new("/")).unwrap();
    let driver = driver.as_mut();
    driver.open()?;
    println!("\nOPENED");
    match task {
        "list" => Ok(json!(driver.devices()?)),
        "exercise" => exercise(driver),
        "overlap" => overlap(driver),
        "readings" => Ok(json!({
            "temperature": driver.temperature(0)?,
            "power": driver.power(0)?,
            "clock": driver.clock(0)?,
        })),
        "exhaust" => exhaust(driver),
        "cycles" => cycles(driver),
        "close" => close(driver),
        "lose" => lose(driver, 1),
        "lose0" => lose(driver, 0),
        "use-last" => {
            let last = driver.devices()?.len() as u32 - 1;
            driver.allocate(last, 4096).map(|_| json!("given"))
        }
        "peer" => peer(driver),
        other => panic!("no task {other}"),
    }
}

fn at(device: u32, block: Block, offset: u64) -> Span {
    Span { device, block, offset }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u32)
        .map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8)
        .collect()
}

fn exercise(driver: &mut dyn Driver) -> Result<Value, BackendError> {
    let sent = pattern((1 << 20) + 3);
    let (first, second) = (
        driver.allocate(0, sent.len() as u64)?,
        driver.allocate(0, sent.len() as u64)?,
    );
    let mut came = vec![0; sent.len()];
    driver.write(at(0, first, 0), &sent)?;
    driver.read(at(0, first, 0), &mut came)?;
    let copied = came == sent;
    driver.copy(at(0, first, 1), at(0, second, 2), 1000)?;
    let mut part = vec![0; 1000];
    driver.read(at(0, second, 2), &mut part)?;
    let moved = part == sent[1..1001];
    driver.launch(0)?;
    driver.synchronize(0)?;
    let single = agrees(driver, Precision::F32)?;
    let half = agrees(driver, Precision::F16)?;
    driver.free(0, first)?;
    driver.free(0, second)?;
    Ok(json!({"copied": copied, "moved": moved, "launched": true, "f32": single, "f16": half}))
}

/// Whether products of several sizes are the processor's. Inputs are small whole numbers, which both precisions hold
/// exactly, and so do the sums.
fn agrees(driver: &mut dyn Driver, precision: Precision) -> Result<bool, BackendError> {
    for size in [16, 48, 64, 80, 208] {
        let number = |i: usize, step: usize| ((i * step + i / size) % 7) as f32 - 3.0;
        let a: Vec<f32> = (0..size * size).map(|i| number(i, 3)).collect();
        let b: Vec<f32> = (0..size * size).map(|i| number(i, 5)).collect();
        let product = Product {
            precision,
            size,
            a: &a,
            b: &b,
            repeats: 2,
        };
        let multiplied = driver.multiply(0, &product)?;
        let expected = |i: usize| -> f32 {
            let (row, column) = (i / size, i % size);
            (0..size).map(|k| a[row * size + k] * b[k * size + column]).sum()
        };
        if multiplied.c.len() != size * size || (0..size * size).any(|i| multiplied.c[i] != expected(i)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn overlap(driver: &mut dyn Driver) -> Result<Value, BackendError> {
    // More than one piece of a copy through main memory.
    let size = 20 << 20;
    let sent = pattern(size);
    let block = driver.allocate(0, size as u64)?;
    let mut check = |from: usize, to: usize, bytes: usize| -> Result<bool, BackendError> {
        driver.write(at(0, block, 0), &sent)?;
        driver.copy(at(0, block, from as u64), at(0, block, to as u64), bytes as u64)?;
        let mut expected = sent.clone();
        expected.copy_within(from..from + bytes, to);
        let mut came = vec![0; size];
        driver.read(at(0, block, 0), &mut came)?;
        Ok(came == expected)
    };
    Ok(json!({"up": check(5, 4099, 19 << 20)?, "down": check(4099, 5, 19 << 20)?}))
}

fn exhaust(driver: &mut dyn Driver) -> Result<Value, BackendError> {
    let free = driver.memory(0)?.free_bytes;
    let refused = driver.allocate(0, free + 1);
    let all = driver.allocate(0, free)?;
    let none_left = driver.memory(0)?.free_bytes == 0;
    driver.free(0, all)?;
    Ok(json!({
        "refused": refused.map_or_else(|error| error.to_string(), |_| "given".to_owned()),
        "allFreeGiven": none_left,
        "freeAfter": driver.memory(0)?.free_bytes,
    }))
}

fn cycles(driver: &mut dyn Driver) -> Result<Value, BackendError> {
    let before = driver.memory(0)?.free_bytes;
    for _ in 0..10_000 {
        let block = driver.allocate(0, 4096)?;
        driver.free(0, block)?;
    }
    Ok(json!({"leakedBytes": before - driver.memory(0)?.free_bytes}))
}

fn close(driver: &mut dyn Driver) -> Result<Value, BackendError> {
    let before = driver.memory(0)?.free_bytes;
    for bytes in [1, 4096, 1 << 20] {
        driver.allocate(0, bytes)?;
    }
    driver.launch(0)?;
    driver.close()?;
    driver.open()?;
    Ok(json!({"heldBytes": before - driver.memory(0)?.free_bytes}))
}

fn lose(driver: &mut dyn Driver, device: u32) -> Result<Value, BackendError> {
    driver.allocate(device, 4096)?;
    ready();
    let error = driver.allocate(device, 4096).expect_err("a lost card gives memory");
    let mut answer = told(&error);
    answer["neighbourWorks"] = json!(driver.allocate(0, 4096).is_ok());
    Ok(answer)
}

fn peer(driver: &mut dyn Driver) -> Result<Value, BackendError> {
    let sent = pattern((20 << 20) + 3);
    let direct = driver.copies_directly(0, 1);
    let source = driver.allocate(0, sent.len() as u64)?;
    let target = driver.allocate(1, sent.len() as u64)?;
    driver.write(at(0, source, 0), &sent)?;
    driver.copy(at(0, source, 0), at(1, target, 0), sent.len() as u64)?;
    let mut came = vec![0; sent.len()];
    driver.read(at(1, target, 0), &mut came)?;
    Ok(json!({"direct": direct, "same": came == sent}))
}
