//! The tool, run on models of this test's own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod rig;

use std::fs;
use std::path::Path;

use gguf::{FileSet, WeightIndex};
use modelgen::Recipe;
use origin::{Manner, Server};
use rig::{fail, model, names, run, succeed, write};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn read_index(path: &Path) -> WeightIndex {
    WeightIndex::parse(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_index_is_written_beside_the_model_and_the_lines_to_pin_it_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1);
    let text = succeed(folder.path(), &["model", "index", "tiny.gguf"]);
    let index = read_index(&folder.path().join("tiny.gguf.index.json"));
    assert_eq!(index.tensors().len(), 10);
    assert!(
        text.contains(&format!("    indexSha256: {}\n", index.digest())),
        "{text}"
    );
    assert!(text.contains(&format!("    sha256: {}\n", index.sha256())), "{text}");
    let uri = format!("uri: file://{}", folder.path().join("tiny.gguf").display());
    assert!(text.contains(&uri), "{text}");

    let again = json(&succeed(
        folder.path(),
        &["model", "index", "tiny.gguf", "-o", "other.json", "--output", "json"],
    ));
    assert_eq!(again["indexSha256"], index.digest().to_string());
    assert_eq!(again["index"], "other.json");
    assert_eq!(fs::read(folder.path().join("other.json")).unwrap(), index.to_bytes());
    let piped = run(folder.path(), &["model", "index", "tiny.gguf", "-o", "-"]);
    assert_eq!(piped.stdout, index.to_bytes());
}

#[test]
fn a_model_in_several_files_has_one_index() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 3);
    let first = &names(3)[0];
    let made = json(&succeed(folder.path(), &["model", "index", first, "--output", "json"]));
    assert_eq!((&made["files"], &made["tensors"]), (&Value::from(3), &Value::from(10)));
    let index = read_index(&folder.path().join(format!("{first}.index.json")));
    let set = FileSet::open(&folder.path().join(first)).unwrap();
    index.check_model(&set.gguf).unwrap();
    succeed(folder.path(), &["model", "verify", first]);

    let message = fail(folder.path(), &["model", "index", &names(3)[1]], 65);
    assert!(
        message.contains("part 2 of 3") && message.contains(first.as_str()),
        "{message}"
    );
    fs::remove_file(folder.path().join(&names(3)[2])).unwrap();
    let message = fail(folder.path(), &["model", "index", first], 66);
    assert!(message.contains(&names(3)[2]), "{message}");
}

#[test]
fn verifying_names_the_tensors_that_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1);
    let path = folder.path().join("tiny.gguf");
    let missing = fail(folder.path(), &["model", "verify", "tiny.gguf"], 66);
    assert!(missing.contains("model index"), "{missing}");
    succeed(folder.path(), &["model", "index", "tiny.gguf"]);
    let index = read_index(&folder.path().join("tiny.gguf.index.json"));
    let good = json(&succeed(
        folder.path(),
        &["model", "verify", "tiny.gguf", "--output", "json"],
    ));
    assert_eq!(good["sha256"], index.sha256().to_string());

    let bytes = fs::read(&path).unwrap();
    let mut bad = bytes.clone();
    bad[index.tensor("blk.2.ffn_up.weight").unwrap().offset_bytes as usize + 9] ^= 4;
    fs::write(&path, &bad).unwrap();
    let message = fail(folder.path(), &["model", "verify", "tiny.gguf"], 65);
    assert!(message.contains("blk.2.ffn_up.weight: SHA-256"), "{message}");
    assert!(!message.contains("blk.1"), "{message}");

    let mut named = bytes.clone();
    let at = named.windows(4).position(|window| window == b"Tiny").unwrap();
    named[at] = b'X';
    fs::write(&path, &named).unwrap();
    let message = fail(folder.path(), &["model", "verify", "tiny.gguf"], 65);
    assert!(message.contains("another header"), "{message}");

    fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
    let message = fail(folder.path(), &["model", "verify", "tiny.gguf"], 65);
    assert!(message.contains("truncated"), "{message}");

    fs::write(folder.path().join("moved.gguf"), &bytes).unwrap();
    let digest = index.digest().to_string();
    let index_path = "tiny.gguf.index.json";
    succeed(
        folder.path(),
        &[
            "model",
            "verify",
            "moved.gguf",
            "--index",
            index_path,
            "--index-sha256",
            &digest,
        ],
    );
    let other = "0".repeat(64);
    let message = fail(
        folder.path(),
        &[
            "model",
            "verify",
            "moved.gguf",
            "--index",
            index_path,
            "--index-sha256",
            &other,
        ],
        65,
    );
    assert!(message.contains("another index"), "{message}");
}

