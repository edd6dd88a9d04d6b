//! The body of `POST /v1/completions`: a prompt as it is, without a chat template.

use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;
use super::parameters::Parameters;
use super::prompt::Prompt;

/// A validated completion request.
#[derive(Debug, PartialEq)]
pub struct TextRequest {
    /// All but the prompt.
    pub parameters: Parameters,
    /// Continued as it stands.
    pub prompt: Prompt,
}

impl TextRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::parse(body)?;
        let parameters = Parameters::read(&fields)?;
        let prompt = match fields.get("prompt") {
            Some(Value::Array(several)) => match several.as_slice() {
                [one @ (Value::String(_) | Value::Array(_))] => one_prompt(one),
                [Value::String(_) | Value::Array(_), ..] => Err(ApiError::unsupported(
                    "prompt",
                    "several prompts in one request are not supported by this server; send one request for each",
                )),
                _ => tokens(several),
            },
            Some(one) => one_prompt(one),
            None => Err(ApiError::invalid("prompt", "prompt is required")),
        }?;
        Ok(Self { parameters, prompt })
    }
}

fn one_prompt(value: &Value) -> Result<Prompt, ApiError> {
    match value {
        Value::String(text) if text.is_empty() => Err(ApiError::invalid("prompt", "prompt must not be empty")),
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(ids) => tokens(ids),
        _ => Err(ApiError::invalid(
            "prompt",
            "prompt must be a string or a list of token ids",
        )),
    }
}

fn tokens(ids: &[Value]) -> Result<Prompt, ApiError> {
    if ids.is_empty() {
        return Err(ApiError::invalid("prompt", "prompt must not be empty"));
    }
    let id = |value: &Value| value.as_i64().and_then(|id| i32::try_from(id).ok());
    let ids: Option<Vec<i32>> = ids.iter().map(id).collect();
    let wrong = || {
        ApiError::invalid(
            "prompt",
            "a list as prompt must be of token ids, which are whole numbers",
        )
    };
    ids.map(Prompt::Tokens).ok_or_else(wrong)
}
