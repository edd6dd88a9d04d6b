//! What a gateway adds: memory of idle streams, and time per token.
//!
//! A real gateway process with the real tokeniser and the real vocabulary; operator and heads are fakes of this process, so that
//! a token's send and its arrival are read from one clock.

mod client;
mod fakes;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gguf::{Array, Gguf};
use identity::{Credentials, Role};
use localplane::assets;
use localplane::ports::free_port;
use localplane::wait::{Seen, until};
use serde_json::json;

use crate::child::Part;
use crate::error::{Result, failed, trying};
use crate::pinning::Seat;
use crate::realm::Realm;
use crate::report::Report;
use crate::session::Session;
use crate::timing::percentile;
use crate::worker_rig::read_model;

use client::{Client, KEY};
use fakes::{Beat, Emitter, Fakes};

/// Idle streams whose memory is measured.
const IDLE_STREAMS: usize = 500;
/// Streams whose tokens are timed.
const BUSY_STREAMS: usize = 50;
/// Heads behind the gateway: a head takes at most 256 streams of one gateway.
const HEADS: usize = 4;
/// The most that a gateway takes.
const MAX_STREAMS: &str = "1024";
/// Twenty tokens per second and stream: faster than anybody reads.
const BEAT: Duration = Duration::from_millis(50);
/// Ten seconds of tokens.
const BEAT_TOKENS: u32 = 200;
/// Tokens that are left out at the start of a stream: connections open, caches fill.
const WARM_UP_TOKENS: usize = 10;
/// Starting, fetching the vocabulary and reading it.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Opening all streams.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// Each takes twenty seconds.
const MAX_ROUNDS: usize = 2;
/// A token whose text is a plain word in the vocabulary's own writing.
const PLAIN_TOKEN: &str = "Ġthe";

/// Measures both, and notes them.
///
/// # Errors
/// When the gateway does not serve.
pub async fn measure(session: &Session, report: &mut Report) -> Result<()> {
    let (realm, directory) = (&session.realm, session.root());
    let header = read_model(&assets::model()?)?;
    let vocabulary = gguf::vocabulary(&header).map_err(trying("the vocabulary"))?;
    let token = plain_token(&header)?;

    session.say(&format!("gateway: {IDLE_STREAMS} idle streams"));
    let idle = Beat {
        interval: BEAT,
        tokens: 1,
        idle: true,
    };
    let setting = Setting::start(
        realm,
        directory,
        "gateway-idle",
        vocabulary.clone(),
        idle,
        token,
        IDLE_STREAMS,
    )
    .await?;
    let before_mib = rss_mib(setting.gateway.id())?;
    let held = setting.hold_idle().await?;
    let (open, idle_mib) = (setting.emitter.open().min(held.len()), rss_mib(setting.gateway.id())?);
    let children = localplane::process::descendants(setting.gateway.id());
    let children_mib: f64 = children.into_iter().filter_map(|id| rss_mib(id).ok()).sum();
    drop(held);
    drop(setting);

    let beat = Beat {
        interval: BEAT,
        tokens: BEAT_TOKENS,
        idle: false,
    };
    let (mut through, mut direct) = (Vec::new(), Vec::new());
    for round in 1..=session.rounds.min(MAX_ROUNDS) {
        let name = format!("gateway-busy-{round}");
        let setting = Setting::start(realm, directory, &name, vocabulary.clone(), beat, token, BUSY_STREAMS).await?;
        let found = setting.time_tokens().await?;
        drop(setting);
        session.say(&format!(
            "gateway: round {round}: {BUSY_STREAMS} streams, {} tokens",
            found.len()
        ));
        through = quieter(through, found);
        let emitter = Emitter::new(beat, token, BUSY_STREAMS);
        direct = quieter(direct, time_direct(realm, &emitter).await?);
    }

    report.set("gateway.idle_streams", Some(open as f64));
    report.set("gateway.idle_rss_mib", Some(idle_mib + children_mib));
    report.set("gateway.streams", Some(BUSY_STREAMS as f64));
    report.set("gateway.added_us_p50", Some(percentile(&mut through, 0.5)));
    report.set("gateway.added_us_p99", Some(percentile(&mut through, 0.99)));
    report.figures(
        "gateway",
        json!({
            "rss_without_streams_mib": before_mib,
            "rss_per_idle_stream_kib": (idle_mib - before_mib) * 1024.0 / open.max(1) as f64,
            "rss_of_tokeniser_and_renderer_mib": children_mib,
            "tokens_per_second": BUSY_STREAMS as f64 / BEAT.as_secs_f64(),
            "tokens_timed": through.len(),
            "head_to_client_us": summary(&mut through),
            "head_to_client_without_gateway_us": summary(&mut direct),
            "note": "added is the whole way from the head's send to the client's receipt, both TLS connections included",
        }),
    );
    Ok(())
}

