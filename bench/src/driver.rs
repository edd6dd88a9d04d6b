//! The client of a pipeline: what a gateway asks, timed.

use std::time::{Duration, Instant};

use identity::{ConnectOptions, Expected, Role, connect, tls};
use proto::shard::v1 as wire;
use proto::shard::v1::generate_event::Event;
use proto::shard::v1::head_client::HeadClient;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use crate::error::{Result, failed, trying};
use crate::peer::Question;
use crate::realm::Realm;
use crate::timing::{concurrent_rate, rate};
use crate::worker_rig::{EPOCH, MODEL_UID, Pipeline};

/// No answer that is measured takes longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(180);
/// The stages find each other within this.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Between two attempts meanwhile.
const READY_PAUSE: Duration = Duration::from_millis(50);

/// When the tokens of one answer came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When it was asked.
    pub asked: Instant,
    /// One per token.
    pub tokens: Vec<Instant>,
    /// Tokens of the prompt that were not computed again.
    pub cached_tokens: u32,
}

impl Answer {
    /// From the question to the first token.
    pub fn time_to_first_token(&self) -> Duration {
        let first = self.tokens.first().copied();
        first.map_or(ANSWER_LIMIT, |first| first.duration_since(self.asked))
    }

    /// Tokens per second after the first.
    pub fn tokens_per_second(&self) -> f64 {
        match (self.tokens.first(), self.tokens.last()) {
            (Some(first), Some(last)) => rate(self.tokens.len() - 1, last.duration_since(*first)),
            _ => 0.0,
        }
    }
}

/// A client of one pipeline's head.
#[derive(Debug, Clone)]
pub struct Driver {
    client: HeadClient<Channel>,
}

impl Driver {
    /// Connects as a gateway, and returns once the pipeline answers.
    ///
    /// # Errors
    /// When it does not within half a minute.
    pub async fn connect(realm: &Realm, pipeline: &Pipeline) -> Result<Self> {
        let credentials = realm.credentials(Role::Gateway {
            pod: "driver".to_owned(),
        })?;
        let (endpoint, head) = pipeline.head();
        let config = tls::client_config(&credentials);
        let options = ConnectOptions::default();
        let channel = connect(endpoint, config, Expected::Exactly(head.clone()), options).await;
        let driver = Self {
            client: HeadClient::new(channel.map_err(trying("the head"))?),
        };
        let started = Instant::now();
        loop {
            match driver.stream(request(&[1], 1)).await {
                Ok(_) => return Ok(driver),
                Err(status) if status.code() == Code::Unavailable && started.elapsed() < READY_LIMIT => {
                    tokio::time::sleep(READY_PAUSE).await;
                }
                Err(status) => return Err(failed("the pipeline", status.to_string())),
            }
        }
    }

    /// Asks for `count` tokens, greedily.
    ///
    /// # Errors
    /// When fewer come, or not in time.
    pub async fn ask(&self, prompt: &[i32], count: usize) -> Result<Answer> {
        self.send(request(prompt, count), count).await
    }

    /// The same, sharing prefixes with other requests of this kind.
    ///
    /// # Errors
    /// As [`Driver::ask`].
    pub async fn ask_sharing(&self, prompt: &[i32], count: usize) -> Result<Answer> {
        let mut request = request(prompt, count);
        request.prefix_scope = b"measurement".to_vec();
        self.send(request, count).await
    }

    /// What a peer is asked too: tokens per second.
    ///
    /// # Errors
    /// As [`Driver::ask`].
    pub async fn measure(&self, question: &Question) -> Result<f64> {
        match question {
            Question::Prefill(prompt) => {
                let answer = self.ask(prompt, 1).await?;
                Ok(rate(prompt.len(), answer.time_to_first_token()))
            }
            Question::Decode(prompt, count) => Ok(self.ask(prompt, *count).await?.tokens_per_second()),
            Question::Together(prompts, count) => self.ask_together(prompts, *count).await,
        }
    }

    /// Asks for `count` tokens for each prompt at once; tokens per second while all of them run.
    ///
    /// # Errors
    /// As [`Driver::ask`].
    pub async fn ask_together(&self, prompts: &[Vec<i32>], count: usize) -> Result<f64> {
        let mut running = JoinSet::new();
        for prompt in prompts {
            let (driver, prompt) = (self.clone(), prompt.clone());
            running.spawn(async move { driver.ask(&prompt, count).await });
        }
        let mut streams = Vec::new();
        while let Some(ended) = running.join_next().await {
            streams.push(ended.map_err(trying("a stream"))??.tokens);
        }
        Ok(concurrent_rate(&streams))
    }

    async fn send(&self, request: wire::GenerateRequest, count: usize) -> Result<Answer> {
        let answered = tokio::time::timeout(ANSWER_LIMIT, self.stream(request)).await;
        let late = |_| failed("an answer", format!("not within {} s", ANSWER_LIMIT.as_secs()));
        let answer = answered.map_err(late)?.map_err(trying("an answer"))?;
        if answer.tokens.len() != count {
            let cause = format!("{} tokens instead of {count}", answer.tokens.len());
            return Err(failed("an answer", cause));
        }
        Ok(answer)
    }

    async fn stream(&self, request: wire::GenerateRequest) -> Result<Answer, tonic::Status> {
        let asked = Instant::now();
        let mut events = self.client.clone().generate(request).await?.into_inner();
        let mut tokens = Vec::new();
        while let Some(event) = events.message().await? {
            match event.event {
                Some(Event::Token(_)) => tokens.push(Instant::now()),
                Some(Event::Finished(finished)) => {
                    return Ok(Answer {
                        asked,
                        tokens,
                        cached_tokens: finished.cached_tokens,
                    });
                }
                None => {}
            }
        }
        Err(tonic::Status::unknown("the stream ended without a last word"))
    }
}

/// Greedy, and past the end of the answer: what is said does not matter.
fn request(prompt: &[i32], count: usize) -> wire::GenerateRequest {
    wire::GenerateRequest {
        model_uid: MODEL_UID.to_owned(),
        epoch: EPOCH,
        request_id: "bench".to_owned(),
        prompt_tokens: prompt.to_vec(),
        max_tokens: u32::try_from(count).unwrap_or(u32::MAX),
        ..wire::GenerateRequest::default()
    }
}
