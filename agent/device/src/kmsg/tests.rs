use super::*;
use crate::telemetry::KernelFaultKind;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};

fn kernel(message: &str) -> Record {
    record(format!("4,1234,56789012,-;{message}\n").as_bytes())
}

fn xid_of(record: Record) -> Option<(Option<String>, u32)> {
    match record {
        Record::Xid(event) => Some((event.pci_address, event.xid)),
        _ => None,
    }
}

fn trouble_of(record: Record) -> Option<(Option<String>, KernelFaultKind)> {
    match record {
        Record::Driver(fault) => Some((fault.pci_address, fault.kind)),
        _ => None,
    }
}

fn at(address: &str) -> Option<String> {
    Some(address.to_owned())
}

/// The formats are those of NVIDIA's documentation (docs.nvidia.com/deploy/xid-errors, "Viewing Xid Error Messages"),
/// of drivers before 340, of MIG slices and of cards with an eight-digit domain.
#[test]
fn xids_are_read_with_number_and_address_in_every_form_that_drivers_write() {
    let forms = [
        (
            "NVRM: Xid (PCI:0000:65:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            (at("0000:65:00.0"), 79),
        ),
        (
            "NVRM: Xid (PCI:0000:3B:00): 13, pid=4121, name=python3, Graphics Exception: ESR 0x505648=0x1000e",
            (at("0000:3b:00.0"), 13),
        ),
        (
            "NVRM: Xid (0000:03:00): 31, Ch 00000010, engmask 00000101, intr 10000000",
            (at("0000:03:00.0"), 31),
        ),
        (
            "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7, Contained: SM (0x1).",
            (at("0000:01:00.0"), 94),
        ),
        (
            "NVRM: Xid (PCI:00000000:65:00.0): 48, pid=1, An uncorrectable double bit error (DBE) has been detected",
            (at("0000:65:00.0"), 48),
        ),
        ("NVRM: Xid (GPU): 62, no place", (None, 62)),
    ];
    for (message, expected) in forms {
        assert_eq!(xid_of(kernel(message)), Some(expected), "{message}");
    }
}

#[test]
fn what_an_xid_says_is_kept_without_its_number_and_its_address_and_with_its_slice() {
    for (message, expected) in [
        (
            "NVRM: Xid (PCI:0000:65:00): 79, pid=1, GPU has fallen off the bus.",
            "pid=1, GPU has fallen off the bus.",
        ),
        (
            "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7, Contained: SM (0x1).",
            "GPU-I:05: pid=7, Contained: SM (0x1).",
        ),
        ("NVRM: Xid (PCI:0000:65:00): 62", ""),
    ] {
        let Record::Xid(event) = kernel(message) else {
            panic!("{message}");
        };
        assert_eq!(event.text, expected, "{message}");
    }
}

/// From github.com/NVIDIA/NVSentinel/issues/155; the log escapes the line ends of one message.
#[test]
fn a_card_that_left_the_bus_is_heard_of_without_a_number_too() {
    let message = "NVRM: The NVIDIA GPU 0000:b3:00.0\\x0aNVRM: (PCI ID: 10de:26b5) installed in this system has\\x0a\
                   NVRM: fallen off the bus and is not responding to commands.";
    assert_eq!(xid_of(kernel(message)), Some((at("0000:b3:00.0"), 79)));
    let short = "NVRM: GPU 0000:44:00.0: GPU has fallen off the bus.";
    assert_eq!(xid_of(kernel(short)), Some((at("0000:44:00.0"), 79)));
}

#[test]
fn what_a_process_wrote_is_not_believed_whoever_it_claims_to_be() {
    let message = "NVRM: Xid (PCI:0000:65:00): 79, pid=1, GPU has fallen off the bus.";
    for priority in [12, 8, 15, 30] {
        let line = format!("{priority},1,1,-;{message}\n");
        assert_eq!(record(line.as_bytes()), Record::Spoofed, "{priority}");
    }
    assert_eq!(record(b"12,1,1,-;hello\n"), Record::Other);
    for priority in 0..8 {
        let line = format!("{priority},1,1,-;{message}\n");
        assert!(matches!(record(line.as_bytes()), Record::Xid(_)), "{priority}");
    }
}

/// From github.com/ValveSoftware/SteamOS/issues/2802, github.com/pop-os/cosmic-epoch/issues/3764 (kernel 7.0, without
/// the second name), github.com/pop-os/cosmic-comp/issues/2626, and the formats of amdgpu_device.c and amdgpu_ras.c.
#[test]
fn faults_that_amdgpu_tells_are_told_apart() {
    let forms = [
        (
            "amdgpu 0000:03:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=7292300, emitted seq=7292304",
            KernelFaultKind::Hang,
        ),
        (
            "amdgpu 0000:03:00.0: GPU reset begin!. Source:  1",
            KernelFaultKind::Reset,
        ),
        ("amdgpu 0000:03:00.0: amdgpu: GPU reset begin!", KernelFaultKind::Reset),
        (
            "amdgpu 0000:03:00.0: amdgpu: GPU reset end with ret = -110",
            KernelFaultKind::Dead,
        ),
        (
            "amdgpu 0000:03:00.0: amdgpu: 2 uncorrectable hardware errors detected in umc block",
            KernelFaultKind::UncorrectedMemory,
        ),
        (
            "amdgpu 0000:03:00.0: amdgpu: {7} socket: 0, die: 1, 3 new uncorrectable hardware errors detected in umc block",
            KernelFaultKind::UncorrectedMemory,
        ),
    ];
    for (message, trouble) in forms {
        assert_eq!(
            trouble_of(kernel(message)),
            Some((at("0000:03:00.0"), trouble)),
            "{message}"
        );
    }
}

