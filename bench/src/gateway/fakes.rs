//! What a gateway needs around it: an operator that publishes one model, and heads that emit tokens on a beat.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use identity::tls::server_config;
use identity::{Role, TlsListener};
use proto::control::v1::routes_server::{Routes, RoutesServer};
use proto::control::v1::{ModelRoute, RouteTable, VocabularyPiece, VocabularyRequest, WatchRequest};
use proto::placement::v1::{Pipeline, Placement, Runtime, Source, Stage};
use proto::shard::v1::generate_event::Event;
use proto::shard::v1::head_server::{Head, HeadServer};
use proto::shard::v1::{FinishReason, Finished, GenerateEvent, GenerateRequest, Token};
use sha2::{Digest, Sha256};
use std::time::Instant;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};

use crate::error::{Result, failed, trying};
use crate::realm::{Realm, not_after_unix_s};

/// The model's name towards clients.
pub const MODEL: &str = "measured";
const MODEL_UID: &str = "measured";
const CONTEXT_LENGTH: u32 = 8192;
/// Bytes of the vocabulary in one message.
const PIECE_BYTES: usize = 512 * 1024;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How the heads emit tokens.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    /// Between two tokens of one stream.
    pub interval: Duration,
    /// Tokens of one stream; after them it stays open without an end where `idle`.
    pub tokens: u32,
    /// Never finishes.
    pub idle: bool,
}

/// What the heads share with those who measure.
#[derive(Debug)]
pub struct Emitter {
    beat: Beat,
    /// A token whose text is plain: each one gives one piece of the answer.
    token: i32,
    /// When each token of each stream left, by the number in the request's id.
    sent: Mutex<Vec<Vec<Instant>>>,
    open: AtomicUsize,
}

impl Emitter {
    /// For as many streams.
    pub fn new(beat: Beat, token: i32, streams: usize) -> Arc<Self> {
        Arc::new(Self {
            beat,
            token,
            sent: Mutex::new(vec![Vec::new(); streams]),
            open: AtomicUsize::new(0),
        })
    }

    /// When the tokens left.
    pub fn sent(&self) -> Vec<Vec<Instant>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Streams that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn note(&self, stream: usize) {
        let now = Instant::now();
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = sent.get_mut(stream) {
            stream.push(now);
        }
    }
}

/// The id that tells a head which stream a request is.
pub fn request_id(stream: usize) -> String {
    format!("stream-{stream}")
}

fn stream_of(request_id: &str) -> usize {
    let number = request_id.strip_prefix("stream-");
    number.and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}

struct HeadService(Arc<Emitter>);

/// Counts a stream for as long as it lives.
struct Open(Arc<Emitter>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl Head for HeadService {
    type GenerateStream = BoxStream<GenerateEvent>;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let request = request.into_inner();
        let number = stream_of(&request.request_id);
        let prompt_tokens = u32::try_from(request.prompt_tokens.len()).unwrap_or(u32::MAX);
        let emitter = Arc::clone(&self.0);
        let beat = emitter.beat;
        // Streams are spread over the beat, so that tokens come one by one.
        let streams = emitter.sent().len().max(1);
        let offset = beat.interval.mul_f64((number % streams) as f64 / streams as f64);
        let first = tokio::time::Instant::now() + beat.interval + offset;
        emitter.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(&emitter));
        let tokens = stream::iter(0..beat.tokens).then(move |index| {
            let emitter = Arc::clone(&emitter);
            let due = first + beat.interval * index;
            async move {
                tokio::time::sleep_until(due).await;
                emitter.note(number);
                Ok(GenerateEvent {
                    event: Some(Event::Token(Token {
                        id: emitter.token,
                        position: prompt_tokens + index,
                    })),
                })
            }
        });
        // The last part of the stream lives as long as all of it.
        let end = stream::once(async move {
            let _open = open;
            if beat.idle {
                std::future::pending::<()>().await;
            }
            let finished = Finished {
                reason: FinishReason::Length.into(),
                prompt_tokens,
                completion_tokens: beat.tokens,
                ..Finished::default()
            };
            Ok(GenerateEvent {
                event: Some(Event::Finished(finished)),
            })
        });
        Ok(Response::new(Box::pin(tokens.chain(end))))
    }
}

struct RouteService {
    table: RouteTable,
    vocabulary: Arc<Vec<u8>>,
}

