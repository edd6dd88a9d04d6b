//! The tool beside a kubectl: what it asks, and what it makes of the answer. kubectl is a script here that says what it was asked.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod rig;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// Runs the tool where the only kubectl is this script; without one, where there is none.
fn run(folder: &Path, kubectl: Option<&str>, args: &[&str]) -> Output {
    let path = folder.join("bin");
    std::fs::create_dir_all(&path).unwrap();
    if let Some(script) = kubectl {
        let text = folder.join("text");
        let words = format!("#!/bin/sh\necho \"$@\" >{}/asked\n{script}", folder.display());
        std::fs::write(&text, words).unwrap();
        // Written by another process: a child that a test beside this one forks would inherit our descriptor, and nothing that is
        // open for writing can be executed.
        let mut install = Command::new("install");
        let installed = install.args(["-m", "755"]).arg(text).arg(path.join("kubectl")).status();
        assert!(installed.unwrap().success());
    }
    let path = match kubectl {
        // The script's own tools are the system's.
        Some(_) => format!("{}:/usr/bin:/bin", path.display()),
        None => path.display().to_string(),
    };
    Command::new(env!("CARGO_BIN_EXE_kubectl-shardwright"))
        .args(args)
        .current_dir(folder)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn asked(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("asked")).unwrap().trim().to_owned()
}

/// Prints a file as kubectl's answer.
const ANSWER: &str = "cat answer.json";

fn models() -> Value {
    json!({ "kind": "List", "items": [
        {
            "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel",
            "metadata": { "name": "placed", "namespace": "shop" },
            "spec": { "source": { "uri": "file:///models/a.gguf" } },
            "status": { "placement": {
                "epoch": 7, "generation": 1, "envelope": "", "verdict": "Optimal",
                "predictedUsPerToken": 12_000, "observedUsPerToken": 15_000,
                "stages": [{
                    "index": 0, "node": "a", "device": "a-cpu0", "backend": "cpu", "phase": "Serving",
                    "layers": "0-29", "firstLayer": 0, "endLayer": 30, "weightBytes": 1, "memoryBytes": 2,
                    "predictedUsPerToken": 12_000, "hopUs": 120, "observed": { "usPerToken": 15_000 },
                }],
            } },
        },
        {
            "apiVersion": "shardwright.dev/v1alpha1", "kind": "InferenceModel",
            "metadata": { "name": "waiting", "namespace": "shop" },
            "spec": { "source": { "uri": "file:///models/b.gguf" } },
        },
    ] })
}

#[test]
fn placements_are_asked_of_kubectl_in_all_namespaces_or_in_one() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("answer.json"), models().to_string()).unwrap();
    let all = run(folder.path(), Some(ANSWER), &["plan"]);
    let text = String::from_utf8(all.stdout).unwrap();
    assert_eq!(asked(folder.path()), "get inferencemodels.shardwright.dev -A -o json");
    assert!(text.contains("shop/placed: epoch 7, Optimal"), "{text}");
    assert!(text.contains("12.00 ms  15.00 ms  +25 %"), "{text}");
    assert!(text.contains("shop/waiting: not placed"), "{text}");

    let one = run(
        folder.path(),
        Some(ANSWER),
        &["plan", "waiting", "-n", "shop", "-O", "json"],
    );
    assert_eq!(
        asked(folder.path()),
        "get inferencemodels.shardwright.dev -n shop -o json"
    );
    let shown: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(
        shown,
        json!([{ "namespace": "shop", "name": "waiting", "placement": null }])
    );
}

#[test]
fn one_object_alone_is_a_list_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let one = models()["items"][0].clone();
    std::fs::write(folder.path().join("one.json"), one.to_string()).unwrap();
    let text = rig::succeed(folder.path(), &["plan", "-f", "one.json"]);
    assert!(text.starts_with("shop/placed"), "{text}");
    let missing = rig::fail(folder.path(), &["plan", "other", "-f", "one.json"], 65);
    assert!(missing.contains("there is no InferenceModel other"), "{missing}");
}

#[test]
fn the_cluster_is_asked_of_kubectl_and_objects_of_other_kinds_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let list = json!({ "kind": "List", "items": [{ "kind": "Pod" }] });
    std::fs::write(folder.path().join("answer.json"), list.to_string()).unwrap();
    let output = run(folder.path(), Some(ANSWER), &["topology"]);
    let kinds = "devicegpustates.shardwright.dev,nodelinkstates.shardwright.dev";
    assert_eq!(asked(folder.path()), format!("get {kinds} -o json"));
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .starts_with("0 devices on 0 nodes")
    );
}

