//! The `watch` subcommand: reads a backend's devices at an interval, one line of JSON each time, in a process of its own
//! because a driver may hang. It ends when its standard input closes: it never outlives who started it.

use super::decide::evidence::same_address;
use crate::args::WatchArgs;
use device::Backend;
use device::kmsg::{Reader, Record};
use device::telemetry::{self, DeviceEvent, Reading, Sampler};
use std::io::{ErrorKind, Read as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Reads until the input closes, or until there is nothing to read.
pub fn run(args: &WatchArgs) -> ExitCode {
    end_with_parent();
    let mut sampler = match telemetry::sampler(args.backend, &args.sysfs_root, &args.only) {
        Ok(Some(sampler)) => sampler,
        // Another backend's reader reads the same devices.
        Ok(None) => return ExitCode::SUCCESS,
        Err(fault) => {
            let last = Reading {
                backend: args.backend,
                samples: Vec::new(),
                events: Vec::new(),
                kernel_faults: Vec::new(),
                spoofed: 0,
                fault: Some(fault),
            };
            say(&last);
            return ExitCode::SUCCESS;
        }
    };
    let mut kernel = KernelLog::open(args);
    let interval = Duration::from_millis(args.interval_ms);
    let mut next = Instant::now();
    loop {
        let mut reading = read(sampler.as_mut());
        kernel.add_to(&mut reading);
        if !say(&reading) {
            return ExitCode::SUCCESS;
        }
        next += interval;
        match next.checked_duration_since(Instant::now()) {
            Some(pause) => std::thread::sleep(pause),
            // A slow driver is not asked more often to make up for it.
            None => next = Instant::now(),
        }
    }
}

fn read(sampler: &mut dyn Sampler) -> Reading {
    let (samples, fault) = match sampler.sample() {
        Ok(samples) => (samples, None),
        Err(fault) => (Vec::new(), Some(fault)),
    };
    Reading {
        backend: sampler.backend(),
        samples,
        events: sampler.events(),
        kernel_faults: Vec::new(),
        spoofed: 0,
        fault,
    }
}

/// Whether anybody listens still.
fn say(reading: &Reading) -> bool {
    let Ok(mut line) = serde_json::to_vec(reading) else {
        // A number that JSON does not have; the next reading may do without.
        return true;
    };
    line.push(b'\n');
    let mut output = std::io::stdout().lock();
    output.write_all(&line).and_then(|()| output.flush()).is_ok()
}

/// Ends this process as soon as its standard input closes, from a thread of its own: the others may hang in a driver.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        let mut input = std::io::stdin().lock();
        let mut ignored = [0_u8; 64];
        loop {
            match input.read(&mut ignored) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => std::process::exit(0),
            }
        }
    });
}

/// What the kernel's log says of one backend's devices. A log that may not be read costs a line on the standard error,
/// once: the devices are read without it.
struct KernelLog {
    backend: Backend,
    reader: Option<Reader>,
}

impl KernelLog {
    fn open(args: &WatchArgs) -> Self {
        let backend = args.backend;
        let told = matches!(backend, Backend::Cuda | Backend::Rocm | Backend::Intel);
        let opened = told
            .then(|| Reader::open(&args.sysfs_root.join("dev/kmsg")))
            .transpose();
        let reader = opened.unwrap_or_else(|error| {
            eprintln!("the kernel's log cannot be read, its events are missed: {error}");
            None
        });
        Self { backend, reader }
    }

    fn add_to(&mut self, reading: &mut Reading) {
        let Some(heard) = self.reader.as_mut().map(Reader::poll) else {
            return;
        };
        let heard = match heard {
            Ok(heard) => heard,
            Err(error) => {
                eprintln!("the kernel's log cannot be read any more: {error}");
                self.reader = None;
                return;
            }
        };
        reading.spoofed += heard.spoofed;
        for record in heard.records {
            match record {
                Record::Xid(event) if self.backend == Backend::Cuda => {
                    // The driver's own library may have told it already.
                    if !reading.events.iter().any(|told| is_same(told, &event)) {
                        reading.events.push(event);
                    }
                }
                Record::Driver(fault) if self.backend != Backend::Cuda => reading.kernel_faults.push(fault),
                Record::Xid(_) | Record::Driver(_) | Record::Spoofed | Record::Other => {}
            }
        }
    }
}

/// Whether two tellers told of one event. One of them may not know the card.
fn is_same(a: &DeviceEvent, b: &DeviceEvent) -> bool {
    let places = a.pci_address.as_deref().zip(b.pci_address.as_deref());
    a.xid == b.xid && places.is_none_or(|(a, b)| same_address(a, b))
}
