//! The one stream to the operator: what this node holds goes up, what it shall hold comes down.
//!
//! The stream is this node's liveness: when it breaks, the operator places anew at once. It is therefore dialled again soon
//! and for ever. Shards go on meanwhile; nothing here stops them.

use crate::args::Settings;
use crate::assignment::{BAD_SIGNATURE, Ledger};
use crate::enrolment::Enrolment;
use crate::inspect::Inspector;
use crate::leaves::PlacementKeys;
use crate::links::{self, Peers};
use crate::models::Models;
use crate::retry;
use crate::shard::drive::View;
use crate::shard::step::DesiredShards;
use identity::{ConnectOptions, Credentials, Expected, PlacementVerifier, Wanted, connect, tls};
use lifecycle::backoff::Backoff;
use proto::control::v1::agent_control_client::AgentControlClient;
use proto::control::v1::{
    AgentMessage, Assignments, Hello, Inspection, Leaving, OperatorMessage, ShardReport, ShardStatus, TrustHeld,
    agent_message, is_not_the_leader, operator_message,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

/// An operator that leads answers an attachment at once.
const ATTACH_LIMIT: Duration = Duration::from_secs(10);
/// Messages on their way up. Reports state what is, so a longer queue would only delay the newest.
const OUTBOUND_MAX: usize = 4;
/// Inspections under way; the operator asks for no more at once.
const INSPECTIONS_MAX: usize = 8;
/// A thousand envelopes of 64 KiB would be more than any node holds.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// A stream that lasted so long was sound: the next attempt is made soon.
const SOUND_AFTER: Duration = Duration::from_secs(10);
/// After so many failures in a row it is asked whether our identity still stands.
const DOUBT_AFTER: u32 = 5;
/// How long an agent that starts without an operator waits before it goes by what it held last.
const RESUME_AFTER: Duration = Duration::from_secs(5);

/// Everything the stream needs.
pub struct Control {
    settings: Settings,
    credentials: Credentials,
    keys: PlacementKeys,
    enrolment: Arc<Enrolment>,
    ledger: Ledger,
    inspector: Arc<Inspector>,
    lines: Lines,
    refused: Vec<ShardStatus>,
    /// The operator has told at least once, in this life, what the node shall hold.
    told: bool,
}

/// Why a stream is no more.
struct Ended {
    message: String,
    /// The replica that was reached does not lead.
    elsewhere: bool,
}

/// What connects the stream with the rest of the agent.
pub struct Lines {
    /// What the node shall hold.
    pub desired: watch::Sender<Arc<DesiredShards>>,
    /// What it holds.
    pub view: watch::Receiver<Arc<View>>,
    /// The connection, for other calls.
    pub channel: watch::Sender<Option<Channel>>,
    /// Whether the stream stands.
    pub attached: watch::Sender<bool>,
    /// Where inspected models are kept.
    pub models: Arc<Models>,
    /// host:port of this agent's port for other agents; may be empty.
    pub weights_endpoint: String,
    /// To whom links are measured; `None` until the operator has told.
    pub peers: watch::Sender<Option<Arc<Peers>>>,
    /// Workers of an earlier life are there, and wait to be told what they are.
    pub takes_over: bool,
    /// Once cancelled, the operator is asked to put elsewhere what the node serves.
    pub leaving: CancellationToken,
    /// Whether the node can leave: it is to serve nothing, or nothing else could serve that.
    pub released: watch::Sender<bool>,
}

impl Control {
    /// Not connected yet.
    pub fn new(
        settings: Settings,
        credentials: Credentials,
        keys: PlacementKeys,
        enrolment: Arc<Enrolment>,
        ledger: Ledger,
        lines: Lines,
    ) -> Self {
        Self {
            settings,
            credentials,
            keys,
            enrolment,
            ledger,
            inspector: Arc::new(Inspector::new(Arc::clone(&lines.models))),
            lines,
            refused: Vec::new(),
            told: false,
        }
    }

    /// Attaches again and again, until `leave`; then closes the stream.
    pub async fn run(mut self, leave: CancellationToken) {
        let (mut backoff, mut turns) = (Backoff::new(retry::OPERATOR), Backoff::new(retry::NEXT_REPLICA));
        let mut failures = 0_u32;
        let resume_at = tokio::time::Instant::now() + RESUME_AFTER;
        if self.lines.takes_over {
            self.hold_last();
        }
        loop {
            let began = tokio::time::Instant::now();
            let ended = tokio::select! {
                () = leave.cancelled() => return,
                ended = self.session(resume_at, &leave) => ended,
            };
            self.lines.attached.send_replace(false);
            self.lines.channel.send_replace(None);
            self.enrolment.trust.wishes.tell(None);
            if leave.is_cancelled() {
                return;
            }
            if began.elapsed() >= SOUND_AFTER {
                backoff.succeeded();
                turns.succeeded();
                failures = 0;
            }
            let wait = if ended.elsewhere {
                turns.failed()
            } else {
                failures = failures.saturating_add(1);
                backoff.failed()
            };
            if !ended.elsewhere && failures.is_multiple_of(DOUBT_AFTER) {
                self.enrolment.doubt.notify_one();
            }
            tracing::warn!(
                message = ended.message,
                wait_ms = wait.as_millis() as u64,
                "not attached to the operator"
            );
            tokio::select! {
                () = leave.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            self.resume(resume_at);
        }
    }

    /// Goes by what was held last, when the operator has said nothing since the start.
    fn resume(&mut self, resume_at: tokio::time::Instant) {
        if self.told || tokio::time::Instant::now() < resume_at {
            return;
        }
        self.told = true;
        if self.hold_last() > 0 {
            tracing::warn!("the operator is away; going by the placements accepted last");
        }
    }

    /// Wants what was held last; how many shards that is.
    fn hold_last(&mut self) -> usize {
        let verifier = self.verifier();
        let desired = verifier.map_or_else(|_| DesiredShards::new(), |verifier| self.ledger.resume(&verifier));
        let shards = desired.len();
        self.lines.desired.send_replace(Arc::new(desired));
        shards
    }

    /// One stream, until it ends; the answer says why.
    async fn session(&mut self, resume_at: tokio::time::Instant, leave: &CancellationToken) -> Ended {
        let config = tls::client_config(&self.credentials);
        let dialled = connect(
            &self.settings.operator_control,
            config,
            Expected::Operator,
            ConnectOptions::default(),
        )
        .await;
        let channel = match dialled {
            Ok(channel) => channel,
            Err(error) => {
                return Ended {
                    message: error.to_string(),
                    elsewhere: false,
                };
            }
        };
        let ended = self.attached(channel, resume_at, leave).await;
        Ended {
            elsewhere: ended.as_ref().is_err_and(is_not_the_leader),
            message: match ended {
                Ok(()) => "the operator closed the stream".to_owned(),
                Err(status) => format!("{:?}: {}", status.code(), status.message()),
            },
        }
    }

    async fn attached(
        &mut self,
        channel: Channel,
        resume_at: tokio::time::Instant,
        leave: &CancellationToken,
    ) -> Result<(), Status> {
        let (outbound, queue) = mpsc::channel(OUTBOUND_MAX);
        let hello = Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epochs: self.ledger.epochs(),
            weights_endpoint: self.lines.weights_endpoint.clone(),
            takes_purposes: true,
        };
        send(&outbound, agent_message::Message::Hello(hello)).await?;
        let mut client = AgentControlClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let attach = tokio::time::timeout(ATTACH_LIMIT, client.attach(ReceiverStream::new(queue))).await;
        let mut inbound = attach
            .map_err(|_| Status::deadline_exceeded("the operator does not answer"))??
            .into_inner();
        tracing::info!(operator = self.settings.operator_control, "attached to the operator");
        self.lines.channel.send_replace(Some(channel));
        self.lines.attached.send_replace(true);
        let mut new_keys = self.keys.changes();
        let (trust, credentials) = (self.enrolment.trust.clone(), self.credentials.clone());
        let held = || trust.held(&credentials.identity());
        let (mut renewals, mut taken) = (trust.wishes.renewals(), trust.changes());
        let mut said_held = say_held(&outbound, held(), TrustHeld::default()).await?;
        let (inspected, mut inspections) = mpsc::channel::<Inspection>(INSPECTIONS_MAX);
        let (leaving, mut said) = (self.lines.leaving.clone(), false);
        self.lines.view.mark_changed();
        loop {
            tokio::select! {
                () = leave.cancelled() => return Ok(()),
                () = leaving.cancelled(), if !said => {
                    said = true;
                    send(&outbound, agent_message::Message::Leaving(Leaving {})).await?;
                }
                message = inbound.message() => match message? {
                    Some(message) => self.take(message, &outbound, &inspected).await?,
                    None => return Ok(()),
                },
                changed = self.lines.view.changed() => match changed {
                    Ok(()) => self.report(&outbound).await?,
                    Err(_) => return Ok(()),
                },
                Ok(()) = renewals.changed() => said_held = say_held(&outbound, held(), said_held).await?,
                Ok(()) = taken.changed() => said_held = say_held(&outbound, held(), said_held).await?,
                Some(inspection) = inspections.recv() => {
                    send(&outbound, agent_message::Message::Inspection(inspection)).await?;
                }
                // What was refused under the old keys is sent again on a new stream.
                Ok(()) = new_keys.changed() => return Err(Status::aborted("the placement keys have changed")),
                // An operator that leads but has not decided yet: go by what is known, as if it were away.
                () = tokio::time::sleep_until(resume_at), if !self.told => self.resume(resume_at),
            }
        }
    }

    async fn take(
        &mut self,
        message: OperatorMessage,
        outbound: &mpsc::Sender<AgentMessage>,
        inspected: &mpsc::Sender<Inspection>,
    ) -> Result<(), Status> {
        match message.message {
            Some(operator_message::Message::Assignments(assignments)) => {
                self.assign(&assignments);
                self.report(outbound).await
            }
            Some(operator_message::Message::Inspect(request)) => {
                tracing::info!(model_uid = request.model_uid, "inspecting a source");
                let (inspector, inspected) = (Arc::clone(&self.inspector), inspected.clone());
                let channel = self.lines.channel.borrow().clone();
                tokio::spawn(async move {
                    let inspection = inspector.inspect(request).await;
                    if let Some(untold) = tell(channel, inspection).await {
                        // A stream that ended meanwhile is asked again by the operator.
                        let _ = inspected.send(untold).await;
                    }
                });
                Ok(())
            }
            Some(operator_message::Message::Peers(told)) => {
                let told = Arc::new(links::peers(&self.settings.node, told));
                self.lines.peers.send_if_modified(|peers| {
                    let changed = peers.as_ref() != Some(&told);
                    if changed {
                        tracing::debug!(peers = told.len(), "told to whom links are measured");
                        *peers = Some(told);
                    }
                    changed
                });
                Ok(())
            }
            Some(operator_message::Message::Trust(wanted)) => {
                self.enrolment.trust.wishes.tell(Wanted::read(&wanted));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn assign(&mut self, assignments: &Assignments) {
        let outcome = match self.verifier() {
            Ok(verifier) => self
                .ledger
                .accept(assignments, &verifier)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match outcome {
            Ok(outcome) => {
                self.told = true;
                self.refused = outcome.refused;
                if self.refused.iter().any(|refused| refused.reason == BAD_SIGNATURE) {
                    // Perhaps the operator has a new key.
                    self.enrolment.doubt.notify_one();
                }
                tracing::info!(
                    shards = outcome.desired.len(),
                    refused = self.refused.len(),
                    "assignments taken"
                );
                let serves = outcome.desired.values().any(|desired| desired.in_force.is_some());
                self.lines.released.send_replace(!serves || assignments.leave_now);
                self.lines.desired.send_replace(Arc::new(outcome.desired));
            }
            Err(message) => tracing::error!(message, "assignments are not taken; the node goes on as it is"),
        }
    }

    fn verifier(&self) -> Result<PlacementVerifier, identity::VerifyError> {
        PlacementVerifier::new(self.keys.get())
    }

    async fn report(&mut self, outbound: &mpsc::Sender<AgentMessage>) -> Result<(), Status> {
        let mut shards = self.lines.view.borrow_and_update().statuses.clone();
        shards.extend(self.refused.iter().cloned());
        send(outbound, agent_message::Message::Shards(ShardReport { shards })).await
    }
}

/// Tells what came of an inspection by a call of its own; gives it back where that cannot be done, for the stream.
async fn tell(channel: Option<Channel>, inspection: Inspection) -> Option<Inspection> {
    let Some(channel) = channel else {
        return Some(inspection);
    };
    let mut client = AgentControlClient::new(channel);
    match client.inspected(inspection.clone()).await {
        Ok(_) => None,
        Err(status) => {
            tracing::debug!(code = ?status.code(), "the operator takes no inspection by itself; it hears of it in the stream");
            Some(inspection)
        }
    }
}

/// Tells whom the node trusts, where that is something else than was said; what was said by now.
async fn say_held(
    outbound: &mpsc::Sender<AgentMessage>,
    held: TrustHeld,
    said: TrustHeld,
) -> Result<TrustHeld, Status> {
    if held != said {
        send(outbound, agent_message::Message::Trust(held.clone())).await?;
    }
    Ok(held)
}

async fn send(outbound: &mpsc::Sender<AgentMessage>, message: agent_message::Message) -> Result<(), Status> {
    outbound
        .send(AgentMessage { message: Some(message) })
        .await
        .map_err(|_| Status::unavailable("the stream to the operator has ended"))
}
