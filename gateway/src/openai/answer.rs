//! Asks the model: one generation for each answer to the prompt.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::response::Response;
use futures::future::try_join_all;
use tokio::time::Instant;

use super::error::ApiError;
use super::models;
use super::moment::await_ready;
use super::parameters::Parameters;
use super::patience::Patience;
use super::prompt::{self, Fitted, Prompt};
use super::resume::{Answer, Question, Seen, Thread};
use super::sending;
use super::shape::Header;
use super::turn::{Kind, Turn, TurnParts, explain, overdue};
use crate::context::{Admission, Gateway};
use crate::generate::{Generation, RequestMemory};
use crate::keys::KeyId;
use crate::routes::{Model, ModelState, Route, Weights};
use crate::vocabulary::{Speech, SpeechState};

/// What is known of a request beside its body.
#[derive(Debug)]
pub struct Caller {
    /// Names it in answers and logs.
    pub request_id: String,
    /// Whose it is.
    pub key: KeyId,
    /// When it came.
    pub started: Instant,
    /// How long it may wait and take.
    pub patience: Patience,
    /// What it has of the answer already.
    pub seen: Option<Seen>,
}

/// How long after its wait has ended a head's refusal may arrive, beside the way there and back.
const LATE_REFUSAL: Duration = Duration::from_secs(1);

/// When the refusal of a head must be here that took so long to accept the request: it is told how long the request may wait, and counts
/// that from when it hears of it.
fn refused_by(wait_until: Instant, asking: Duration) -> Instant {
    wait_until + asking + LATE_REFUSAL
}

/// Answers one request.
///
/// # Errors
/// Whatever happens before the answer begins; later errors are part of a streamed answer.
pub async fn answer(
    gateway: &Arc<Gateway>,
    kind: Kind,
    caller: Caller,
    admission: Admission,
    parameters: Parameters,
    prompt: Prompt,
) -> Result<Response, ApiError> {
    let Admission { preparing, seat } = admission;
    let Patience { wait_until, end_by } = caller.patience;
    let look = || {
        let model = models::find(&*models::table(gateway)?, &parameters.model)?;
        ready(gateway, &model).map(|_| Arc::clone(&model))
    };
    let model = await_ready(gateway.tables.clone(), end_by, look).await?;
    let (route, speech) = ready(gateway, &model)?;
    let mut places = vec![(seat, gateway.enter(&model.uid)?)];
    for _ in 1..parameters.choices {
        places.push((gateway.seat(caller.key)?, gateway.enter(&model.uid)?));
    }
    let late = || overdue(end_by - caller.started);
    let fitted = prompt::fit(prompt, &speech, route.context_length, parameters.max_tokens, kind);
    let fitted = tokio::time::timeout_at(end_by, fitted).await.map_err(|_| late())??;
    let drawn = Drawn::new(&parameters, &fitted, &route.weights, caller.seen.as_ref())?;
    if let Some(seen) = caller.seen.filter(|seen| seen.ended) {
        return Ok(sending::ended(&Thread::new(drawn.answer, Some(seen))));
    }
    let start = |choice: u32| {
        let memory = RequestMemory {
            model_uid: model.uid.clone(),
            weights: route.weights,
            request_id: caller.request_id.clone(),
            prompt: fitted.tokens.clone(),
            emitted: Vec::new(),
            max_tokens: fitted.max_tokens,
            sampling: parameters.sampling(drawn.answer.seed, choice),
            stop_tokens: speech.vocabulary.end_of_generation.iter().copied().collect(),
            wait_until,
            prefix_scope: caller.key.prefix_scope(),
        };
        Generation::start(Arc::clone(&gateway.heads), gateway.tables.clone(), memory)
    };
    let asked = Instant::now();
    let generations = tokio::time::timeout_at(end_by, try_join_all((0..parameters.choices).map(start)))
        .await
        .map_err(|_| late())?
        .map_err(|error| explain(&error, &caller.request_id))?;
    let refused_by = refused_by(wait_until, asked.elapsed());
    // From here on it is some tokens and a connection.
    drop(preparing);
    let turns = (0..)
        .zip(generations)
        .zip(places)
        .map(|((choice, generation), (seat, place))| {
            let parts = TurnParts {
                header: drawn.header(kind, &parameters, choice),
                vocabulary: Arc::clone(&speech.vocabulary),
                stop: parameters.stop.clone(),
                request_id: caller.request_id.clone(),
                metrics: Arc::clone(&gateway.metrics),
                started: caller.started,
                end_by,
                cut_off: gateway.cut_off.clone(),
                seat,
                place,
            };
            Turn::new(generation, parts)
        });
    let mut turns: Vec<Turn> = turns.collect();
    if !parameters.stream {
        return sending::whole(turns).await;
    }
    try_join_all(turns.iter_mut().map(|turn| turn.begin(refused_by))).await?;
    // What is drawn several times has no one place to go on from.
    let thread = (parameters.choices == 1).then(|| Thread::new(drawn.answer, caller.seen));
    Ok(sending::in_pieces(turns, thread, parameters.include_usage))
}

