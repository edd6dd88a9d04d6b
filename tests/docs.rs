//! The documentation names only what there is: files that exist, make targets that exist.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
        .to_owned()
}

fn markdown_files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"])
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

/// Targets of `[text](target)`, outside links and anchors aside.
fn links(text: &str) -> Vec<String> {
    let targets = text
        .match_indices("](")
        .map(|(at, opening)| &text[at + opening.len()..]);
    targets
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split('#').next().unwrap_or_default().to_owned())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

#[test]
fn every_link_leads_to_a_file() {
    for page in markdown_files() {
        let text = std::fs::read_to_string(root().join(&page)).expect("readable");
        let folder = page.parent().map(Path::to_owned).unwrap_or_default();
        for target in links(&text) {
            assert!(
                root().join(&folder).join(&target).exists(),
                "{} links to {target}, which is not there",
                page.display()
            );
        }
    }
}

#[test]
fn every_make_target_that_is_mentioned_exists() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).expect("a Makefile");
    for page in markdown_files() {
        let text = std::fs::read_to_string(root().join(&page)).expect("readable");
        let mentions = text.match_indices("`make ").chain(text.match_indices("\nmake "));
        for rest in mentions.map(|(at, words)| &text[at + words.len()..]) {
            let target: String = rest
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                .collect();
            let defined = target.is_empty() || makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
            assert!(
                defined,
                "{} mentions `make {target}`, which the Makefile does not have",
                page.display()
            );
        }
    }
}