#[tonic::async_trait]
impl Routes for RouteService {
    type WatchStream = BoxStream<RouteTable>;
    type VocabularyStream = BoxStream<VocabularyPiece>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let table = stream::iter([Ok(self.table.clone())]);
        Ok(Response::new(Box::pin(table.chain(stream::pending()))))
    }

    async fn vocabulary(&self, _: Request<VocabularyRequest>) -> Result<Response<Self::VocabularyStream>, Status> {
        let pieces: Vec<_> = self.vocabulary.chunks(PIECE_BYTES).map(<[u8]>::to_vec).collect();
        let pieces = pieces.into_iter().map(|data| Ok(VocabularyPiece { data }));
        Ok(Response::new(Box::pin(stream::iter(pieces))))
    }
}

/// A cluster of one model, on a thread of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Fakes {
    runtime: Option<tokio::runtime::Runtime>,
    /// The operator's control port.
    pub operator: SocketAddr,
    /// The heads' ports, each with the id that answers there.
    pub heads: Vec<(SocketAddr, Role)>,
}

impl Fakes {
    /// Serves as many heads, and an operator that names them.
    ///
    /// # Errors
    /// When a port cannot be opened.
    pub async fn start(realm: &Realm, vocabulary: Vec<u8>, heads: usize, emitter: &Arc<Emitter>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.map_err(trying("the fakes' thread"))?;
        let mut fakes = Self {
            runtime: Some(runtime),
            operator: SocketAddr::from(([127, 0, 0, 1], 0)),
            heads: Vec::new(),
        };
        for number in 0..heads {
            let role = Role::Worker {
                node: format!("node-{number}"),
                model_uid: MODEL_UID.to_owned(),
            };
            let mut services = RoutesBuilder::default();
            services.add_service(HeadServer::new(HeadService(Arc::clone(emitter))));
            let address = fakes.serve(realm, role.clone(), services).await?;
            fakes.heads.push((address, role));
        }
        let mut services = RoutesBuilder::default();
        services.add_service(RoutesServer::new(RouteService {
            table: fakes.table(realm, &vocabulary),
            vocabulary: Arc::new(vocabulary),
        }));
        let role = Role::Operator {
            pod: "operator-0".to_owned(),
        };
        fakes.operator = fakes.serve(realm, role, services).await?;
        Ok(fakes)
    }

    async fn serve(&self, realm: &Realm, role: Role, services: RoutesBuilder) -> Result<SocketAddr> {
        let runtime = self.runtime.as_ref().ok_or_else(|| failed("the fakes", "have ended"))?;
        let config = server_config(&realm.credentials(role)?);
        let listening = runtime.spawn(async { TlsListener::bind("127.0.0.1:0", config).await });
        let listener = listening
            .await
            .map_err(trying("a fake"))?
            .map_err(trying("a fake's port"))?;
        let address = listener.local_addr();
        let server = identity::grpc_server().add_routes(services.routes());
        runtime.spawn(server.serve_with_incoming(listener.incoming()));
        Ok(address)
    }

    fn table(&self, realm: &Realm, vocabulary: &[u8]) -> RouteTable {
        let pipeline = |number: usize| Pipeline {
            stages: vec![Stage {
                node: format!("node-{number}"),
                ..Stage::default()
            }],
            ..Pipeline::default()
        };
        let placement = Placement {
            epoch: 1,
            model_uid: MODEL_UID.to_owned(),
            namespace: "default".to_owned(),
            name: MODEL.to_owned(),
            not_after_unix_s: not_after_unix_s(),
            source: Some(Source {
                index_sha256: Sha256::digest(vocabulary).to_vec(),
                ..Source::default()
            }),
            runtime: Some(Runtime {
                context_length: CONTEXT_LENGTH,
                ..Runtime::default()
            }),
            pipelines: (0..self.heads.len()).map(pipeline).collect(),
            ..Placement::default()
        };
        let route = ModelRoute {
            model_uid: MODEL_UID.to_owned(),
            namespace: "default".to_owned(),
            name: MODEL.to_owned(),
            envelope: Some(realm.sign(&placement)),
            head_endpoints: self.heads.iter().map(|(address, _)| address.to_string()).collect(),
            ready: true,
            vocabulary_sha256: Sha256::digest(vocabulary).to_vec(),
            ..ModelRoute::default()
        };
        RouteTable { models: vec![route] }
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        // Not to be waited for: we are on a runtime ourselves.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
