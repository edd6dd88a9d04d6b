//! The peer of measurements works: llama.cpp's RPC servers hold layers, and the tokens are the whole model's.
//!
//! An executable of its own: it starts itself again as the servers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use engine::Runtime;
use engine::reference::rpc::{self, RpcSplit};
use engine::reference::{WholeConfig, WholeModel};

use support::{LAYERS, cpu, model_file, prompts};

/// For a server to listen.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The first that is tried for a server: below those that the kernel gives out, so that nobody is given it before the server listens.
const FIRST_PORT: u16 = 19_000;
const COMPARED_TOKENS: usize = 16;

fn main() {
    let runtime = Runtime::load_for(None, &cpu()).unwrap();
    if let Some(endpoint) = std::env::args().nth(1).filter(|argument| argument.contains(':')) {
        panic!("{}", rpc::serve(&runtime, &endpoint, 1).unwrap_err());
    }
    let Some(model) = model_file() else { return };
    let config = WholeConfig {
        sequences: 3,
        ..WholeConfig::like_a_stage(cpu(), 128)
    };
    let mut whole = WholeModel::load(&runtime, &model, &config).unwrap();
    let prompts: Vec<Vec<i32>> = prompts()[..3]
        .iter()
        .map(|text| whole.tokenize(text).unwrap())
        .collect();
    let expected = whole.greedy_batch(&prompts, COMPARED_TOKENS).unwrap();
    for (prompt, tokens) in prompts.iter().zip(&expected.tokens) {
        let alone = whole.greedy(prompt, COMPARED_TOKENS).unwrap();
        assert_eq!(&alone.tokens, tokens, "a sequence alone and beside others");
    }

    let servers = [Server::start(), Server::start()];
    let split = |count: usize, local_layers, shares: &[f32]| RpcSplit {
        servers: servers[..count].iter().map(|server| server.endpoint.clone()).collect(),
        local_layers,
        shares: shares.to_vec(),
    };
    for rpc in [split(1, LAYERS / 2, &[]), split(2, 0, &[15.0, 16.0])] {
        let shown = format!("{rpc:?}");
        let mut spread = WholeModel::load(&runtime, &model, &WholeConfig { rpc, ..config.clone() }).unwrap();
        let generated = spread.greedy_batch(&prompts, COMPARED_TOKENS).unwrap();
        assert_eq!(generated.tokens, expected.tokens, "{shown}");
        println!(
            "{shown}: {:.1} tokens/s, whole {:.1}",
            generated.tokens_per_second(),
            expected.tokens_per_second()
        );
    }
    let wrong = split(1, 0, &[1.0, 2.0]);
    assert!(WholeModel::load(&runtime, &model, &WholeConfig { rpc: wrong, ..config }).is_err());
}

/// This executable as an RPC server; ended with the test.
struct Server {
    process: Child,
    endpoint: String,
}

impl Server {
    fn start() -> Self {
        let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        let port = (FIRST_PORT..).find(is_free).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let process = Command::new(std::env::current_exe().unwrap())
            .arg(address.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(started.elapsed() < START_LIMIT, "no server at {address}");
            std::thread::yield_now();
        }
        Self {
            process,
            endpoint: address.to_string(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