#[test]
fn a_model_is_shown_with_its_layers_and_cuts() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 2);
    let text = succeed(folder.path(), &["model", "show", &names(2)[0]]);
    assert!(text.contains("after layer 1-3"), "{text}");
    assert!(text.contains("0-3: 512 B each"), "{text}");
    let shown = json(&succeed(
        folder.path(),
        &["model", "show", &names(2)[0], "--output", "json"],
    ));
    assert_eq!(shown["architecture"], "llama");
    assert_eq!(shown["splittable"], true);
    assert_eq!(shown["allowed_cuts"], serde_json::json!([1, 2, 3]));
    assert_eq!(shown["layer_bytes"], serde_json::json!([512, 512, 512, 512]));
}

#[test]
fn what_a_token_reads_of_a_mixture_of_experts_is_shown_beside_what_its_layers_weigh() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = Recipe::new("qwen3moe").unwrap();
    let experts = recipe.experts.as_mut().unwrap();
    (experts.count, experts.used, experts.leading_dense) = (4, 1, 0);
    recipe.write(&folder.path().join("moe.gguf")).unwrap();
    let shown = json(&succeed(
        folder.path(),
        &["model", "show", "moe.gguf", "--output", "json"],
    ));
    // Three matrices of 64 x 32 in blocks of 34 bytes for each of four experts, one of whom is read.
    let expert = 3 * 64 * 32 / 32 * 34;
    let weighs = shown["layer_bytes"].as_array().unwrap().clone();
    let reads: Vec<Value> = weighs
        .iter()
        .map(|bytes| (bytes.as_u64().unwrap() - 3 * expert).into())
        .collect();
    assert_eq!(shown["layer_active_bytes"], Value::from(reads.clone()));
    let kibibytes = |bytes: &Value| format!("0-3: {:.1} KiB each", bytes.as_f64().unwrap() / 1024.0);
    let text = succeed(folder.path(), &["model", "show", "moe.gguf"]);
    let line = |what: &str| text.lines().find(|line| line.starts_with(what)).unwrap().to_owned();
    assert!(line("layer weights").ends_with(&kibibytes(&weighs[0])), "{text}");
    assert!(line("read for a token").ends_with(&kibibytes(&reads[0])), "{text}");
    assert!(line("states").ends_with("none"), "{text}");
}

#[test]
fn a_model_that_keeps_states_is_shown_with_what_each_sequence_takes() {
    let folder = tempfile::tempdir().unwrap();
    Recipe::new("jamba")
        .unwrap()
        .write(&folder.path().join("m.gguf"))
        .unwrap();
    let shown = json(&succeed(
        folder.path(),
        &["model", "show", "m.gguf", "--output", "json"],
    ));
    // A kernel of 4 and 16 states for each of 128 channels; one head of 16 + 16 for each of two.
    let state = 4 * (3 * 128 + 16 * 128);
    assert_eq!(shown["layer_state_bytes"], serde_json::json!([state, 0, state, 0]));
    assert_eq!(shown["layer_kv_elements"], serde_json::json!([0, 64, 0, 64]));
    let text = succeed(folder.path(), &["model", "show", "m.gguf"]);
    assert!(text.contains("19.0 KiB a sequence, in 2 of 4 layers"), "{text}");
    assert!(text.contains("256 B a token at f16"), "{text}");
}

