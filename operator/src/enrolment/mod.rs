//! How a process gets its first certificate: a pod-bound token for a SPIFFE leaf.
//!
//! ```text
//! token ─▶ TokenReview ─▶ claim (pure) ─▶ role (pure) ─▶ get Pod, get Node ─▶ live (pure) ─▶ issue
//! ```
//!
//! The one port that demands no client certificate, so everything is limited: size of a request, how many are under way
//! and how many a second, from each address and altogether ([`rate`]).

mod rate;
pub mod review;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::names;
use identity::{DEFAULT_LEAF_LIFETIME, Peer, Role as SpiffeRole, SpiffeId, SubjectName};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::PostParams;
use proto::control::v1::enrolment_server::{Enrolment, EnrolmentServer};
use proto::control::v1::{EnrolRequest, EnrolResponse, Role};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::clock;
use crate::context::{Context, Leadership};
use crate::error::{CallError, call};
use rate::Rates;
use review::{Claim, Refusal};

/// A request: a token (2 KiB at most in practice) and a certificate request.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Enrolments under way: each holds up to three calls to the API server.
const CONCURRENT_MAX: usize = 32;
/// How long one enrolment may take, its request's arrival included.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// A connection brings one enrolment; whoever dials without a certificate must not keep it for ever.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);

/// A server for the open port: calls and connections are ended in time.
pub fn server() -> tonic::transport::Server {
    identity::grpc_server()
        .timeout(CALL_LIMIT)
        .max_connection_age(CONNECTION_LIMIT)
        .max_connection_age_grace(CALL_LIMIT)
}

/// The service that new processes call.
#[derive(Debug, Clone)]
pub struct EnrolmentService {
    context: Context,
    leadership: Leadership,
    under_way: Arc<Semaphore>,
    rates: Arc<Mutex<Rates>>,
}

/// Holds the place of one enrolment among those of its address.
struct UnderWay<'a> {
    rates: &'a Mutex<Rates>,
    from: IpAddr,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(self.rates).ended(self.from);
    }
}

fn lock(rates: &Mutex<Rates>) -> MutexGuard<'_, Rates> {
    // Single calls on counters: nothing is left half done by a panic.
    rates.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why no leaf is issued.
#[derive(Debug, thiserror::Error)]
enum EnrolError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the token cannot be checked now: {0}")]
    Call(#[from] CallError),
    #[error("csr_der: {0}")]
    Request(String),
}

impl From<EnrolError> for Status {
    fn from(error: EnrolError) -> Self {
        let message = error.to_string();
        match error {
            EnrolError::Refused(Refusal::Unauthenticated(_)) => Status::unauthenticated(message),
            EnrolError::Refused(Refusal::Denied(_)) => Status::permission_denied(message),
            EnrolError::Call(_) => Status::unavailable(message),
            EnrolError::Request(_) => Status::invalid_argument(message),
        }
    }
}

impl EnrolmentService {
    /// Issues leaves while this replica leads.
    #[must_use]
    pub fn new(context: Context, leadership: Leadership) -> Self {
        Self {
            context,
            leadership,
            under_way: Arc::new(Semaphore::new(CONCURRENT_MAX)),
            rates: Arc::new(Mutex::new(Rates::new(clock::now()))),
        }
    }

    /// With its limits, for a tonic server.
    #[must_use]
    pub fn into_server(self) -> EnrolmentServer<Self> {
        EnrolmentServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A place for one enrolment from this address, while it is within its rate.
    fn within_rate(&self, from: IpAddr) -> Option<UnderWay<'_>> {
        let rates = &self.rates;
        let allowed = lock(rates).begin(from, clock::now());
        allowed.then(|| UnderWay { rates, from })
    }

    async fn issue(&self, request: EnrolRequest) -> Result<EnrolResponse, EnrolError> {
        let role = request.role();
        let EnrolRequest {
            csr_der,
            service_account_token,
            ..
        } = request;
        let claim = self.review(service_account_token).await?;
        review::role_allowed(&claim, role)?;
        self.check_live(&claim).await?;
        let (id, names) = self.subject(&claim, role)?;
        let keys = &self.context.keys;
        let leaf = keys
            .authority
            .get()
            .issue(&csr_der, &id, &names, DEFAULT_LEAF_LIFETIME, self.context.wall.now())
            .map_err(|error| EnrolError::Request(error.to_string()))?;
        tracing::info!(%id, pod = %claim.pod, "enrolled");
        Ok(EnrolResponse {
            leaf: Some(leaf.into()),
            placement_keys: vec![keys.signer.public_key().to_vec()],
        })
    }

    async fn review(&self, token: String) -> Result<Claim, EnrolError> {
        if token.is_empty() {
            return Err(Refusal::Unauthenticated("the request carries no token".into()).into());
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token),
                audiences: Some(vec![names::ENROLMENT_AUDIENCE.to_owned()]),
            },
            ..Default::default()
        };
        let api: Api<TokenReview> = Api::all(self.context.client.0.clone());
        let review = call("create TokenReview", api.create(&PostParams::default(), &review)).await?;
        Ok(review::claim(
            &review.status.unwrap_or_default(),
            &self.context.names.namespace,
        )?)
    }

    async fn check_live(&self, claim: &Claim) -> Result<(), EnrolError> {
        let client = &self.context.client.0;
        let pods: Api<Pod> = Api::namespaced(client.clone(), &self.context.names.namespace);
        let nodes: Api<Node> = Api::all(client.clone());
        let (pod, node) = tokio::try_join!(
            call(format!("get Pod {}", claim.pod), pods.get_opt(&claim.pod)),
            call(format!("get Node {}", claim.node), nodes.get_opt(&claim.node)),
        )?;
        Ok(review::live(claim, pod.as_ref(), node.as_ref())?)
    }

    fn subject(&self, claim: &Claim, role: Role) -> Result<(SpiffeId, Vec<SubjectName>), EnrolError> {
        let (role, names) = if role == Role::Gateway {
            (
                SpiffeRole::Gateway { pod: claim.pod.clone() },
                self.context.names.gateway_names.clone(),
            )
        } else {
            (
                SpiffeRole::Agent {
                    node: claim.node.clone(),
                },
                Vec::new(),
            )
        };
        let id = SpiffeId::new(self.context.names.trust_domain.clone(), role);
        Ok((id.map_err(|error| Refusal::Denied(error.to_string()))?, names))
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        self.leadership.require()?;
        // One that comes by no listener of ours has no address: such callers share one rate.
        let peer = request.extensions().get::<Peer>();
        let from = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address.ip());
        let request = request.into_inner();
        let role = match request.role() {
            Role::Agent => "agent",
            Role::Gateway => "gateway",
            Role::Unspecified => "unspecified",
        };
        let count = |outcome| {
            self.context
                .metrics
                .enrolments
                .with_label_values(&[role, outcome])
                .inc()
        };
        let permit = self.under_way.clone().try_acquire_owned();
        let (Some(_place), Ok(_permit)) = (self.within_rate(from), permit) else {
            count("limited");
            return Err(Status::resource_exhausted(
                "too many enrolments at once; try again in a second",
            ));
        };
        self.issue(request)
            .await
            .map(Response::new)
            .map_err(|error| {
                match &error {
                    EnrolError::Call(cause) => {
                        self.context.metrics.errors.with_label_values(&[cause.category()]).inc();
                        count("failed");
                    }
                    EnrolError::Refused(_) | EnrolError::Request(_) => count("refused"),
                }
                tracing::warn!(role, %error, "enrolment refused");
                Status::from(error)
            })
            .inspect(|_| count("issued"))
    }
}

#[cfg(test)]
mod tests;