#[test]
fn what_amdgpu_says_of_devices_in_order_is_no_fault() {
    for message in [
        "amdgpu 0000:03:00.0: amdgpu: no uncorrectable hardware errors detected in umc block",
        "amdgpu 0000:03:00.0: amdgpu: 0 uncorrectable hardware errors detected in umc block",
        "amdgpu 0000:03:00.0: amdgpu: 3 uncorrectable hardware errors detected in total in umc block",
        "amdgpu 0000:03:00.0: amdgpu: 4 correctable hardware errors detected in umc block",
        "amdgpu 0000:03:00.0: amdgpu: GPU reset succeeded, trying to resume",
        "[drm:amdgpu_job_timedout [amdgpu]] *ERROR* Process information: process Xorg pid 2184",
        "[drm] VRAM is lost due to GPU reset!",
    ] {
        assert_eq!(kernel(message), Record::Other, "{message}");
    }
}

#[test]
fn a_message_without_address_takes_the_one_that_the_log_keeps_beside_it() {
    let line = "3,7,9,-;[drm:amdgpu_job_timedout [amdgpu]] *ERROR* ring sdma0 timeout, signaled seq=121570, emitted seq=121572\n\
                \x20SUBSYSTEM=pci\n DEVICE=+pci:0000:33:00.0\n";
    assert_eq!(
        trouble_of(record(line.as_bytes())),
        Some((at("0000:33:00.0"), KernelFaultKind::Hang))
    );
}

/// From github.com/NsCDE/NsCDE/issues/157, and the formats of xe_device.c and xe_guc_submit.c.
#[test]
fn faults_that_intel_s_drivers_tell_are_told_apart() {
    let forms = [
        (
            "i915 0000:00:02.0: [drm] GPU HANG: ecode 4:1:9fe7fbfd, in Xorg [996]",
            KernelFaultKind::Hang,
        ),
        (
            "i915 0000:00:02.0: [drm] Resetting chip for stopped heartbeat on rcs0",
            KernelFaultKind::Reset,
        ),
        (
            "xe 0000:00:02.0: [drm] Tile0: GT0: Timedout job: seqno=4294967169, lrc_seqno=4294967169, guc_id=4, flags=0x0",
            KernelFaultKind::Hang,
        ),
        (
            "xe 0000:00:02.0: [drm] CRITICAL: Xe has declared device 0000:00:02.0 as wedged.",
            KernelFaultKind::Dead,
        ),
    ];
    for (message, trouble) in forms {
        assert_eq!(
            trouble_of(kernel(message)),
            Some((at("0000:00:02.0"), trouble)),
            "{message}"
        );
    }
}

#[test]
fn text_from_drivers_is_cut_and_loses_control_characters() {
    let message = format!("NVRM: Xid (PCI:0000:65:00): 13, \u{1b}[31m{}", "é".repeat(4000));
    let Record::Xid(event) = kernel(&message) else {
        panic!("{message}");
    };
    assert!(event.text.len() <= 512);
    assert!(!event.text.contains(char::is_control));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes: Vec<u8>, tail in "[ -~]{0,60}") {
        record(&bytes);
        for start in ["4,1,1,-;NVRM: Xid (", "4,1,1,-;NVRM: Xid (PCI:0000:65:00): ", "4,1,1,-;amdgpu ", "4,1,1,-;xe "] {
            record(format!("{start}{tail}").as_bytes());
        }
    }
}

/// Gives one answer per read, as the log does.
struct Script(VecDeque<Result<&'static str, ErrorKind>>);

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.pop_front().unwrap_or(Err(ErrorKind::WouldBlock)) {
            Ok(line) => {
                buffer[..line.len()].copy_from_slice(line.as_bytes());
                Ok(line.len())
            }
            Err(kind) => Err(kind.into()),
        }
    }
}

#[test]
fn the_reader_goes_on_after_it_was_overrun_and_stops_where_there_is_nothing_more() {
    let mut reader = Reader::new(Script(VecDeque::from([
        Ok("6,1,1,-;usb 1-1: new device\n"),
        Err(ErrorKind::BrokenPipe),
        Err(ErrorKind::InvalidInput),
        Ok("4,2,2,-;NVRM: Xid (PCI:0000:65:00): 79, pid=1\n"),
        Ok("12,3,3,-;NVRM: Xid (PCI:0000:65:00): 79, pid=1\n"),
        Err(ErrorKind::WouldBlock),
        Ok("4,4,4,-;NVRM: Xid (PCI:0000:66:00): 48, pid=1\n"),
    ])));
    let heard = reader.poll().unwrap();
    assert_eq!((heard.records.len(), heard.spoofed, heard.overrun), (1, 1, 1));
    assert_eq!(reader.poll().unwrap().records.len(), 1);
    assert_eq!(reader.poll().unwrap(), Heard::default());
}

#[test]
fn a_log_that_cannot_be_read_any_more_is_an_error() {
    let mut reader = Reader::new(Script(VecDeque::from([Err(ErrorKind::PermissionDenied)])));
    assert_eq!(reader.poll().unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
fn the_real_log_is_read_from_its_end_without_waiting() {
    match Reader::open(std::path::Path::new("/dev/kmsg")) {
        Ok(mut reader) => {
            reader.poll().unwrap();
        }
        Err(error) => println!("SKIPPED: /dev/kmsg cannot be opened: {error}"),
    }
}
