//! Who may import whom, and how large things may grow: the layout of `docs/architecture.md`, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Our crates that a crate may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("crds", &[]),
    ("proto", &[]),
    ("identity", &["proto"]),
    ("lifecycle", &[]),
    ("apiclient", &["crds", "identity"]),
    ("topology", &["crds"]),
    ("placement", &["topology"]),
    ("device", &[]),
    ("gguf", &[]),
    ("engine", &["gguf"]),
    ("worker", &["proto", "identity", "lifecycle", "engine", "gguf"]),
    (
        "operator",
        &[
            "crds",
            "proto",
            "identity",
            "lifecycle",
            "apiclient",
            "topology",
            "placement",
            "gguf",
        ],
    ),
    (
        "agent",
        &["crds", "proto", "identity", "lifecycle", "apiclient", "device", "gguf"],
    ),
    ("gateway", &["crds", "proto", "identity", "lifecycle", "gguf"]),
    ("cli", &["crds", "identity", "topology", "placement", "gguf"]),
    ("linkemu", &[]),
    ("localplane", &["linkemu"]),
    ("modelgen", &["gguf"]),
    ("fakegpu", &[]),
    ("origin", &[]),
    ("scarcity", &[]),
    (
        "bench",
        &[
            "localplane",
            "linkemu",
            "engine",
            "worker",
            "identity",
            "proto",
            "gguf",
            "fakegpu",
            "device",
            "report",
        ],
    ),
    ("report", &[]),
    ("solvers", &["placement", "topology", "report"]),
    ("scale", &["crds", "gguf", "identity", "localplane", "proto", "report"]),
    ("tests", &[]),
    ("chaos", &["linkemu", "localplane", "report"]),
    ("apiproxy", &["linkemu"]),
    ("apimodel", &[]),
    (
        "simulation",
        &["apimodel", "crds", "identity", "linkemu", "operator", "proto"],
    ),
];

/// Crates from elsewhere that a crate must not name among its dependencies.
const MUST_NOT_NAME: &[(&str, &[&str])] = &[
    ("crds", &["tokio", "tonic", "kube-client", "kube-runtime"]),
    ("proto", &["kube"]),
    ("identity", &["kube", "ash"]),
    ("topology", &["kube", "tokio", "tonic"]),
    ("placement", &["kube", "tokio", "tonic"]),
    ("device", &["kube", "tonic"]),
    ("gguf", &["kube", "tonic", "tokio"]),
    ("engine", &["kube", "tonic"]),
    ("worker", &["kube"]),
    ("operator", &["ash", "llama-cpp-sys-2"]),
    ("agent", &["llama-cpp-sys-2"]),
    ("gateway", &["kube", "llama-cpp-sys-2"]),
];

/// Crates that decide and never do: no `async` in them.
const PURE: &[&str] = &["operator/topology", "operator/placement", "agent/gguf"];

/// Where `unsafe` may stand: the FFI of llama.cpp and the calls into vendors' libraries.
const UNSAFE_ALLOWED: &[&str] = &[
    "agent/engine/src/ffi",
    "agent/device/src/vulkan",
    "agent/device/src/cuda",
    "agent/device/src/rocm",
    "agent/device/src/intel",
    "agent/device/src/cpu",
];

/// Production files, in lines. 150-400 is the aim.
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
        .to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Package name to the names of what it depends on, development-only dependencies aside.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    packages
        .iter()
        .map(|package| {
            let named = package["dependencies"].as_array().expect("dependencies").iter();
            (
                name(package),
                named
                    .filter(|dependency| dependency["kind"] != "dev")
                    .map(name)
                    .collect(),
            )
        })
        .collect()
}

/// Rust files in git, or about to be: tracked or not ignored.
fn rust_files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(root())
        .output()
        .expect("git runs");
    let listing = String::from_utf8(output.stdout).expect("UTF-8");
    listing
        .lines()
        .map(PathBuf::from)
        .filter(|path| root().join(path).exists())
        .collect()
}

fn is_test(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.starts_with("tests/")
        || text.contains("/tests/")
        || text.ends_with("/tests.rs")
        || text.ends_with("/fixture.rs")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).expect("a readable file")
}

