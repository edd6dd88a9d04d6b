//! Reading models over the network: what is read, how often, and from whom.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inspected;
mod rig;
mod tiny_model;

use agent::shard::weights::{Gauge, Weights};
use agent::source::Kind;
use inspected::{Inspected, PATH, access};
use origin::{Manner, Seen, Server};
use proto::control::v1::ModelFacts;
use rig::{Node, fetched_and_verified, pieces, wanted, weights};
use tokio::runtime::Runtime;

/// Matrices of 80 kB: headers are small beside them.
const ROWS: u64 = 2000;

struct Bench {
    runtime: Runtime,
    server: Server,
    node: Node,
    facts: ModelFacts,
}

impl Bench {
    /// A node that has nothing yet.
    fn new() -> Self {
        let runtime = rig::runtime();
        let Inspected { server, facts, .. } = Inspected::of_rows(&runtime, ROWS);
        let node = Node::new(&runtime);
        Self {
            runtime,
            server,
            node,
            facts,
        }
    }

    fn weights(&self, first: u32, end: u32) -> Weights {
        let wanted = wanted(&self.facts, &self.server.url(PATH), Some(access(&self.server)));
        weights(&self.node.models, &self.facts, wanted, first, end)
    }
}

#[test]
fn an_inspection_reads_the_source_once() {
    let runtime = rig::runtime();
    let server = Server::start().unwrap();
    let bytes = tiny_model::bytes(ROWS);
    server.put(PATH, bytes.clone());
    let node = Node::new(&runtime);
    let facts = rig::inspect(&runtime, &node.models, &server.url(PATH), Some(access(&server)), &[]).unwrap();
    assert_eq!(facts.file_bytes, bytes.len() as u64);
    assert!(
        server.sent() < bytes.len() as u64 + bytes.len() as u64 / 20,
        "{}",
        server.sent()
    );
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.authorization.as_deref() == Some("Bearer secret-token"))
    );
}

#[test]
fn a_third_of_the_layers_is_a_third_of_the_bytes() {
    let bench = Bench::new();
    let weights = bench.weights(2, 4);
    fetched_and_verified(&weights).unwrap();
    let (sent, whole) = (bench.server.sent(), bench.facts.file_bytes);
    println!(
        "third of the layers: {sent} of {whole} bytes, {} requests",
        bench.server.seen().len()
    );
    assert!(
        sent as f64 <= whole as f64 / 3.0 + whole as f64 * 0.05,
        "{sent} of {whole}"
    );
    // What is not counted is the one byte by which each file's length is asked for.
    let uncounted = sent - bench.node.models.counters().bytes(Kind::Https);
    assert!(uncounted <= 3, "{uncounted} bytes, {:?}", bench.server.seen());
}

#[test]
fn the_neighbouring_tensors_of_a_layer_are_read_in_one_range() {
    let bench = Bench::new();
    let weights = bench.weights(2, 4);
    weights.fetch(&Gauge::default()).unwrap();
    let large = |seen: &&Seen| seen.range.is_some_and(|(first, last)| last - first > 100_000);
    let ranges = bench.server.seen();
    assert_eq!(ranges.iter().filter(large).count(), 2, "{ranges:?}");
}

#[test]
fn another_cut_fetches_only_the_layers_that_are_missing() {
    let bench = Bench::new();
    fetched_and_verified(&bench.weights(1, 4)).unwrap();
    bench.server.forget();
    fetched_and_verified(&bench.weights(2, 5)).unwrap();
    let layer = bench.facts.layers[4].weight_bytes;
    let sent = bench.server.sent();
    assert!(sent >= layer && sent < layer + 2000, "{sent} for a layer of {layer}");
    bench.server.forget();
    fetched_and_verified(&bench.weights(1, 3)).unwrap();
    assert_eq!((bench.server.sent(), bench.server.seen().len()), (0, 0));
}

#[test]
fn with_everything_on_disk_nobody_is_asked_even_after_a_restart() {
    let mut bench = Bench::new();
    fetched_and_verified(&bench.weights(0, 6)).unwrap();
    bench.weights(0, 6).prepare().unwrap();
    bench.server.forget();
    bench.server.stop();
    bench.node = bench.node.restart(&bench.runtime);
    let weights = bench.weights(0, 6);
    fetched_and_verified(&weights).unwrap();
    weights.prepare().unwrap();
    assert!(bench.server.seen().is_empty());
}

