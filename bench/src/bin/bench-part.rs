//! A process of a measurement that must be pinned or live in a network of its own:
//!
//! - `bench-part whole`: llama.cpp's own loop, asked by lines of JSON (see `bench::peer`);
//! - `bench-part rpc-server <ip:port> <threads>`: one of llama.cpp's RPC servers;
//! - `bench-part link <listen ip:port> <target ip:port> <delay us> <jitter us> <seed>`: a link with a delay.

use std::io::{BufRead, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use bench::peer::{Answering, Measured, PeerSpec, Question};
use bench::{Result, failed, trying};
use engine::reference::rpc;
use engine::{Device, Runtime};
use linkemu::forward::{Delay, forward};
use serde::Serialize;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ended = match words.as_slice() {
        ["whole"] => whole(),
        ["rpc-server", endpoint, threads] => rpc_server(endpoint, threads),
        ["link", listen, target, delay_us, jitter_us, seed] => link(listen, target, [delay_us, jitter_us, seed]),
        _ => Err(failed("bench-part", "whole | rpc-server … | link …; see its source")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-part: {error}");
            ExitCode::FAILURE
        }
    }
}

fn say(line: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(line).map_err(trying("an answer"))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").map_err(trying("an answer"))?;
    out.flush().map_err(trying("an answer"))
}

/// One answer per line, until there are no more questions.
fn whole() -> Result<()> {
    let mut lines = std::io::stdin().lock().lines();
    let Some(spec) = lines.next() else {
        return Ok(());
    };
    let spec: PeerSpec = serde_json::from_str(&spec.map_err(trying("the first line"))?).map_err(trying("its spec"))?;
    let mut model = match Answering::load(&spec) {
        Ok(model) => model,
        Err(error) => return say(&Measured::Failed(error.to_string())),
    };
    say(&Measured::Ready)?;
    for line in lines {
        let line = line.map_err(trying("a question"))?;
        let question: Question = serde_json::from_str(&line).map_err(trying("a question"))?;
        let measured = model.answer(&question);
        say(&measured.map_or_else(|error| Measured::Failed(error.to_string()), Measured::Rate))?;
    }
    Ok(())
}

fn rpc_server(endpoint: &str, threads: &str) -> Result<()> {
    let threads: u32 = number(threads)?;
    let runtime = Runtime::load_for(None, &Device::Cpu { threads }).map_err(trying("llama.cpp"))?;
    rpc::serve(&runtime, endpoint, threads).map_err(trying("the RPC server"))
}

fn link(listen: &str, target: &str, numbers: [&str; 3]) -> Result<()> {
    let [delay_us, jitter_us, seed] = numbers.map(number::<u64>);
    let delay = Delay {
        base: Duration::from_micros(delay_us?),
        jitter: Duration::from_micros(jitter_us?),
        seed: seed?,
    };
    let listener = TcpListener::bind(listen).map_err(trying(listen))?;
    say(&"listening")?;
    forward(&listener, number(target)?, delay).map_err(trying(listen))
}

fn number<T: FromStr>(word: &str) -> Result<T> {
    word.parse()
        .map_err(|_| failed("bench-part", format!("{word:?} is not what belongs there")))
}