#[test]
fn crates_import_only_what_the_layout_allows() {
    let dependencies = dependencies();
    let ours: BTreeSet<&String> = dependencies.keys().collect();
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    for (package, named) in &dependencies {
        let may = allowed
            .get(package.as_str())
            .unwrap_or_else(|| panic!("{package} is not in the table of this test"));
        for dependency in named.iter().filter(|name| ours.contains(name)) {
            assert!(
                may.contains(&dependency.as_str()),
                "{package} must not import {dependency}"
            );
        }
    }
}

#[test]
fn crates_do_not_name_dependencies_that_their_role_forbids() {
    let dependencies = dependencies();
    for (package, forbidden) in MUST_NOT_NAME {
        for name in *forbidden {
            assert!(
                !dependencies[*package].contains(*name),
                "{package} must not depend on {name}"
            );
        }
    }
}

#[test]
fn pure_crates_have_no_async_and_no_clock() {
    for path in rust_files() {
        if is_test(&path)
            || !PURE
                .iter()
                .any(|crate_dir| path.starts_with(Path::new(crate_dir).join("src")))
        {
            continue;
        }
        let text = read(&path);
        for word in ["async ", ".await", "SystemTime::now", "Instant::now", "std::env::var"] {
            assert!(
                !text.contains(word),
                "{} has `{word}`: pure crates decide and never do",
                path.display()
            );
        }
    }
}

#[test]
fn unsafe_code_stands_only_where_foreign_code_is_called() {
    for path in rust_files() {
        if is_test(&path)
            || UNSAFE_ALLOWED
                .iter()
                .any(|allowed| path.starts_with(allowed) || path == Path::new(&format!("{allowed}.rs")))
        {
            continue;
        }
        let text = read(&path);
        let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
        for line in code {
            let found = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|word| line.contains(word));
            assert!(!found, "{}: {line}", path.display());
        }
    }
}

#[test]
fn production_files_stay_small() {
    for path in rust_files() {
        let lines = read(&path).lines().count();
        assert!(
            is_test(&path) || lines <= FILE_LINES_MAX,
            "{} has {lines} lines; split it by idea",
            path.display()
        );
    }
}

#[test]
fn no_module_is_named_for_everything_and_nothing() {
    for path in rust_files() {
        for part in path.iter().filter_map(|part| part.to_str()) {
            let name = part.trim_end_matches(".rs");
            assert!(
                !["common", "shared", "util", "utils", "manager", "helpers", "misc"].contains(&name),
                "{}",
                path.display()
            );
        }
    }
}

/// The compiler's dep-info of this profile names every source that it read.
#[test]
fn every_rust_file_is_read_by_the_compiler() {
    let dir = std::env::current_exe()
        .expect("this test")
        .parent()
        .expect("deps")
        .to_owned();
    let mut compiled = BTreeSet::new();
    let examples = std::fs::read_dir(dir.with_file_name("examples")).into_iter().flatten();
    for entry in std::fs::read_dir(&dir)
        .expect("target/debug/deps")
        .chain(examples)
        .flatten()
    {
        if entry.path().extension().is_some_and(|extension| extension == "d") {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let words = text
                .lines()
                .filter(|line| line.ends_with(".rs:"))
                .map(|line| line.trim_end_matches(':'));
            compiled.extend(words.map(|path| root().join(path)));
        }
    }
    // Without the other crates' tests built, their files would seem orphaned: `make test` builds all before it runs any.
    let built_all = compiled.iter().filter(|path| path.ends_with("architecture.rs")).count() > 0
        && MAY_IMPORT.iter().all(|(package, _)| has_test_build(&dir, package));
    if !built_all {
        println!("SKIPPED: not all test targets are built; run `make test`");
        return;
    }
    for path in rust_files() {
        let builds_itself = path.ends_with("build.rs");
        assert!(
            builds_itself || compiled.contains(&root().join(&path)),
            "{} is not compiled",
            path.display()
        );
    }
}

fn has_test_build(deps: &Path, package: &str) -> bool {
    let prefix = format!("{package}-");
    std::fs::read_dir(deps)
        .expect("target/debug/deps")
        .flatten()
        .any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&prefix) && name.ends_with(".d")
        })
        || package == "tests"
}
