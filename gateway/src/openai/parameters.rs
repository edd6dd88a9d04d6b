//! What both kinds of completion take beside their prompt, validated; and what is refused because it is not done here.

use proto::shard::v1::Sampling;
use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;

/// Stop strings in one request, as OpenAI has it.
const MAX_STOPS: usize = 4;
/// Bytes of one stop string: so much of an answer may be held back.
const MAX_STOP_BYTES: usize = 1024;

/// Answers to one prompt: each takes a sequence at the workers, of which a model has a handful.
const MAX_CHOICES: u32 = 8;

/// Validated parameters of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// Id of the model as the client wrote it; answers repeat it.
    pub model: String,
    /// Tokens to answer with at most; `None` leaves it to the context.
    pub max_tokens: Option<u32>,
    /// 0 is greedy.
    pub temperature: f32,
    /// In (0, 1].
    pub top_p: f32,
    /// `None`: any.
    pub seed: Option<u64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Answer in pieces.
    pub stream: bool,
    /// End the stream with the token counts.
    pub include_usage: bool,
    /// Answers to the same prompt, each drawn by itself.
    pub choices: u32,
}

impl Parameters {
    /// Reads them all.
    ///
    /// # Errors
    /// 400 naming the field that is wrong or not supported.
    pub fn read(fields: &Fields) -> Result<Self, ApiError> {
        refuse_unsupported(fields)?;
        let model = fields.required_string("model")?.to_owned();
        let most = i64::from(u32::MAX);
        let max_tokens = match fields.whole("max_completion_tokens", 1, most)? {
            Some(tokens) => Some(tokens),
            None => fields.whole("max_tokens", 1, most)?,
        };
        let temperature = fields.number("temperature", 0.0, 2.0)?.unwrap_or(1.0);
        let top_p = fields.number("top_p", 0.0, 1.0)?.unwrap_or(1.0);
        if top_p <= 0.0 {
            return Err(ApiError::invalid(
                "top_p",
                "top_p must be above 0; temperature 0 gives the likeliest token",
            ));
        }
        let stream = fields.boolean("stream")?.unwrap_or(false);
        #[expect(clippy::cast_possible_truncation, reason = "both are small and need no more digits")]
        Ok(Self {
            model,
            max_tokens: max_tokens.and_then(|tokens| u32::try_from(tokens).ok()),
            temperature: temperature as f32,
            // The smallest f64 above 0 must not become 0.
            top_p: (top_p as f32).max(f32::MIN_POSITIVE),
            seed: fields.whole("seed", i64::MIN, i64::MAX)?.map(i64::cast_unsigned),
            stop: stops(fields)?,
            stream,
            include_usage: include_usage(fields, stream)?,
            choices: choices(fields)?,
        })
    }

    /// As the workers take it; `any_seed` where the client named none. Each choice is drawn by itself.
    #[must_use]
    pub fn sampling(&self, any_seed: u64, choice: u32) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: 0,
            seed: self.seed.unwrap_or(any_seed).wrapping_add(choice.into()),
        }
    }
}

fn choices(fields: &Fields) -> Result<u32, ApiError> {
    let choices = fields.whole("n", 1, MAX_CHOICES.into())?.unwrap_or(1);
    Ok(u32::try_from(choices).unwrap_or(1))
}

fn stops(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let wrong = || {
        ApiError::invalid(
            "stop",
            format!("stop must be a string or an array of at most {MAX_STOPS} strings"),
        )
    };
    let stops = match fields.get("stop") {
        None => vec![],
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) if stops.len() <= MAX_STOPS => stops
            .iter()
            .map(|stop| stop.as_str().map(str::to_owned))
            .collect::<Option<Vec<String>>>()
            .ok_or_else(wrong)?,
        Some(_) => return Err(wrong()),
    };
    match stops.iter().find(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        Some(stop) => Err(ApiError::invalid(
            "stop",
            format!(
                "a stop string must have 1 to {MAX_STOP_BYTES} bytes, not {}",
                stop.len()
            ),
        )),
        None => Ok(stops),
    }
}

fn include_usage(fields: &Fields, stream: bool) -> Result<bool, ApiError> {
    match fields.get("stream_options") {
        None => Ok(false),
        Some(_) if !stream => Err(ApiError::invalid(
            "stream_options",
            "stream_options is only allowed when stream is true",
        )),
        Some(Value::Object(options)) => match options.get("include_usage") {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(include)) => Ok(*include),
            Some(_) => Err(ApiError::invalid(
                "stream_options.include_usage",
                "stream_options.include_usage must be true or false",
            )),
        },
        Some(_) => Err(ApiError::invalid("stream_options", "stream_options must be an object")),
    }
}

/// Fields that change the answer in ways not done here, each with the values that ask for nothing.
fn refuse_unsupported(fields: &Fields) -> Result<(), ApiError> {
    for (name, asks_for_nothing) in UNSUPPORTED {
        if fields.get(name).is_some_and(|value| !asks_for_nothing(value)) {
            return Err(ApiError::unsupported(
                name,
                format!("{name} is not supported by this server; leave it out"),
            ));
        }
    }
    Ok(())
}

type AsksForNothing = fn(&Value) -> bool;

const UNSUPPORTED: [(&str, AsksForNothing); 17] = [
    ("tools", is_empty),
    ("tool_choice", |value| matches!(value.as_str(), Some("none" | "auto"))),
    ("functions", is_empty),
    ("function_call", |value| matches!(value.as_str(), Some("none" | "auto"))),
    ("logprobs", is_false),
    ("top_logprobs", is_zero),
    ("response_format", |value| {
        value.get("type").and_then(Value::as_str) == Some("text")
    }),
    ("frequency_penalty", is_zero),
    ("presence_penalty", is_zero),
    ("logit_bias", is_empty),
    ("modalities", |value| {
        value
            .as_array()
            .is_some_and(|modes| modes.iter().all(|mode| mode.as_str() == Some("text")))
    }),
    ("audio", |_| false),
    ("prediction", |_| false),
    ("web_search_options", |_| false),
    ("best_of", |value| value.as_i64() == Some(1)),
    ("echo", is_false),
    ("suffix", |value| value.as_str() == Some("")),
];

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn is_false(value: &Value) -> bool {
    value.as_bool() == Some(false)
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}