#[test]
fn a_kubectl_that_is_missing_fails_or_babbles_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let refused = "echo 'the server is away' >&2; exit 1";
    let babble = "printf '\\377'";
    for (kubectl, code, expected) in [
        (
            None,
            66,
            "kubectl get devicegpustates.shardwright.dev,nodelinkstates.shardwright.dev -o json",
        ),
        (Some(refused), 69, "kubectl: the server is away"),
        (Some(babble), 65, "kubectl's answer: invalid utf-8"),
    ] {
        let output = run(folder.path(), kubectl, &["topology"]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

/// The ConfigMap of an installation in this phase.
fn trust(phase: &str, others: &[(&str, &str)]) -> String {
    let mut annotations = json!({ "shardwright.dev/authority-phase": phase });
    for (name, value) in others {
        annotations[format!("shardwright.dev/{name}")] = json!(value);
    }
    let metadata = json!({ "name": "shardwright-trust", "resourceVersion": "7", "annotations": annotations });
    json!({ "kind": "ConfigMap", "metadata": metadata }).to_string()
}

#[test]
fn another_authority_is_asked_for_by_an_annotation_with_the_moment() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("answer.json"), trust("steady", &[])).unwrap();
    let output = run(folder.path(), Some(ANSWER), &["authority", "rotate", "-n", "here"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("is asked for"), "{said}");
    let asked = asked(folder.path());
    let set = "annotate configmap shardwright-trust -n here --overwrite --resource-version=7 shardwright.dev/rotate-authority=2";
    assert!(asked.starts_with(set) && asked.ends_with('Z'), "{asked}");
}

#[test]
fn nothing_is_asked_for_twice_nor_while_another_authority_takes_the_place_of_the_present_one() {
    let folder = tempfile::tempdir().unwrap();
    let get = "get configmap shardwright-trust -n shardwright-system -o json";
    let wish = ("rotate-authority", "2026-01-01T12:00:00Z");
    std::fs::write(folder.path().join("answer.json"), trust("steady", &[wish])).unwrap();
    let output = run(folder.path(), Some(ANSWER), &["authority", "rotate"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && said.contains("was asked for at 2026-01-01T12:00:00Z"),
        "{said}"
    );
    assert_eq!(asked(folder.path()), get);

    let others = [
        wish,
        ("authority-rotated-for", wish.1),
        ("authority-phase-since", "2026-01-01T12:00:01Z"),
        ("authority-waits-for", "agent node-b, gateway g"),
    ];
    std::fs::write(folder.path().join("answer.json"), trust("prepared", &others)).unwrap();
    let output = run(folder.path(), Some(ANSWER), &["authority", "rotate"]);
    let refused = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{refused}");
    for part in [
        "already",
        "prepared, since 2026-01-01T12:00:01Z",
        "waits for: agent node-b, gateway g",
    ] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    assert_eq!(asked(folder.path()), get);
}

#[test]
fn the_phase_is_shown_with_its_date_and_for_whom_it_waits_and_an_operator_that_tells_none_is_too_old() {
    let folder = tempfile::tempdir().unwrap();
    let answer = folder.path().join("answer.json");
    std::fs::write(&answer, trust("active", &[("authority-waits-for", "agent node-b")])).unwrap();
    let status = run(folder.path(), Some(ANSWER), &["authority", "status"]);
    let text = String::from_utf8(status.stdout).unwrap();
    assert_eq!(
        text,
        "active: the new authority issues, and the old one is trusted still\nwaits for: agent node-b\n"
    );
    let status = run(folder.path(), Some(ANSWER), &["authority", "status", "-O", "json"]);
    let shown: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(
        shown,
        json!({ "phase": "active", "since": null, "waitsFor": "agent node-b", "askedFor": null, "honoured": null })
    );
    std::fs::write(&answer, r#"{ "kind": "ConfigMap", "metadata": {} }"#).unwrap();
    for command in ["status", "rotate"] {
        let output = run(folder.path(), Some(ANSWER), &["authority", command]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(69), "{message}");
        assert!(message.contains("older version"), "{message}");
    }
    let missing = tempfile::tempdir().unwrap();
    let missing = run(missing.path(), None, &["authority", "status"]);
    let message = String::from_utf8(missing.stderr).unwrap();
    assert_eq!(missing.status.code(), Some(66), "{message}");
    assert!(
        message.contains("look by hand: kubectl get configmap shardwright-trust"),
        "{message}"
    );
}