#[test]
fn mistakes_end_with_the_codes_of_sysexits() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fail(at, &["model", "cut"], 64);
    fail(at, &["model", "show"], 64);
    let help = run(at, &["model", "--help"]);
    assert!(help.status.success() && !help.stdout.is_empty());
    let message = fail(at, &["model", "show", "none.gguf"], 66);
    assert!(message.contains("none.gguf"), "{message}");
    let message = fail(at, &["model", "index", "pvc://claim/m.gguf"], 64);
    assert!(message.contains("run this where it is"), "{message}");

    fs::write(at.join("text.gguf"), "nothing of the kind").unwrap();
    let message = fail(at, &["model", "show", "text.gguf"], 65);
    assert!(message.contains("no GGUF file"), "{message}");
    let mut tensors = 20u64.to_le_bytes().to_vec();
    tensors.extend(b"{\"a\":1}             ");
    fs::write(at.join("model.safetensors"), tensors).unwrap();
    for path in ["model.safetensors", "."] {
        let code = if path == "." { 66 } else { 65 };
        let message = fail(at, &["model", "index", path], code);
        assert!(message.contains("convert_hf_to_gguf.py"), "{message}");
    }
    write(at, 1);
    let message = fail(at, &["model", "index", "tiny.gguf", "-o", "none/i.json"], 73);
    assert!(message.contains("none/i.json"), "{message}");
    fs::write(at.join("bad.json"), "{\"version\":1}").unwrap();
    let message = fail(at, &["model", "verify", "tiny.gguf", "--index", "bad.json"], 65);
    assert!(message.contains("no weight index"), "{message}");
}

/// A server of a model's files, whose authority is written to `ca`.
fn serve(folder: &str, parts: usize, ca: &Path) -> Server {
    let server = Server::start().unwrap();
    for (name, content) in names(parts).into_iter().zip(model(parts, 7)) {
        server.put(&format!("{folder}/{name}"), content);
    }
    fs::write(ca, &server.ca_pem).unwrap();
    server
}

#[test]
fn a_model_on_a_server_has_the_same_index_as_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(at, 3);
    succeed(at, &["model", "index", &names(3)[0], "-o", "local.json"]);
    let ca = at.join("ca.pem");
    for (manner, least) in [
        (Manner::Serve, 6),
        (Manner::IgnoreRange, 6),
        (Manner::Truncate(1500), 7),
    ] {
        let server = serve("/org/repo/resolve/main", 3, &ca);
        server.behave(move |seen| match seen.authorization.as_deref() {
            Some("Bearer secret") => manner.clone(),
            _ => Manner::Status(401, vec![]),
        });
        let endpoint = server.url("");
        let uri = format!("hf://org/repo/{}", names(3)[0]);
        let args = [
            "model",
            "index",
            &uri,
            "--hf-endpoint",
            &endpoint,
            "--cacert",
            "ca.pem",
            "--token",
            "secret",
        ];
        let text = succeed(at, &args);
        assert!(text.contains(&format!("uri: {uri}\n")), "{text}");
        let index = format!("{}.index.json", names(3)[0]);
        assert_eq!(
            fs::read(at.join(index)).unwrap(),
            fs::read(at.join("local.json")).unwrap()
        );
        assert!(server.seen().len() >= least);
    }
}

#[test]
fn a_server_that_will_not_or_cannot_serve_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let ca = at.join("ca.pem");
    let server = serve("/m", 1, &ca);
    server.demand("secret");
    let uri = |name: &str| server.url(&format!("/m/{name}?signature=abc"));
    let index = |uri: &str, more: &[&str], code| {
        let mut args = vec!["model", "index", uri];
        args.extend(more);
        fail(at, &args, code)
    };
    let message = index(&uri("tiny.gguf"), &["--cacert", "ca.pem"], 66);
    assert!(
        message.contains("--token") && !message.contains("signature"),
        "{message}"
    );
    let trusted = ["--cacert", "ca.pem", "--token", "secret"];
    let message = index(&uri("none.gguf"), &trusted, 66);
    assert!(message.contains("404") && !message.contains("secret"), "{message}");
    let message = index(&uri("tiny.gguf"), &["--token", "secret"], 69);
    assert!(
        message.contains("certificate") && !message.contains("signature"),
        "{message}"
    );
    index("https://localhost:1/m.gguf", &trusted, 69);
    index(&uri("tiny.gguf"), &["--cacert", "none.pem"], 66);
    fs::write(at.join("empty.pem"), "").unwrap();
    index(&uri("tiny.gguf"), &["--cacert", "empty.pem"], 65);
}
