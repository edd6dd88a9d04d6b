//! `Head.Generate`: who may ask, what may be asked, and the stream of the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use engine::sample::Sampling;
use identity::peer;
use proto::shard::v1 as wire;
use proto::shard::v1::head_server::Head;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::desk::{Events, Submission};
use crate::compute::Facts;
use crate::config::WorkerConfig;
use crate::placement::Installed;
use crate::stage::carry::in_force;
use crate::step::sampling_from_wire;

/// Tokens that may end a sequence: models have a handful, clients' stop words of one token some more.
pub const MAX_STOP_TOKENS: usize = 64;

/// Bytes that name a scope of shared prefixes: a digest of whatever it stands for.
pub const MAX_SCOPE_BYTES: usize = 64;

/// Bytes of a request for one token of its prompt: the longest that a token of a vocabulary takes on the wire.
const PROMPT_TOKEN_BYTES: usize = 5;
/// Bytes of a request beside its prompt, and of a prompt somewhat too long, which is refused with its length.
const REQUEST_BYTES: usize = 64 * 1024;

/// Largest request that is read: the longest prompt that fits the context. Many may wait at once, so that more would be
/// memory for the asking.
pub fn max_request_bytes(context_length: u32) -> usize {
    PROMPT_TOKEN_BYTES * context_length as usize + REQUEST_BYTES
}

/// The service of every worker; all but the head refuse it.
#[derive(Debug)]
pub struct GenerateService {
    config: Arc<WorkerConfig>,
    facts: Facts,
    installed: watch::Receiver<Option<Arc<Installed>>>,
    submissions: mpsc::Sender<Submission>,
    wake: Arc<Notify>,
}

impl GenerateService {
    /// Hands requests to the driver at the other end of `submissions`, and wakes it by `wake` when a client goes.
    pub fn new(
        config: Arc<WorkerConfig>,
        facts: Facts,
        installed: watch::Receiver<Option<Arc<Installed>>>,
        submissions: mpsc::Sender<Submission>,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            config,
            facts,
            installed,
            submissions,
            wake,
        }
    }

    fn authorise<T>(&self, request: &Request<T>) -> Result<Arc<Installed>, Status> {
        let peer = peer(request)?;
        let installed = in_force(&self.installed)?;
        installed.may_generate(&peer).map_err(|cause| {
            tracing::warn!(%peer, %cause, "Head.Generate refused");
            Status::permission_denied(cause)
        })?;
        Ok(installed)
    }

    fn check(&self, request: &wire::GenerateRequest, installed: &Installed) -> Result<Sampling, Status> {
        if request.model_uid != self.config.model_uid {
            let message = format!("model {} is not served here", request.model_uid);
            return Err(Status::failed_precondition(message));
        }
        if request.epoch != installed.epoch {
            let (asked, epoch) = (request.epoch, installed.epoch);
            let message = format!("the request is of epoch {asked}, installed is {epoch}");
            return Err(Status::failed_precondition(message));
        }
        let size = self.facts.vocabulary_size;
        let known = |token: &&i32| u64::try_from(**token).is_ok_and(|token| token < size);
        if let Some(token) = request.prompt_tokens.iter().find(|token| !known(token)) {
            let message = format!("token {token} is not in the model's vocabulary of {size}");
            return Err(Status::invalid_argument(message));
        }
        if request.stop_tokens.len() > MAX_STOP_TOKENS {
            let message = format!("more than {MAX_STOP_TOKENS} stop tokens");
            return Err(Status::invalid_argument(message));
        }
        if request.prefix_scope.len() > MAX_SCOPE_BYTES {
            let message = format!("the prefix scope has more than {MAX_SCOPE_BYTES} bytes; send a digest");
            return Err(Status::invalid_argument(message));
        }
        check_sampling(request.sampling.as_ref())
    }
}

/// No sampling at all means greedy.
fn check_sampling(sampling: Option<&wire::Sampling>) -> Result<Sampling, Status> {
    let Some(sampling) = sampling else {
        return Ok(Sampling::GREEDY);
    };
    if !sampling.temperature.is_finite() || sampling.temperature < 0.0 {
        let message = format!("temperature is {}, must be 0 or more", sampling.temperature);
        return Err(Status::invalid_argument(message));
    }
    if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
        let message = format!("top_p is {}, must be above 0 and at most 1", sampling.top_p);
        return Err(Status::invalid_argument(message));
    }
    Ok(sampling_from_wire(sampling))
}

#[tonic::async_trait]
impl Head for GenerateService {
    type GenerateStream = GenerateStream;

    async fn generate(&self, request: Request<wire::GenerateRequest>) -> Result<Response<GenerateStream>, Status> {
        let installed = self.authorise(&request)?;
        let request = request.into_inner();
        let sampling = self.check(&request, &installed)?;
        let room = request.max_tokens.min(self.config.runtime.context_length) as usize;
        // Every event of the request fits, so a slow client never holds the others back.
        let (events, receiver) = mpsc::channel(room + 2);
        let (reply, admitted) = oneshot::channel();
        let submission = Submission {
            request,
            sampling,
            events,
            reply,
        };
        let ending = || Status::unavailable("the worker is ending");
        self.submissions.send(submission).await.map_err(|_| ending())?;
        let stream = GenerateStream {
            receiver,
            wake: Arc::clone(&self.wake),
        };
        admitted
            .await
            .map_err(|_| Status::unavailable("the worker is ending"))??;
        Ok(Response::new(stream))
    }
}

/// The events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct GenerateStream {
    receiver: mpsc::Receiver<Events>,
    wake: Arc<Notify>,
}

impl Stream for GenerateStream {
    type Item = Events;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Events>> {
        self.receiver.poll_recv(context)
    }
}

impl Drop for GenerateStream {
    fn drop(&mut self) {
        // The driver looks for closed receivers when it wakes.
        self.receiver.close();
        self.wake.notify_one();
    }
}