/// The round with the lower 99th percentile: a disturbance only adds.
fn quieter(mut before: Vec<f64>, mut found: Vec<f64>) -> Vec<f64> {
    if before.is_empty() || percentile(&mut found, 0.99) < percentile(&mut before, 0.99) {
        found
    } else {
        before
    }
}

fn summary(samples: &mut [f64]) -> serde_json::Value {
    json!({
        "p50": percentile(samples, 0.5),
        "p90": percentile(samples, 0.9),
        "p99": percentile(samples, 0.99),
        "max": percentile(samples, 1.0),
    })
}

/// A gateway process and the cluster around it.
struct Setting {
    emitter: Arc<Emitter>,
    gateway: Part,
    client: Client,
    _fakes: Fakes,
}

impl Setting {
    async fn start(
        realm: &Realm,
        directory: &Path,
        name: &str,
        vocabulary: Vec<u8>,
        beat: Beat,
        token: i32,
        streams: usize,
    ) -> Result<Self> {
        let emitter = Emitter::new(beat, token, streams);
        let fakes = Fakes::start(realm, vocabulary, HEADS, &emitter).await?;
        let directory = directory.join(name);
        let identity = directory.join("identity");
        let role = Role::Gateway {
            pod: "gateway-0".to_owned(),
        };
        realm.store(role, &identity)?;
        let keys = directory.join("keys");
        std::fs::write(&keys, format!("{KEY}\n")).map_err(trying("the gateway's keys"))?;
        let port = free_port().map_err(trying("a free port"))?;
        let mut command = Seat::anywhere().command(&assets::own("shardwright-gateway")?);
        command
            .args(["--pod-name", "gateway-0", "--admin-listen", "127.0.0.1:0"])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--operator-control", &fakes.operator.to_string()])
            .arg("--identity-dir")
            .arg(&identity)
            .arg("--api-keys")
            .arg(&keys)
            .arg("--state-dir")
            .arg(directory.join("state"))
            // One key asks for all of it.
            .args([
                "--max-streams-per-key",
                MAX_STREAMS,
                "--max-streams-per-model",
                MAX_STREAMS,
            ]);
        let mut gateway = Part::spawn(name, command, &directory)?;
        let client = Client::new(port, &realm.bundle_pem())?;
        let ready = until("the gateway serves the model", READY_LIMIT, || async {
            Ok(match client.models().await {
                Ok(true) => Seen::Done(()),
                Ok(false) => Seen::Not("the model is not listed".to_owned()),
                Err(error) => Seen::Not(error.to_string()),
            })
        });
        if let Err(error) = ready.await {
            gateway.check()?;
            return Err(error.into());
        }
        Ok(Self {
            emitter,
            gateway,
            client,
            _fakes: fakes,
        })
    }

    /// Opens all streams, or as many as it may, and waits until each has had its one token.
    async fn hold_idle(&self) -> Result<Vec<client::Stream>> {
        let mut held = Vec::new();
        let started = Instant::now();
        for number in 0..IDLE_STREAMS {
            match self.open_patiently(number, started).await {
                Ok(stream) => held.push(stream),
                Err(error) => {
                    println!("gateway: stream {number}: {error}");
                    break;
                }
            }
        }
        for stream in &mut held {
            stream.next_piece().await?;
        }
        Ok(held)
    }

    /// Tries again until the vocabulary has been read.
    async fn open_patiently(&self, number: usize, started: Instant) -> Result<client::Stream> {
        loop {
            match self.client.open(number, BEAT_TOKENS).await {
                Err(error) if number > 0 || started.elapsed() > OPEN_LIMIT => return Err(error),
                Err(_) => tokio::time::sleep(BEAT).await,
                opened => return opened,
            }
        }
    }

