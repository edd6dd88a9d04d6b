//! `shardwright-place` as a person runs it.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

fn scenario(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/scenarios")
        .join(name)
}

fn place(arguments: &[&str], input: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardwright-place"));
    command.args(arguments).stdin(input).output().expect("it runs")
}

#[test]
fn a_scenario_is_answered_from_a_file_and_from_standard_input() {
    let committed = fs::read_to_string(scenario("runs_whole.out")).expect("the committed answer");
    let file = scenario("runs_whole.json");
    let from_file = place(&[file.to_str().expect("a path of text")], Stdio::null());
    let from_input = place(&["-"], File::open(&file).expect("the scenario").into());
    for answered in [from_file, from_input] {
        assert!(answered.status.success(), "{answered:?}");
        assert_eq!(String::from_utf8_lossy(&answered.stdout), committed);
    }
}

#[test]
fn what_cannot_be_answered_is_told_with_its_path_and_a_failure() {
    let told = |arguments: &[&str], code: i32, words: &str| {
        let refused = place(arguments, Stdio::null());
        assert_eq!(refused.status.code(), Some(code), "{refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(words), "{refused:?}");
    };
    told(&[], 64, "usage: shardwright-place");
    told(&["one", "two"], 64, "usage: shardwright-place");
    told(&["no/such.toml"], 1, "no/such.toml: ");
    told(&["-"], 1, "-: not a scenario");
}
