//! What happened in a run, as it was seen from outside: every request with every piece of its answer, and every fault.
//!
//! Times are since the start of the run, all of one monotonic clock.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Time since the start of the run.
pub type Moment = Duration;

/// What is asked, again and again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Request {
    /// The user's message.
    pub prompt: String,
    /// Tokens to answer with at most.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f64,
    /// Named in the request, so that sampling is repeatable.
    pub seed: u64,
    /// Whether the answer comes in pieces.
    pub streamed: bool,
    /// `n`: answers to the one prompt. The text is all of them, one after the other.
    pub choices: u32,
}

/// The answer to a request when nothing was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reference {
    /// The pieces in which it came.
    pub pieces: Vec<String>,
    /// As the gateway counted them.
    pub tokens: u64,
    /// `stop` or `length`.
    pub finish_reason: String,
}

impl Reference {
    /// All of it.
    pub fn text(&self) -> String {
        self.pieces.concat()
    }

    /// The pieces behind so many bytes; those of a piece that lies across come whole.
    pub fn pieces_from(&self, byte: usize) -> Vec<&str> {
        let mut end = 0;
        let pieces = self.pieces.iter().map(String::as_str);
        let behind = pieces.skip_while(|piece| {
            end += piece.len();
            end <= byte
        });
        behind.collect()
    }
}

/// A piece of an answer, with the moment of its arrival.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// When it came.
    #[serde(serialize_with = "milliseconds")]
    pub at: Moment,
    /// Usually one token's text; never empty.
    pub text: String,
}

/// How an attempt ended, as the client saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum End {
    /// With a `finish_reason`.
    Answered {
        /// `stop` or `length`.
        finish_reason: String,
        /// As the gateway counted them; `None` where it did not say.
        tokens: Option<u64>,
    },
    /// Before anything was answered, with a status and OpenAI's error object.
    Refused {
        /// HTTP status.
        status: u16,
        /// `error.code`, or `error.type` where it has none.
        code: String,
        /// `error.message`.
        message: String,
    },
    /// Within an answer that had begun, with OpenAI's error object.
    Interrupted {
        /// `error.code`, or `error.type` where it has none.
        code: String,
        /// `error.message`.
        message: String,
    },
    /// The connection was refused or ended without a word.
    Cut {
        /// What the HTTP client says.
        cause: String,
    },
    /// Nothing came, not even a comment, or it went on past the deadline; the client gave up.
    Silent,
}

/// One HTTP request and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Which replica of the gateway was asked.
    pub gateway: usize,
    /// Bytes of the answer that the client named as seen (`Last-Event-ID`); 0 where it asked for all of it.
    pub from: usize,
    /// When it was asked.
    #[serde(serialize_with = "milliseconds")]
    pub asked: Moment,
    /// What came, in order.
    pub pieces: Vec<Piece>,
    /// When it ended.
    #[serde(serialize_with = "milliseconds")]
    pub ended: Moment,
    /// How.
    pub end: End,
}

impl Attempt {
    /// All that came.
    pub fn text(&self) -> String {
        self.pieces.iter().map(|piece| piece.text.as_str()).collect()
    }
}

