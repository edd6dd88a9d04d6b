//! A pipeline of real worker processes, as agents start them: pieces cut, configurations written, a signed placement installed
//! over each control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gguf::{Gguf, Limits, Pieces, SlicePlan, pieces, prepare_slice, write_piece};
use identity::{Role, SpiffeId};
use localplane::assets;
use localplane::wait::{Seen, until};
use prost::Message as _;
use proto::placement::v1 as placement;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use worker::config::{Backend, KvType, PressureConfig, RuntimeConfig, SliceFiles, WorkerConfig, validate};
use worker::control::{Answer, Phase, Request, Status};

use crate::child::Part;
use crate::error::{Result, failed, trying};
use crate::pinning::Seat;
use crate::realm::{Realm, TRUST_DOMAIN, not_after_unix_s, spiffe_id};

/// The uid of the model in every placement here.
pub const MODEL_UID: &str = "measured";
/// The epoch of every placement here.
pub const EPOCH: u64 = 1;
/// Loading a small model takes a second or two.
const LOAD_LIMIT: Duration = Duration::from_secs(60);
/// A control request is answered at once.
const CONTROL_LIMIT: Duration = Duration::from_secs(10);
/// No agent stays connected to keep a worker alive, but we do.
const ORPHAN_GRACE_S: u64 = 60;

/// Where one stage runs and what it holds.
#[derive(Debug, Clone)]
pub struct StageSpec {
    /// Network and core.
    pub seat: Seat,
    /// The layer after its last.
    pub end_layer: u32,
    /// Compute threads.
    pub threads: u32,
    /// The address that the stage before it, or the driver, dials.
    pub address: String,
}

/// What a pipeline is made of.
#[derive(Debug, Clone)]
pub struct PipelineSpec {
    /// For file names and messages.
    pub name: String,
    /// In the order of the layers.
    pub stages: Vec<StageSpec>,
    /// What all stages agree on.
    pub runtime: RuntimeConfig,
    /// See the worker's configuration.
    pub keep_awake: bool,
    /// See the worker's configuration.
    pub speculate: bool,
}

/// The runtime that is measured: the operator's own step size, no kept prefixes.
pub fn runtime(context_length: u32, parallel_sequences: u32) -> RuntimeConfig {
    RuntimeConfig {
        context_length,
        parallel_sequences,
        kv_type: KvType::F16,
        max_step_rows: engine::STEP_ROWS,
        kv_cells: 0,
        prefix_sequences: 0,
    }
}

/// The agent's end of a worker's control socket.
#[derive(Debug)]
struct Control {
    stream: Mutex<BufReader<UnixStream>>,
}

impl Control {
    async fn request(&self, request: &Request) -> Result<Answer> {
        let mut line = serde_json::to_vec(request).map_err(trying("a control request"))?;
        line.push(b'\n');
        let asked = async {
            let mut stream = self.stream.lock().await;
            stream.get_mut().write_all(&line).await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(CONTROL_LIMIT, asked).await;
        let answer = answer.map_err(|_| failed("the control socket", "no answer in time"))?;
        let answer = answer.map_err(trying("the control socket"))?;
        serde_json::from_str(&answer).map_err(trying(format!("the worker said {answer:?}")))
    }

    async fn status(&self) -> Result<Status> {
        match self.request(&Request::Status).await? {
            Answer::Status(status) => Ok(status),
            other => Err(failed("the worker's status", format!("{other:?}"))),
        }
    }
}

/// One stage's process.
#[derive(Debug)]
struct Worker {
    part: Part,
    control: Control,
}

impl Worker {
    async fn spawn(name: &str, config: &WorkerConfig, seat: &Seat, directory: &Path) -> Result<Self> {
        validate(config).map_err(trying(name))?;
        let path = directory.join(format!("{name}.json"));
        let text = serde_json::to_vec_pretty(config).map_err(trying(name))?;
        std::fs::write(&path, text).map_err(trying(path.display().to_string()))?;
        let mut command = seat.command(&assets::own("shardwright-worker")?);
        // As an agent starts it.
        command
            .arg("--config")
            .arg(&path)
            .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        let mut part = Part::spawn(name, command, directory)?;
        let socket = &config.control_socket;
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(_) => part.check()?,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let stream = Mutex::new(BufReader::new(stream));
        Ok(Self {
            part,
            control: Control { stream },
        })
    }

