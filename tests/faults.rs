//! The list of faults (`faults.toml`): each names tests that exist, and the documentation shows it.
//!
//! After a change that is meant: `UPDATE_FAULTS=1 cargo test -p tests --test faults`, then read the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

const PAGE: &str = "docs/reliability.md";
const BEGIN: &str = "<!-- from tests/faults.toml: begin -->\n";
const END: &str = "<!-- from tests/faults.toml: end -->\n";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    group: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    letter: String,
    title: String,
    fault: Vec<Fault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    /// The group's letter and a number.
    id: String,
    /// What breaks.
    fault: String,
    /// What a user of the product sees.
    outcome: String,
    /// `file::function` of each test that shows it.
    tests: Vec<String>,
    /// What of it no test shows, or why it cannot happen here.
    missing: String,
    /// It can happen to this product.
    #[serde(default = "applies")]
    applies: bool,
}

fn applies() -> bool {
    true
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Proved,
    InPart,
    NotProved,
    DoesNotApply,
}

impl Fault {
    fn state(&self) -> State {
        match (self.applies, self.tests.is_empty(), self.missing.is_empty()) {
            (false, ..) => State::DoesNotApply,
            (true, true, _) => State::NotProved,
            (true, false, false) => State::InPart,
            (true, false, true) => State::Proved,
        }
    }

    fn proof(&self) -> String {
        let files: BTreeSet<&str> = self
            .tests
            .iter()
            .filter_map(|test| Some(test.split_once("::")?.0))
            .collect();
        let names = files.iter().map(|file| format!("[{}](../{file})", short(file)));
        let shown = names.collect::<Vec<_>>().join(", ");
        match self.state() {
            State::Proved => format!("yes: {shown}"),
            State::InPart => format!("in part: {shown}. Not: {}", self.missing),
            State::NotProved => format!("no: {}", self.missing),
            State::DoesNotApply => self.missing.clone(),
        }
    }
}

/// A file by its name, or its folder's where that says more.
fn short(file: &str) -> &str {
    let mut parts = file.trim_end_matches(".rs").rsplit('/');
    let name = parts.next().unwrap_or(file);
    match name {
        "tests" | "mod" | "main" | "lib" => parts.next().unwrap_or(name),
        name => name,
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
        .to_owned()
}

fn list() -> List {
    let text = fs::read_to_string(root().join("tests/faults.toml")).expect("the list");
    toml::from_str(&text).expect("a list of faults")
}

/// Names of the functions of a file that are tests.
fn tests_of(file: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut tests = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let name = line.trim_start_matches("async ").strip_prefix("fn ");
        let name = name.and_then(|rest| rest.split(['(', '<']).next());
        if let Some(name) = name.filter(|_| std::mem::take(&mut is_test)) {
            tests.insert(name.to_owned());
        }
    }
    tests
}

fn page(list: &List) -> String {
    let mut states: BTreeMap<State, usize> = BTreeMap::new();
    for fault in list.group.iter().flat_map(|group| &group.fault) {
        *states.entry(fault.state()).or_default() += 1;
    }
    let count = |state: State| states.get(&state).copied().unwrap_or(0);
    let mut page = format!(
        "Of {} faults {} are proved, {} in part, {} are not, and {} cannot happen here.\n",
        states.values().sum::<usize>(),
        count(State::Proved),
        count(State::InPart),
        count(State::NotProved),
        count(State::DoesNotApply),
    );
    for group in &list.group {
        write!(
            page,
            "\n### {}\n\n| | fault | what a user sees | proved |\n|---|---|---|---|\n",
            group.title
        )
        .expect("a string takes all");
        for fault in &group.fault {
            let cells = [&fault.id, &fault.fault, &fault.outcome, &fault.proof()].map(|cell| cell.replace('|', "\\|"));
            writeln!(page, "| {} |", cells.join(" | ")).expect("a string takes all");
        }
    }
    page
}

#[test]
fn every_test_that_the_list_of_faults_names_exists() {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let list = list();
    for fault in list.group.iter().flat_map(|group| &group.fault) {
        for test in &fault.tests {
            let (file, name) = test
                .split_once("::")
                .unwrap_or_else(|| panic!("{}: {test} names no test", fault.id));
            let tests = known.entry(file.to_owned()).or_insert_with(|| tests_of(file));
            assert!(tests.contains(name), "{}: there is no test {name} in {file}", fault.id);
        }
    }
}

#[test]
fn every_fault_of_the_list_has_its_own_number_and_says_what_is_not_proved() {
    let list = list();
    let mut ids = BTreeSet::new();
    for group in &list.group {
        for fault in &group.fault {
            let id = &fault.id;
            assert!(id.starts_with(&group.letter) && ids.insert(id), "{id}");
            assert!(!fault.fault.is_empty() && !fault.outcome.is_empty(), "{id}");
            assert!(
                !fault.tests.is_empty() || !fault.missing.is_empty(),
                "{id} is neither proved nor explained"
            );
        }
    }
}

#[test]
fn the_page_on_reliability_shows_the_list_of_faults() {
    let path = root().join(PAGE);
    let text = fs::read_to_string(&path).expect("the page");
    let (before, rest) = text.split_once(BEGIN).expect("the list begins");
    let (shown, after) = rest.split_once(END).expect("the list ends");
    let wanted = format!("\n{}\n", page(&list()));
    if env::var_os("UPDATE_FAULTS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("the page is written");
        return;
    }
    assert!(
        shown == wanted,
        "{PAGE} is not of tests/faults.toml: UPDATE_FAULTS=1 cargo test -p tests --test faults"
    );
}