    /// Microseconds from each token's send to its arrival.
    async fn time_tokens(&self) -> Result<Vec<f64>> {
        let mut readers = tokio::task::JoinSet::new();
        let started = Instant::now();
        for number in 0..BUSY_STREAMS {
            let mut stream = self.open_patiently(number, started).await?;
            readers.spawn(async move {
                let mut arrived = Vec::new();
                while let Some(at) = stream.next_piece().await? {
                    arrived.push(at);
                }
                Ok::<_, crate::Error>((number, arrived))
            });
        }
        let mut added = Vec::new();
        while let Some(read) = readers.join_next().await {
            let (number, arrived) = read.map_err(trying("a stream"))??;
            let sent = self.emitter.sent().swap_remove(number);
            added.extend(differences(&sent, &arrived)?);
        }
        Ok(added)
    }
}

/// Resident memory of a process.
fn rss_mib(id: u32) -> Result<f64> {
    let path = format!("/proc/{id}/status");
    let status = std::fs::read_to_string(&path).map_err(trying(&path))?;
    let kib = rss_kib(&status).ok_or_else(|| failed(&path, "no VmRSS"))?;
    Ok(kib / 1024.0)
}

/// The same tokens without a gateway between: what the measurement itself costs.
async fn time_direct(realm: &Realm, emitter: &Arc<Emitter>) -> Result<Vec<f64>> {
    let fakes = Fakes::start(realm, Vec::new(), 1, emitter).await?;
    let (address, role) = fakes
        .heads
        .first()
        .cloned()
        .ok_or_else(|| failed("the fakes", "no head"))?;
    let gateway = Role::Gateway {
        pod: "gateway-0".to_owned(),
    };
    let credentials: Credentials = realm.credentials(gateway)?;
    let arrived = client::read_directly(&credentials, address, role, BUSY_STREAMS).await?;
    let mut added = Vec::new();
    for (sent, arrived) in emitter.sent().iter().zip(&arrived) {
        added.extend(differences(sent, arrived)?);
    }
    Ok(added)
}

/// Microseconds between pairs, but for the first few.
fn differences(sent: &[Instant], arrived: &[Instant]) -> Result<Vec<f64>> {
    if sent.len() != arrived.len() {
        let cause = format!("{} tokens sent, {} pieces received", sent.len(), arrived.len());
        return Err(failed("timing the gateway", cause));
    }
    let pairs = sent.iter().zip(arrived).skip(WARM_UP_TOKENS);
    Ok(pairs
        .map(|(sent, arrived)| arrived.saturating_duration_since(*sent).as_secs_f64() * 1e6)
        .collect())
}

fn rss_kib(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn plain_token(header: &Gguf) -> Result<i32> {
    let missing = || failed("the vocabulary", format!("has no token {PLAIN_TOKEN:?}"));
    let tokens: &Array = header
        .metadata
        .array("tokenizer.ggml.tokens")
        .map_err(trying("the vocabulary"))?;
    let position = tokens.strings().position(|text| text == PLAIN_TOKEN.as_bytes());
    position.and_then(|id| i32::try_from(id).ok()).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{WARM_UP_TOKENS, differences, rss_kib};

    #[test]
    fn resident_memory_is_read_from_the_status() {
        assert_eq!(rss_kib("Name:\tgw\nVmRSS:\t   20480 kB\nThreads:\t3\n"), Some(20480.0));
        assert_eq!(rss_kib("Name:\tgw\n"), None);
    }

    #[test]
    fn tokens_are_paired_with_their_arrival_after_the_warm_up() {
        let sent: Vec<Instant> = (0..WARM_UP_TOKENS + 2).map(|_| Instant::now()).collect();
        let arrived: Vec<Instant> = sent.iter().map(|sent| *sent + Duration::from_micros(250)).collect();
        assert_eq!(differences(&sent, &arrived).unwrap(), [250.0, 250.0]);
        assert!(
            differences(&sent, &arrived[1..]).is_err(),
            "a lost token would shift all others"
        );
    }
}