/// What an answer is drawn with: anew, or as the client has the beginning of it.
struct Drawn {
    answer: Answer,
}

impl Drawn {
    fn new(parameters: &Parameters, fitted: &Fitted, weights: &Weights, seen: Option<&Seen>) -> Result<Self, ApiError> {
        let sampling = parameters.sampling(0, 0);
        let question = Question::of(
            &fitted.tokens,
            fitted.max_tokens,
            &sampling,
            &parameters.stop,
            &weights.bytes(),
        );
        let Some(seen) = seen else {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let any_seed = uuid::Uuid::new_v4().as_u64_pair().1;
            let answer = Answer {
                name: uuid::Uuid::new_v4().as_u128(),
                created_unix_s: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
                seed: parameters.seed.unwrap_or(any_seed),
                question,
            };
            return Ok(Self { answer });
        };
        let wrong = |why: &str| {
            let message = format!("this request cannot go on after the event that Last-Event-ID names: {why}");
            ApiError::invalid("last-event-id", message)
        };
        if !parameters.stream || parameters.choices > 1 {
            return Err(wrong("only streams of one choice can be resumed"));
        }
        if seen.answer.question != question {
            return Err(wrong(
                "it is not the request that was answered then, or the model has other weights by now",
            ));
        }
        if parameters.seed.is_some_and(|seed| seed != seen.answer.seed) {
            return Err(wrong("it has another seed"));
        }
        Ok(Self { answer: seen.answer })
    }

    fn header(&self, kind: Kind, parameters: &Parameters, choice: u32) -> Header {
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Text => "cmpl",
        };
        Header {
            kind,
            id: format!("{prefix}-{:032x}", self.answer.name),
            created_unix_s: self.answer.created_unix_s,
            model: parameters.model.clone(),
            choice,
        }
    }
}

/// Where a model that can be asked is asked, and what it speaks.
fn ready<'m>(gateway: &Gateway, model: &'m Model) -> Result<(&'m Route, Arc<Speech>), ApiError> {
    let not_ready =
        |cause: &str| ApiError::not_ready(format!("the model {} is not ready: {cause}", model.qualified_id()));
    let route = match &model.state {
        ModelState::Ready(route) => route,
        ModelState::NotReady { message, .. } => return Err(not_ready(message)),
    };
    let digest = model
        .vocabulary
        .ok_or_else(|| not_ready("its vocabulary is not known yet"))?;
    match gateway.vocabularies.get(&digest) {
        SpeechState::Ready(speech) => Ok((route, speech)),
        SpeechState::Preparing(cause) => Err(not_ready(&cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_of_a_head_that_is_far_away_is_waited_for_as_much_longer_as_it_took_to_ask_it() {
        let (asked, wait) = (Instant::now(), Duration::from_secs(5));
        // Three round trips until the connection stands, and one until it is heard that the head has accepted.
        let round_trip = Duration::from_millis(900);
        let asking = round_trip * 4;
        // It began to wait half a round trip before that, and half of one after its wait its refusal is here.
        let refused = asked + asking - round_trip / 2 + wait + round_trip / 2;
        let until = refused_by(asked + wait, asking);
        assert!(refused <= until);
        assert_eq!(until - refused, LATE_REFUSAL);
    }
}
