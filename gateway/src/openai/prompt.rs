//! From a request to prompt tokens that fit the model.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::ApiError;
use super::turn::Kind;
use crate::template::{Message, TemplateError};
use crate::tokenizer::{TokenizeError, Vocabulary};
use crate::vocabulary::Speech;

/// Tokens of an answer when the client names no number: long enough for any chat, short enough that a model which does
/// not stop by itself holds its place for minutes and not for hours.
pub const DEFAULT_MAX_TOKENS: u32 = 4096;

/// What is to be answered.
#[derive(Debug, PartialEq)]
pub enum Prompt {
    /// Through the model's chat template.
    Messages(Vec<Message>),
    /// As it stands.
    Text(String),
    /// Token ids of the model's vocabulary, as they stand: nothing is put before them.
    Tokens(Vec<i32>),
}

/// A prompt that fits, and how much may follow.
#[derive(Debug, PartialEq, Eq)]
pub struct Fitted {
    /// At least one, and fewer than the context has.
    pub tokens: Vec<i32>,
    /// At least one.
    pub max_tokens: u32,
}

/// Renders, tokenises and measures.
///
/// # Errors
/// 400 when the messages cannot be rendered or do not fit, 429 and 503 when the tokeniser is busy or down.
pub async fn fit(
    prompt: Prompt,
    speech: &Arc<Speech>,
    context_length: u32,
    max_tokens: Option<u32>,
    kind: Kind,
) -> Result<Fitted, ApiError> {
    let text = match prompt {
        Prompt::Tokens(tokens) => {
            let tokens = known(tokens, &speech.vocabulary, kind)?;
            return measure(tokens, context_length, max_tokens, kind);
        }
        Prompt::Text(text) => text,
        Prompt::Messages(messages) => render(messages, speech).await?,
    };
    let longest = speech.vocabulary.pieces.longest_bytes().max(1);
    let at_least = text.len().div_ceil(longest);
    if at_least > context_length as usize {
        return Err(too_long(context_length, &format!("at least {at_least}"), kind));
    }
    let tokens = speech
        .tokenizer
        .tokenize(text)
        .await
        .map_err(|error| refused(&error, kind))?;
    let tokens = with_bos(tokens, &speech.vocabulary);
    measure(tokens, context_length, max_tokens, kind)
}

/// Token ids that the vocabulary has.
///
/// # Errors
/// 400 naming the first that it has not.
pub(super) fn known(tokens: Vec<i32>, vocabulary: &Vocabulary, kind: Kind) -> Result<Vec<i32>, ApiError> {
    let pieces = &vocabulary.pieces;
    match tokens.iter().position(|token| pieces.get(*token).is_none()) {
        None => Ok(tokens),
        Some(index) => Err(ApiError::invalid(
            kind.prompt_field(),
            format!(
                "token id {} (number {} of the prompt) is none of this model's, which are 0 to {}",
                tokens[index],
                index + 1,
                pieces.len().saturating_sub(1)
            ),
        )),
    }
}

async fn render(messages: Vec<Message>, speech: &Speech) -> Result<String, ApiError> {
    let Some(template) = &speech.template else {
        return Err(ApiError::invalid(
            "messages",
            "this model has no chat template (tokenizer.chat_template in its GGUF file); use /v1/completions, \
             or a model made for chat",
        ));
    };
    let rendered = template.render(messages, now_unix_s()).await;
    rendered.map_err(|error| match error {
        TemplateError::Unavailable => ApiError::not_ready(error.to_string()),
        _ => ApiError::invalid("messages", error.to_string()),
    })
}

fn now_unix_s() -> i64 {
    // A clock before 1970 shows the epoch.
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

/// Begins with BOS exactly once where the vocabulary wants it, whether or not a template wrote it.
pub(super) fn with_bos(mut tokens: Vec<i32>, vocabulary: &Vocabulary) -> Vec<i32> {
    if let (true, Some(bos)) = (vocabulary.add_bos, vocabulary.bos)
        && tokens.first() != Some(&bos)
    {
        tokens.insert(0, bos);
    }
    tokens
}

/// Checks a prompt against the context and finds out how many tokens may follow.
///
/// # Errors
/// 400 when it is empty or leaves no room.
pub(super) fn measure(
    tokens: Vec<i32>,
    context_length: u32,
    wanted: Option<u32>,
    kind: Kind,
) -> Result<Fitted, ApiError> {
    if tokens.is_empty() {
        return Err(ApiError::invalid(kind.prompt_field(), "the prompt has no tokens"));
    }
    let length = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
    if length >= context_length {
        return Err(too_long(context_length, &length.to_string(), kind));
    }
    let room = context_length - length;
    Ok(Fitted {
        tokens,
        max_tokens: wanted.unwrap_or(DEFAULT_MAX_TOKENS).min(room),
    })
}

fn too_long(context_length: u32, prompt_tokens: &str, kind: Kind) -> ApiError {
    let message = format!(
        "this model's context has {context_length} tokens, one of them for the answer, but the prompt has \
         {prompt_tokens} tokens; shorten it"
    );
    ApiError {
        param: Some(kind.prompt_field().to_owned()),
        ..ApiError::context_length(message)
    }
}

fn refused(error: &TokenizeError, kind: Kind) -> ApiError {
    match error {
        TokenizeError::Refused(_) | TokenizeError::TooLong { .. } => {
            ApiError::invalid(kind.prompt_field(), error.to_string())
        }
        TokenizeError::Busy => ApiError::busy(error.to_string()),
        TokenizeError::Unavailable | TokenizeError::TimedOut { .. } => ApiError::not_ready(error.to_string()),
    }
}
