//! The sides of the comparison: two workers, the whole model alone, llama.cpp's RPC backend; each on one core per host.

use std::path::Path;

use localplane::assets;
use localplane::ports::free_port;
use worker::config::RuntimeConfig;

use crate::child::Part;
use crate::driver::Driver;
use crate::error::{Result, trying};
use crate::listening;
use crate::netns::{End, Host, Network};
use crate::peer::{self, Peer, PeerSpec, Question};
use crate::session::Session;
use crate::worker_rig::{Pipeline, PipelineSpec, StageSpec, layers, runtime};

/// The core of everything on the head's host, and of the whole model.
pub const HEAD_CORE: usize = 0;
/// The core of everything on the tail's host.
pub const TAIL_CORE: usize = 1;
/// One-way delay of the slow links.
pub const DELAY_US: u64 = 1000;
/// Streams that are decoded together.
pub const STREAMS: u32 = 8;
/// Positions of each stream.
const CONTEXT_LENGTH: u32 = 1152;
/// One core has room for one.
const THREADS: u32 = 1;

/// How long the links between the hosts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Virtual cables as they are.
    Bare,
    /// [`DELAY_US`] more in each direction.
    Delayed,
}

/// How llama.cpp is spread over the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrangement {
    /// An RPC server on each host, the client on the head's: the way that its documentation shows, and the one in which
    /// micro-batches overlap.
    Servers,
    /// The client computes the first layers itself, an RPC server on the tail's host the others: fewer messages.
    LocalHead,
}

/// A side that can be asked.
#[derive(Debug)]
pub struct Contestant {
    /// For the file.
    pub name: String,
    side: Side,
    // What serves it, and ends with it.
    _parts: Vec<Part>,
}

#[derive(Debug)]
enum Side {
    Ours(Pipeline, Driver),
    Peer(Peer),
}

impl Contestant {
    /// Tokens per second.
    ///
    /// # Errors
    /// When it cannot do it.
    pub async fn ask(&mut self, question: &Question) -> Result<f64> {
        match &mut self.side {
            Side::Peer(peer) => peer.ask(question).await,
            Side::Ours(pipeline, driver) => match driver.measure(question).await {
                Ok(rate) => Ok(rate),
                Err(error) => pipeline.check().and(Err(error)),
            },
        }
    }

    /// The workers, where it is ours.
    pub fn pipeline(&self) -> Option<&Pipeline> {
        match &self.side {
            Side::Ours(pipeline, _) => Some(pipeline),
            Side::Peer(_) => None,
        }
    }
}

/// Two stages, each on its host and its core, cut after `cut` layers.
///
/// # Errors
/// When the model is missing.
pub fn pair(name: &str, network: &Network, cut: u32, runtime: RuntimeConfig) -> Result<PipelineSpec> {
    let stage = |host, core, end_layer, end: End| StageSpec {
        seat: network.seat(host, Some(core)),
        end_layer,
        threads: THREADS,
        address: network.address(end).to_string(),
    };
    Ok(PipelineSpec {
        name: name.to_owned(),
        stages: vec![
            stage(Host::Head, HEAD_CORE, cut, End::HeadToDriver),
            stage(Host::Tail, TAIL_CORE, layers()?, End::TailToHead),
        ],
        runtime,
        keep_awake: true,
        speculate: true,
    })
}

/// Our two stages.
///
/// # Errors
/// When they do not come up.
pub async fn ours(session: &Session, network: &Network, cut: u32, links: Links, name: &str) -> Result<Contestant> {
    let spec = pair(name, network, cut, runtime(CONTEXT_LENGTH, STREAMS))?;
    start(session, network, &spec, links).await
}

/// The same without drafts.
///
/// # Errors
/// When they do not come up.
pub async fn without_drafts(
    session: &Session,
    network: &Network,
    cut: u32,
    links: Links,
    name: &str,
) -> Result<Contestant> {
    let mut spec = pair(name, network, cut, runtime(CONTEXT_LENGTH, STREAMS))?;
    spec.speculate = false;
    start(session, network, &spec, links).await
}

/// The same, letting their cores sleep while they wait.
///
/// # Errors
/// When they do not come up.
pub async fn asleep(session: &Session, network: &Network, cut: u32, name: &str) -> Result<Contestant> {
    let mut spec = pair(name, network, cut, runtime(CONTEXT_LENGTH, STREAMS))?;
    spec.keep_awake = false;
    start(session, network, &spec, Links::Bare).await
}

