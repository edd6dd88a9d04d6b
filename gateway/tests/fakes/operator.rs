//! An operator that publishes what a test tells it to.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt};
use gguf::encode::HeaderBuilder;
use gguf::{Array, Value};
use identity::tls::server_config;
use identity::{Held, Role, Wanted};
use proto::control::v1::routes_server::{Routes, RoutesServer};
use proto::control::v1::trust_server::{Trust as TrustRpc, TrustServer};
use proto::control::v1::{
    ModelRoute, RouteTable, TrustHeld, TrustWanted, VocabularyPiece, VocabularyRequest, WatchRequest,
};
use proto::placement::v1::{Pipeline, Placement, Runtime, Source, Stage};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status, Streaming};

use super::head::FakeHead;
use super::{CONTEXT_LENGTH, MODEL_UID, Process, Trust};

/// ChatML, refusing conversations that ask for it, and without measure where it is asked for that.
const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {% if message.content == 'DOUBLE' %}{% set all = namespace(text='ab') %}\
    {% for turn in range(60) %}{% set all.text = all.text ~ all.text %}{% endfor %}{% endif %}\
    {% if message.content == 'RAISE' %}{{ raise_exception('this template will not have it') }}{% endif %}\
    {{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub struct FakeOperator {
    pub address: SocketAddr,
    tables: watch::Sender<Option<RouteTable>>,
    vocabulary: Arc<Mutex<Vec<u8>>>,
    digest: Vec<u8>,
    wishes: watch::Sender<Option<TrustWanted>>,
    held: Arc<Mutex<TrustHeld>>,
    process: Process,
}

#[derive(Clone)]
struct Service {
    tables: watch::Receiver<Option<RouteTable>>,
    vocabulary: Arc<Mutex<Vec<u8>>>,
}

/// Tells whom to trust, and hears who is trusted.
struct TrustService {
    wishes: watch::Receiver<Option<TrustWanted>>,
    held: Arc<Mutex<TrustHeld>>,
}

/// A vocabulary file, with a chat template or without.
pub fn vocabulary(template: Option<&str>) -> Vec<u8> {
    let tokens = (0..=255).map(|byte: u8| format!("<0x{byte:02X}>"));
    let special = ["<|begin|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned);
    let mut header = HeaderBuilder::new();
    header
        .entry("general.architecture", &Value::string("llama"))
        .entry("tokenizer.ggml.model", &Value::string("gpt2"))
        .entry(
            "tokenizer.ggml.tokens",
            &Value::Array(Array::of_strings(tokens.chain(special))),
        );
    if let Some(template) = template {
        header.entry("tokenizer.chat_template", &Value::string(template));
    }
    header.finish()
}

impl FakeOperator {
    pub async fn start(trust: &Trust) -> Self {
        let vocabulary = vocabulary(Some(TEMPLATE));
        let digest = Sha256::digest(&vocabulary).to_vec();
        let vocabulary = Arc::new(Mutex::new(vocabulary));
        let (tables, watched) = watch::channel(None);
        let service = Service {
            tables: watched,
            vocabulary: Arc::clone(&vocabulary),
        };
        let credentials = trust.credentials(Role::Operator {
            pod: "operator-0".into(),
        });
        let (wishes, told) = watch::channel(None);
        let held = Arc::<Mutex<TrustHeld>>::default();
        let trust = TrustService {
            wishes: told,
            held: Arc::clone(&held),
        };
        let mut services = RoutesBuilder::default();
        services.add_service(RoutesServer::new(service));
        services.add_service(TrustServer::new(trust));
        let (process, address) = Process::start(server_config(&credentials), services).await;
        Self {
            address,
            tables,
            vocabulary,
            digest,
            wishes,
            held,
            process,
        }
    }

    /// Tells the gateway whom to trust, and whose leaf to have.
    pub fn want(&self, wanted: &Wanted) {
        self.wishes.send_replace(Some(TrustWanted::from(wanted)));
    }

    /// Whom the gateway said last that it trusts.
    pub fn held(&self) -> Held {
        self.held.lock().unwrap().clone().into()
    }

    pub fn publish(&self, models: Vec<ModelRoute>) {
        self.tables.send_replace(Some(RouteTable { models }));
    }

    /// Ends it, with all its streams.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Hands out other bytes than the digest says.
    pub fn corrupt_vocabulary(&self) {
        self.vocabulary.lock().unwrap().push(0);
    }

    /// Hands out another vocabulary from now on; routes made later name it.
    pub fn use_vocabulary(&mut self, bytes: Vec<u8>) {
        self.digest = Sha256::digest(&bytes).to_vec();
        *self.vocabulary.lock().unwrap() = bytes;
    }

    /// A route that serves at `head`.
    pub fn route(&self, trust: &Trust, name: &str, epoch: u64, head: &FakeHead) -> ModelRoute {
        self.route_of_weights(trust, name, epoch, head, [1; 32])
    }

    /// The same of a model whose weight index has this digest.
    pub fn route_of_weights(
        &self,
        trust: &Trust,
        name: &str,
        epoch: u64,
        head: &FakeHead,
        index_sha256: [u8; 32],
    ) -> ModelRoute {
        let placement = Placement {
            epoch,
            model_uid: MODEL_UID.into(),
            namespace: "default".into(),
            name: name.into(),
            source: Some(Source {
                index_sha256: index_sha256.to_vec(),
                ..Source::default()
            }),
            runtime: Some(Runtime {
                context_length: CONTEXT_LENGTH,
                ..Runtime::default()
            }),
            pipelines: vec![Pipeline {
                stages: vec![Stage {
                    node: head.node.clone(),
                    ..Stage::default()
                }],
                ..Pipeline::default()
            }],
            ..Placement::default()
        };
        ModelRoute {
            model_uid: MODEL_UID.into(),
            namespace: "default".into(),
            name: name.into(),
            envelope: Some(trust.signer.sign(&placement)),
            head_endpoints: vec![head.address.to_string()],
            ready: true,
            message: String::new(),
            vocabulary_sha256: self.digest.clone(),
            created_unix_s: 1_700_000_000,
            recovering: false,
        }
    }
}

#[tonic::async_trait]
impl Routes for Service {
    type WatchStream = BoxStream<RouteTable>;
    type VocabularyStream = BoxStream<VocabularyPiece>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = identity::peer(&request)?;
        assert!(matches!(caller.role, Role::Gateway { .. }), "{caller}");
        let tables = WatchStream::new(self.tables.clone()).filter_map(async |table| table.map(Ok));
        Ok(Response::new(Box::pin(tables)))
    }

    async fn vocabulary(
        &self,
        request: Request<VocabularyRequest>,
    ) -> Result<Response<Self::VocabularyStream>, Status> {
        assert_eq!(request.into_inner().sha256.len(), 32);
        let bytes = self.vocabulary.lock().unwrap().clone();
        let pieces: Vec<_> = bytes
            .chunks(1000)
            .map(|data| Ok(VocabularyPiece { data: data.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }
}

#[tonic::async_trait]
impl TrustRpc for TrustService {
    type FollowStream = BoxStream<TrustWanted>;

    async fn follow(&self, request: Request<Streaming<TrustHeld>>) -> Result<Response<Self::FollowStream>, Status> {
        let caller = identity::peer(&request)?;
        assert!(matches!(caller.role, Role::Gateway { .. }), "{caller}");
        let (mut said, held) = (request.into_inner(), Arc::clone(&self.held));
        tokio::spawn(async move {
            while let Ok(Some(word)) = said.message().await {
                *held.lock().unwrap() = word;
            }
        });
        let wishes = WatchStream::new(self.wishes.clone()).filter_map(async |wish| wish.map(Ok));
        Ok(Response::new(Box::pin(wishes)))
    }
}