/// What a client wanted once: one attempt, and more where that was refused or cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Counted over all clients.
    pub id: u64,
    /// Which request of the book.
    pub request: usize,
    /// When the client's patience ended.
    #[serde(serialize_with = "milliseconds")]
    pub deadline: Moment,
    /// In order.
    pub attempts: Vec<Attempt>,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// SIGKILL of one worker.
    WorkerKilled,
    /// SIGKILL of an agent and its workers at once, as a node does that is reset; it is back after a moment.
    NodeKilled,
    /// SIGKILL of an agent alone; its workers live on until the agent is back.
    AgentKilled,
    /// SIGSTOP of one worker for a while.
    WorkerFrozen,
    /// SIGSTOP of an agent for a while; its workers compute on.
    AgentFrozen,
    /// SIGKILL of one replica of the operator.
    OperatorKilled,
    /// SIGKILL of the API server; it is back after a while, on the same etcd.
    ApiServerKilled,
    /// SIGKILL of one replica of the gateway.
    GatewayKilled,
    /// Every packet from and to a node is lost for a while, without a word to anybody.
    LinkCut,
    /// Every packet from one node to another one is lost for a while; those of the other way are not.
    LinkOneWay,
    /// Of the packets from and to a node some are lost and some overtake others, for a while.
    LinkLossy,
    /// The links of a node carry few bits in a second, and late, for a while.
    LinkSlow,
    /// Packets from and to a node take longer for a while, each by another time.
    LinkJitter,
    /// Somebody cordons a node that holds a stage, and takes it back after a while: no fault, and a move all the same.
    NodeCordoned,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::WorkerKilled,
        Self::NodeKilled,
        Self::AgentKilled,
        Self::WorkerFrozen,
        Self::AgentFrozen,
        Self::OperatorKilled,
        Self::ApiServerKilled,
        Self::GatewayKilled,
        Self::LinkCut,
        Self::LinkOneWay,
        Self::LinkLossy,
        Self::LinkSlow,
        Self::LinkJitter,
        Self::NodeCordoned,
    ];

    /// As files and tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkerKilled => "worker_killed",
            Self::NodeKilled => "node_killed",
            Self::AgentKilled => "agent_killed",
            Self::WorkerFrozen => "worker_frozen",
            Self::AgentFrozen => "agent_frozen",
            Self::OperatorKilled => "operator_killed",
            Self::ApiServerKilled => "api_server_killed",
            Self::GatewayKilled => "gateway_killed",
            Self::LinkCut => "link_cut",
            Self::LinkOneWay => "link_one_way",
            Self::LinkLossy => "link_lossy",
            Self::LinkSlow => "link_slow",
            Self::LinkJitter => "link_jitter",
            Self::NodeCordoned => "node_cordoned",
        }
    }

    /// Whether it ends processes.
    pub fn kills(self) -> bool {
        !matches!(self, Self::WorkerFrozen | Self::AgentFrozen | Self::NodeCordoned) && !self.is_of_links()
    }

    /// Whether it is done to links, so that nodes must have some.
    pub fn is_of_links(self) -> bool {
        matches!(self, Self::LinkCut | Self::LinkOneWay) || self.is_bearable()
    }

    /// Whether it makes links worse and breaks none: nothing is moved for it.
    pub fn is_bearable(self) -> bool {
        matches!(self, Self::LinkLossy | Self::LinkSlow | Self::LinkJitter)
    }

    /// Whether it takes a process that computes for streams, at once.
    pub fn takes_a_stage(self) -> bool {
        matches!(self, Self::WorkerKilled | Self::NodeKilled)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A fault that was injected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Which kind.
    pub kind: Kind,
    /// What it struck, in words.
    pub target: String,
    /// Replica, where a gateway was struck.
    pub gateway: Option<usize>,
    /// When.
    #[serde(serialize_with = "milliseconds")]
    pub at: Moment,
    /// When every process ran again, the model was Ready and every stage had its worker; `None` when the run's patience ended first.
    #[serde(serialize_with = "milliseconds_if_any")]
    pub whole: Option<Moment>,
}

/// What a stream that goes on elsewhere has to compute again, before its next token.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Prompts {
    /// Of each request, in their order.
    pub tokens: Vec<u64>,
    /// Of a prompt that is alone; `None` where it could not be told.
    pub tokens_per_second: Option<f64>,
}

impl Prompts {
    /// How long a request's prompt takes with so many tokens of its answer.
    pub fn computing(&self, request: usize, answered: usize) -> Moment {
        let prompt = self.tokens.get(request).copied().unwrap_or(0);
        let tokens = prompt as f64 + answered as f64;
        let seconds = self.tokens_per_second.map_or(0.0, |rate| tokens / rate);
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

/// All of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct History {
    /// The book.
    pub requests: Vec<Request>,
    /// One for each request, in the same order.
    pub references: Vec<Reference>,
    /// As measured before the first fault.
    pub prompts: Prompts,
    /// In the order of their ends.
    pub operations: Vec<Operation>,
    /// In the order of their times.
    pub faults: Vec<Fault>,
}

fn milliseconds<S: Serializer>(moment: &Moment, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(moment.as_millis())
}

fn milliseconds_if_any<S: Serializer>(moment: &Option<Moment>, serializer: S) -> Result<S::Ok, S::Error> {
    match moment {
        Some(moment) => milliseconds(moment, serializer),
        None => serializer.serialize_none(),
    }
}
