//! A head that answers as a test tells it to, one script a request.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt};
use identity::Role;
use identity::tls::server_config;
use proto::shard::v1::generate_event::Event;
use proto::shard::v1::head_server::{Head, HeadServer};
use proto::shard::v1::{FinishReason, Finished, GenerateEvent, GenerateRequest, Token};
use tokio::sync::Notify;
use tonic::service::RoutesBuilder;
use tonic::{Code, Request, Response, Status};

use super::{MODEL_UID, Process, Trust};

/// Tokens of each prompt that this head claims to have kept.
pub const CACHED_TOKENS: u32 = 7;

/// Seconds after which every refusal says to ask again.
pub const RETRY_AFTER_S: &str = "17";

fn refusal(code: Code) -> Status {
    let mut status = Status::new(code, "as told");
    let seconds = RETRY_AFTER_S.parse().unwrap();
    status.metadata_mut().insert("retry-after", seconds);
    status
}

/// What to do with one request.
#[derive(Clone)]
pub enum Script {
    /// Refuse it at once.
    Refuse(Code),
    /// Never say a word to it.
    Ignore,
    /// Accept it, send these bytes a token each, then do what is last.
    Send(Vec<u8>, Last),
}

/// How an accepted request ends.
#[derive(Clone)]
pub enum Last {
    Finish(FinishReason),
    Fail(Code),
    /// Nothing more until `FakeHead::release`, then a finish.
    Wait,
}

impl Script {
    pub fn text(text: &str) -> Self {
        Self::Send(text.as_bytes().to_vec(), Last::Finish(FinishReason::Stop))
    }

    pub fn then(text: &str, last: Last) -> Self {
        Self::Send(text.as_bytes().to_vec(), last)
    }
}

#[derive(Clone, Default)]
struct Service {
    scripts: Arc<Mutex<VecDeque<Script>>>,
    requests: Arc<Mutex<Vec<GenerateRequest>>>,
    open: Arc<AtomicUsize>,
    release: Arc<Notify>,
}

pub struct FakeHead {
    pub node: String,
    pub address: SocketAddr,
    service: Service,
    process: Process,
}

/// Counts a request for as long as its stream lives.
struct OpenRequest(Arc<AtomicUsize>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeHead {
    pub async fn start(trust: &Trust, node: &str) -> Self {
        Self::start_as(
            trust,
            node,
            Role::Worker {
                node: node.into(),
                model_uid: MODEL_UID.into(),
            },
        )
        .await
    }

    /// A head that shows another identity than the placement names.
    pub async fn start_as(trust: &Trust, node: &str, role: Role) -> Self {
        let service = Service::default();
        let mut services = RoutesBuilder::default();
        services.add_service(HeadServer::new(service.clone()));
        let (process, address) = Process::start(server_config(&trust.credentials(role)), services).await;
        Self {
            node: node.into(),
            address,
            service,
            process,
        }
    }

    /// The next request without a script gets this one.
    pub fn expect(&self, script: Script) {
        self.service.scripts.lock().unwrap().push_back(script);
    }

    /// Drops scripts that were not used and requests that were seen.
    pub fn forget(&self) {
        self.service.scripts.lock().unwrap().clear();
        self.service.requests.lock().unwrap().clear();
    }

    pub fn requests(&self) -> Vec<GenerateRequest> {
        self.service.requests.lock().unwrap().clone()
    }

    /// Requests whose streams are open.
    pub fn open(&self) -> usize {
        self.service.open.load(Ordering::SeqCst)
    }

    /// Lets those that wait finish.
    pub fn release(&self) {
        self.service.release.notify_waiters();
    }

    /// Ends it, connections and all.
    pub fn kill(&self) {
        self.process.kill();
    }
}

#[tonic::async_trait]
impl Head for Service {
    type GenerateStream = Pin<Box<dyn Stream<Item = Result<GenerateEvent, Status>> + Send>>;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let caller = identity::peer(&request)?;
        assert!(matches!(caller.role, Role::Gateway { .. }), "{caller}");
        let request = request.into_inner();
        let prompt = u32::try_from(request.prompt_tokens.len()).unwrap();
        self.requests.lock().unwrap().push(request.clone());
        let script = self.scripts.lock().unwrap().pop_front();
        let (bytes, last) = match script {
            Some(Script::Send(bytes, last)) => (bytes, last),
            Some(Script::Refuse(code)) => return Err(refusal(code)),
            Some(Script::Ignore) => return std::future::pending().await,
            None => return Err(Status::internal("no script for this request")),
        };
        self.open.fetch_add(1, Ordering::SeqCst);
        let guard = OpenRequest(Arc::clone(&self.open));
        let sent: Vec<u8> = bytes.into_iter().take(request.max_tokens as usize).collect();
        let completion_tokens = u32::try_from(sent.len()).unwrap();
        let tokens = sent.into_iter().zip(prompt..).map(|(byte, position)| {
            Ok(GenerateEvent {
                event: Some(Event::Token(Token {
                    id: i32::from(byte),
                    position,
                })),
            })
        });
        let release = Arc::clone(&self.release);
        let end = futures::stream::once(async move {
            let reason = match last {
                Last::Finish(reason) => reason,
                Last::Fail(code) => return Err(refusal(code)),
                Last::Wait => {
                    release.notified().await;
                    FinishReason::Stop
                }
            };
            let finished = Finished {
                reason: reason.into(),
                prompt_tokens: prompt,
                completion_tokens,
                cached_tokens: CACHED_TOKENS.min(prompt),
            };
            Ok(GenerateEvent {
                event: Some(Event::Finished(finished)),
            })
        });
        let events = futures::stream::iter(tokens).chain(end).map(move |event| {
            let _ = &guard;
            event
        });
        Ok(Response::new(Box::pin(events)))
    }
}
