//! `shardwright-place <scenario.toml>`: what the operator would decide, without a cluster. The same tool tests the scenarios.

use std::{
    env,
    fs::File,
    io::{self, Read},
    process::ExitCode,
};

use placement::scenario;

/// A scenario of a thousand devices has less than a megabyte.
const MAX_SCENARIO_BYTES: u64 = 16 << 20;

const USAGE: &str = "usage: shardwright-place <scenario.toml>; JSON is read too, and - is standard input";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [path] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    let decided = read(path)
        .map_err(|error| format!("{path}: {error}"))
        .and_then(|text| scenario::run(&text).map_err(|error| format!("{path}: {error}")));
    match decided {
        Ok(answer) => {
            print!("{answer}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("shardwright-place: {message}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &str) -> io::Result<String> {
    let mut text = String::new();
    let source: Box<dyn Read> = if path == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path)?)
    };
    source.take(MAX_SCENARIO_BYTES).read_to_string(&mut text)?;
    Ok(text)
}