async fn start(session: &Session, network: &Network, spec: &PipelineSpec, links: Links) -> Result<Contestant> {
    let directory = session.directory("two-stage")?;
    let name = &spec.name;
    let mut parts = Vec::new();
    let reach = |endpoint: String| match links {
        Links::Bare => Ok(endpoint),
        Links::Delayed => {
            let port = endpoint.rsplit(':').next().unwrap_or_default().to_owned();
            let (part, endpoint, _) = link(session, network, &port, &format!("{name}-link"), &directory)?;
            parts.push(part);
            Ok(endpoint)
        }
    };
    let pipeline = Pipeline::start(&session.realm, spec, &directory, reach).await?;
    let driver = Driver::connect(&session.realm, &pipeline).await?;
    Ok(Contestant {
        name: name.clone(),
        side: Side::Ours(pipeline, driver),
        _parts: parts,
    })
}

/// The whole model on one core of a host.
///
/// # Errors
/// When it cannot be loaded.
pub async fn whole(session: &Session, network: &Network, name: &str, host: Host) -> Result<Contestant> {
    let directory = session.directory("two-stage")?;
    let spec = PeerSpec::alone(THREADS, CONTEXT_LENGTH, STREAMS)?;
    let seat = network.seat(host, Some(core_of(host)));
    Ok(Contestant {
        name: name.to_owned(),
        side: Side::Peer(Peer::start(name, &seat, &spec, &directory).await?),
        _parts: Vec::new(),
    })
}

fn core_of(host: Host) -> usize {
    match host {
        Host::Head | Host::Link => HEAD_CORE,
        Host::Tail => TAIL_CORE,
    }
}

/// llama.cpp's RPC backend with the same split.
///
/// # Errors
/// When a server or the client does not come up.
pub async fn rpc(
    session: &Session,
    network: &Network,
    cut: u32,
    arrangement: Arrangement,
    links: Links,
    name: &str,
) -> Result<Contestant> {
    let directory = session.directory("two-stage")?;
    let mut spec = PeerSpec::alone(THREADS, CONTEXT_LENGTH, STREAMS)?;
    let mut parts = Vec::new();
    // The output head counts as a layer in llama.cpp's split.
    let tail_share = (layers()? + 1 - cut) as f32;
    match arrangement {
        Arrangement::Servers => {
            let (part, port) = server(network, Host::Head, &format!("{name}-head"), &directory).await?;
            parts.push(part);
            spec.servers.push(format!("127.0.0.1:{port}"));
            spec.shares = vec![cut as f32, tail_share];
        }
        Arrangement::LocalHead => {
            spec.local_layers = cut;
            spec.shares = vec![tail_share];
        }
    }
    let (part, port) = server(network, Host::Tail, &format!("{name}-tail"), &directory).await?;
    parts.push(part);
    spec.servers.push(match links {
        Links::Bare => format!("{}:{port}", network.address(End::TailToHead)),
        Links::Delayed => {
            let (mut part, endpoint, near) =
                link(session, network, &port.to_string(), &format!("{name}-link"), &directory)?;
            listening::wait(&mut part, near).await?;
            parts.push(part);
            endpoint
        }
    });
    let seat = network.seat(Host::Head, Some(HEAD_CORE));
    Ok(Contestant {
        name: name.to_owned(),
        side: Side::Peer(Peer::start(name, &seat, &spec, &directory).await?),
        _parts: parts,
    })
}

/// An RPC server on a host, and its port.
async fn server(network: &Network, host: Host, name: &str, directory: &Path) -> Result<(Part, u16)> {
    let port = free_port().map_err(trying("a free port"))?;
    let mut command = network
        .seat(host, Some(core_of(host)))
        .command(&assets::own(peer::EXECUTABLE)?);
    command.args(["rpc-server", &format!("0.0.0.0:{port}"), &THREADS.to_string()]);
    let mut part = Part::spawn(name, command, directory)?;
    listening::wait(&mut part, port).await?;
    Ok((part, port))
}

/// A delayed way to a port of the tail's host: its process, its endpoint as the head's host sees it, its port.
fn link(session: &Session, network: &Network, port: &str, name: &str, directory: &Path) -> Result<(Part, String, u16)> {
    let near = free_port().map_err(trying("a free port"))?;
    let endpoint = format!("{}:{near}", network.address(End::LinkToHead));
    let target = format!("{}:{port}", network.address(End::TailToLink));
    let mut command = network.seat(Host::Link, None).command(&assets::own(peer::EXECUTABLE)?);
    command.args([
        "link",
        &endpoint,
        &target,
        &DELAY_US.to_string(),
        &session.jitter_us.to_string(),
        "1",
    ]);
    Ok((Part::spawn(name, command, directory)?, endpoint, near))
}
