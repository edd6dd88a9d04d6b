//! A worker that computes nothing and speaks the control protocol: this test executable itself, started by a script.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// How it behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Good,
    /// Never opens its socket.
    Mute,
    /// Opens its socket and answers nothing.
    Hanging,
    /// Answers a few times, then nothing.
    Freezing,
    /// Ends with the exit code of weights that do not load.
    BadWeights,
    /// Ends with the exit code of a device whose memory does not suffice.
    ShortOfMemory,
    /// Is killed by a signal as soon as it has a placement; the second time it behaves.
    CrashingOnce,
    /// Says yes to drain and stays.
    Stubborn,
}

const MANNERS: [(Manner, &str); 8] = [
    (Manner::Good, "good"),
    (Manner::Mute, "mute"),
    (Manner::Hanging, "hanging"),
    (Manner::Freezing, "freezing"),
    (Manner::BadWeights, "bad-weights"),
    (Manner::ShortOfMemory, "short-of-memory"),
    (Manner::CrashingOnce, "crashing-once"),
    (Manner::Stubborn, "stubborn"),
];

/// Writes an executable that behaves so. The test file must have a test named `the_fake_worker_itself` that calls
/// [`be_if_asked`].
pub fn executable(directory: &Path, manner: Manner) -> PathBuf {
    let name = MANNERS.iter().find(|(known, _)| *known == manner).unwrap().1;
    let path = directory.join(format!("worker-{name}"));
    let own = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nexport FAKE_WORKER_CONFIG=\"$2\" FAKE_WORKER_MANNER={name}\nexec '{}' --exact the_fake_worker_itself --nocapture --quiet \"$2\"\n",
        own.display()
    );
    let text = path.with_extension("text");
    std::fs::write(&text, script).unwrap();
    // Written by another process: a child that a test beside this one forks would inherit our descriptor, and nothing that is
    // open for writing can be executed.
    let installed = std::process::Command::new("install")
        .args(["-m", "755"])
        .args([&text, &path])
        .status();
    assert!(installed.unwrap().success());
    path
}

/// What the worker of this configuration was told, in order, over all its lives.
pub fn told(config: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(config.with_extension("told")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Is the worker, when this process was started as one.
pub fn be_if_asked() {
    let (Ok(config), Ok(manner)) = (std::env::var("FAKE_WORKER_CONFIG"), std::env::var("FAKE_WORKER_MANNER")) else {
        return;
    };
    let manner = MANNERS.iter().find(|(_, name)| *name == manner).unwrap().0;
    be(Path::new(&config), manner);
}

fn be(config: &Path, manner: Manner) -> ! {
    let text = std::fs::read(config).unwrap();
    let settings: Value = serde_json::from_slice(&text).unwrap();
    println!(
        "GGML_VK_VISIBLE_DEVICES={}",
        std::env::var("GGML_VK_VISIBLE_DEVICES").unwrap_or_default()
    );
    match manner {
        Manner::BadWeights => {
            eprintln!("tensor blk.0 is not what it should be");
            std::process::exit(65);
        }
        Manner::ShortOfMemory => {
            eprintln!("2 MiB are missing");
            std::process::exit(71);
        }
        Manner::Mute => loop {
            std::thread::park();
        },
        _ => {}
    }
    let listener = UnixListener::bind(settings["control_socket"].as_str().unwrap()).unwrap();
    loop {
        let (stream, _) = listener.accept().unwrap();
        let mut answers = 0;
        let mut writer = stream.try_clone().unwrap();
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            let frozen = manner == Manner::Hanging || (manner == Manner::Freezing && answers >= 2);
            if !frozen {
                let answer = answer(config, &serde_json::from_str(&line).unwrap(), manner);
                if writer.write_all(format!("{answer}\n").as_bytes()).is_err() {
                    break;
                }
                answers += 1;
            }
        }
    }
}

fn answer(config: &Path, request: &Value, manner: Manner) -> Value {
    match request["op"].as_str().unwrap() {
        "status" => json!({"phase": "serving", "endpoint": "127.0.0.1:7000", "epoch": null, "active_sequences": 0}),
        op => {
            let before = told(config).len();
            let mut file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(config.with_extension("told"))
                .unwrap();
            writeln!(file, "{request}").unwrap();
            match (op, manner) {
                ("install", Manner::CrashingOnce) if before == 0 => std::process::abort(),
                ("drain", Manner::Stubborn) => {}
                ("drain", _) => std::process::exit(0),
                _ => {}
            }
            json!({"ok": true})
        }
    }
}