#[test]
fn a_fetch_that_was_cut_off_keeps_the_tensors_that_were_right() {
    let mut bench = Bench::new();
    let first_layer = bench.facts.layers[2].weight_bytes;
    // The first tensor of the layer comes whole, the second one does not.
    bench.server.behave(|seen| match seen.range {
        Some((first, last)) if last - first > 100_000 && !seen.path.ends_with("json") => Manner::Truncate(120_000),
        _ => Manner::Serve,
    });
    // Each attempt brings a part, so the fetch would come to its end: it is called off instead.
    let gauge = Gauge::default();
    let weights = bench.weights(2, 3);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = std::time::Instant::now();
            while gauge.read().0 < first_layer / 4 && begun.elapsed() < std::time::Duration::from_secs(60) {
                std::thread::yield_now();
            }
            gauge.cancel();
        });
        // Whether it was quicker than the call is of no matter here.
        let _ = weights.fetch(&gauge);
    });
    bench.server.behave(|_| Manner::Serve);
    bench.server.forget();
    bench.node = bench.node.restart(&bench.runtime);
    let weights = bench.weights(2, 3);
    fetched_and_verified(&weights).unwrap();
    assert!(
        bench.server.sent() < first_layer,
        "{} of {first_layer}",
        bench.server.sent()
    );
}

#[test]
fn a_tensor_that_came_damaged_is_read_once_more() {
    let bench = Bench::new();
    let once = std::sync::atomic::AtomicBool::new(false);
    bench.server.behave(move |seen| {
        let large = seen.range.is_some_and(|(first, last)| last - first > 50_000);
        if large && !once.swap(true, std::sync::atomic::Ordering::SeqCst) {
            Manner::Damage
        } else {
            Manner::Serve
        }
    });
    fetched_and_verified(&bench.weights(2, 4)).unwrap();
    bench.server.behave(|seen| match seen.range {
        Some((first, last)) if last - first > 50_000 => Manner::Damage,
        _ => Manner::Serve,
    });
    let fault = bench.weights(4, 5).fetch(&Gauge::default()).unwrap_err();
    assert_eq!(fault.reason, "DigestMismatch");
    assert!(
        fault.message.contains("blk.4.") && fault.message.contains(&bench.server.host()),
        "{}",
        fault.message
    );
    let folder = rig::path_of(&bench.node.models, &bench.facts);
    assert!(!pieces(&folder).contains(&"layer-00004.gguf".to_owned()));
}

#[test]
fn two_shards_of_one_model_fetch_what_both_need_once() {
    let bench = Bench::new();
    let (one, two) = (bench.weights(0, 6), bench.weights(1, 5));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| fetched_and_verified(&one));
        let second = scope.spawn(|| fetched_and_verified(&two));
        first.join().unwrap().unwrap();
        second.join().unwrap().unwrap();
    });
    let sent = bench.server.sent();
    let most = bench.facts.file_bytes + bench.facts.file_bytes / 10;
    assert!(sent < most, "{sent} bytes for a file of {}", bench.facts.file_bytes);
}

#[test]
fn a_model_in_two_files_is_fetched_like_one() {
    let runtime = rig::runtime();
    let server = Server::start().unwrap();
    let [first, second] = tiny_model::split(ROWS);
    server.put("/s/m-00001-of-00002.gguf", first);
    server.put("/s/m-00002-of-00002.gguf", second);
    let node = Node::new(&runtime);
    let uri = server.url("/s/m-00001-of-00002.gguf");
    let facts = rig::inspect(&runtime, &node.models, &uri, Some(access(&server)), &[]).unwrap();
    let shard = weights(&node.models, &facts, wanted(&facts, &uri, Some(access(&server))), 0, 6);
    fetched_and_verified(&shard).unwrap();
    shard.prepare().unwrap();
    let part = rig::inspect(
        &runtime,
        &node.models,
        &server.url("/s/m-00002-of-00002.gguf"),
        Some(access(&server)),
        &[],
    );
    assert!(part.unwrap_err().message.contains("00001-of-00002"));
}