    /// Its endpoint, once it serves.
    async fn endpoint(&mut self) -> Result<String> {
        let control = &self.control;
        let served = until("the worker serves", LOAD_LIMIT, || async move {
            let status = control
                .status()
                .await
                .map_err(|e| localplane::Error::Other(e.to_string()))?;
            if status.phase == Phase::Failed {
                return Err(localplane::Error::Other(format!("{status:?}")));
            }
            Ok(status.endpoint.map_or(Seen::Not("loading".to_owned()), Seen::Done))
        });
        match served.await {
            Ok(endpoint) => Ok(endpoint),
            Err(error) => self.part.check().and(Err(error.into())),
        }
    }
}

/// Workers that serve together. Dropping it ends them.
#[derive(Debug)]
pub struct Pipeline {
    workers: Vec<Worker>,
    head: SpiffeId,
    endpoint: String,
}

impl Pipeline {
    /// Starts the workers and installs the placement, from the tail to the head. `reach` may change the endpoint by which a
    /// stage reaches the next one.
    ///
    /// # Errors
    /// When a worker does not come up, with the end of its log.
    pub async fn start(
        realm: &Realm,
        spec: &PipelineSpec,
        directory: &Path,
        mut reach: impl FnMut(String) -> Result<String>,
    ) -> Result<Self> {
        let configs = configure(realm, spec, directory)?;
        let mut workers = Vec::new();
        for (index, (config, stage)) in configs.iter().zip(&spec.stages).enumerate() {
            let name = format!("{}-{index}", spec.name);
            workers.push(Worker::spawn(&name, config, &stage.seat, directory).await?);
        }
        let envelope = STANDARD.encode(realm.sign(&place(spec)).encode_to_vec());
        let mut next: Option<String> = None;
        for worker in workers.iter_mut().rev() {
            let request = Request::Install {
                envelope: envelope.clone(),
                next: next.map(&mut reach).transpose()?,
            };
            match worker.control.request(&request).await? {
                Answer::Outcome { ok: true, .. } => {}
                other => return Err(failed("installing the placement", format!("{other:?}"))),
            }
            next = Some(worker.endpoint().await?);
        }
        Ok(Self {
            workers,
            head: spiffe_id(role(0))?,
            endpoint: next.unwrap_or_default(),
        })
    }

    /// Where the head answers, and who it is.
    pub fn head(&self) -> (&str, &SpiffeId) {
        (&self.endpoint, &self.head)
    }

    /// An error that shows the log of the first worker that has ended.
    ///
    /// # Errors
    /// That one.
    pub fn check(&mut self) -> Result<()> {
        self.workers.iter_mut().try_for_each(|worker| worker.part.check())
    }

    /// One metric of every stage, labels added up; `None` for a stage that does not count it.
    ///
    /// # Errors
    /// When a worker does not answer.
    pub async fn metric(&self, name: &str) -> Result<Vec<Option<f64>>> {
        let mut values = Vec::new();
        for worker in &self.workers {
            match worker.control.request(&Request::Metrics).await? {
                Answer::Metrics { text } => values.push(sum_of(&text, name)),
                other => return Err(failed("the worker's metrics", format!("{other:?}"))),
            }
        }
        Ok(values)
    }
}

/// The sum over all label sets of one name in the text exposition format.
fn sum_of(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.split_once('}') {
            Some((labels, value)) => labels.starts_with('{').then_some(value)?,
            None => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value)
}

fn node(stage: usize) -> String {
    format!("node-{stage}")
}

fn role(stage: usize) -> Role {
    Role::Worker {
        node: node(stage),
        model_uid: MODEL_UID.to_owned(),
    }
}

/// The header of a model file.
///
/// # Errors
/// When it cannot be read.
pub fn read_model(model: &Path) -> Result<Gguf> {
    let mut file = std::fs::File::open(model).map_err(trying(model.display().to_string()))?;
    let length = file.metadata().map_err(trying("the model"))?.len();
    Gguf::parse(&mut file, length, Limits::default()).map_err(trying("the model"))
}

/// Layers of the model that is measured.
///
/// # Errors
/// When it cannot be read.
pub fn layers() -> Result<u32> {
    let header = read_model(&assets::model()?)?;
    Ok(pieces(&header).map_err(trying("the model"))?.layer_count())
}

/// Cuts the model and writes every stage's identity; gives the stages' configurations.
fn configure(realm: &Realm, spec: &PipelineSpec, directory: &Path) -> Result<Vec<WorkerConfig>> {
    let model = assets::model()?;
    let header = read_model(&model)?;
    let pieces = pieces(&header).map_err(trying("the model"))?;
    let mut configs = Vec::new();
    let mut first_layer = 0;
    for (index, stage) in spec.stages.iter().enumerate() {
        let (slice, embedding) = slice(&model, &header, &pieces, (first_layer, stage.end_layer), directory)?;
        let identity_dir = directory.join(format!("{}-{index}-identity", spec.name));
        realm.store(role(index), &identity_dir)?;
        configs.push(WorkerConfig {
            model_uid: MODEL_UID.to_owned(),
            node: node(index),
            device: format!("{}-cpu0", node(index)),
            first_layer,
            end_layer: stage.end_layer,
            total_layers: pieces.layer_count(),
            backend: Backend::Cpu,
            device_index: 0,
            group_indices: Vec::new(),
            threads: stage.threads,
            memory_budget_bytes: 0,
            slice,
            embedding,
            embedding_length: pieces.embedding_length(),
            runtime: spec.runtime.clone(),
            listen: "0.0.0.0:0".to_owned(),
            advertise_ip: stage.address.clone(),
            control_socket: directory.join(format!("{}-{index}.sock", spec.name)),
            identity_dir,
            trust_domain: TRUST_DOMAIN.to_owned(),
            orphan_grace_s: ORPHAN_GRACE_S,
            pressure: PressureConfig::default(),
            keep_awake: spec.keep_awake,
            speculate: spec.speculate,
        });
        first_layer = stage.end_layer;
    }
    Ok(configs)
}

/// The files of a slice, and the embedding table where it begins the model. Pieces are written once for all pipelines.
fn slice(
    model: &Path,
    header: &Gguf,
    pieces: &Pieces<'_>,
    (first, end): (u32, u32),
    directory: &Path,
) -> Result<(SliceFiles, Option<PathBuf>)> {
    let cache = directory.join("pieces");
    std::fs::create_dir_all(&cache).map_err(trying(cache.display().to_string()))?;
    let mut source = std::fs::File::open(model).map_err(trying("the model"))?;
    let plan = SlicePlan::new(pieces, first, end).map_err(trying("the cut"))?;
    for piece in plan.needs() {
        let path = cache.join(piece.file_name());
        if !path.exists() {
            write_piece(&mut source, pieces, piece, &path).map_err(trying("cutting the model"))?;
        }
    }
    let files = prepare_slice(&cache, header, first, end).map_err(trying("cutting the model"))?;
    let slice = SliceFiles {
        header: files.header,
        parts: files.parts,
    };
    Ok((slice, files.embedding))
}

/// The placement that an operator would publish.
fn place(spec: &PipelineSpec) -> placement::Placement {
    let mut first_layer = 0;
    let mut stages = Vec::new();
    for (index, stage) in spec.stages.iter().enumerate() {
        stages.push(placement::Stage {
            node: node(index),
            device: format!("{}-cpu0", node(index)),
            backend: "cpu".to_owned(),
            first_layer,
            end_layer: stage.end_layer,
            ..placement::Stage::default()
        });
        first_layer = stage.end_layer;
    }
    let runtime = &spec.runtime;
    placement::Placement {
        epoch: EPOCH,
        model_uid: MODEL_UID.to_owned(),
        not_after_unix_s: not_after_unix_s(),
        runtime: Some(placement::Runtime {
            context_length: runtime.context_length,
            parallel_sequences: runtime.parallel_sequences,
            kv_type: placement::KvType::F16.into(),
            max_step_rows: runtime.max_step_rows,
            kv_cells: runtime.kv_cells,
            prefix_sequences: runtime.prefix_sequences,
            ..placement::Runtime::default()
        }),
        pipelines: vec![placement::Pipeline {
            stages,
            ..placement::Pipeline::default()
        }],
        ..placement::Placement::default()
    }
}

#[cfg(test)]
mod tests {
    use super::sum_of;

    #[test]
    fn a_metric_is_the_sum_of_its_label_sets() {
        let text =
            "# HELP busy x\nbusy_sum 1.5\nsteps{outcome=\"ok\"} 3\nsteps{outcome=\"KvFull\"} 1\nbusy_summary 9\n";
        assert_eq!(sum_of(text, "busy_sum"), Some(1.5));
        assert_eq!(sum_of(text, "steps"), Some(4.0));
        assert_eq!(sum_of(text, "busy"), None);
    }
}
