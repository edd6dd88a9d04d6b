//! The body of `POST /v1/completions`: a prompt as it is, without a chat template.

use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;
use super::parameters::Parameters;

/// A validated completion request.
#[derive(Debug, PartialEq)]
pub struct TextRequest {
    /// All but the prompt.
    pub parameters: Parameters,
    /// Continued as it stands.
    pub prompt: String,
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
            Some(Value::String(prompt)) => prompt.clone(),
            Some(Value::Array(prompts)) => match prompts.as_slice() {
                [Value::String(prompt)] => prompt.clone(),
                _ => {
                    return Err(ApiError::unsupported(
                        "prompt",
                        "prompt must be one string; several prompts and token ids are not supported by this server",
                    ));
                }
            },
            Some(_) => return Err(ApiError::invalid("prompt", "prompt must be a string")),
            None => return Err(ApiError::invalid("prompt", "prompt is required")),
        };
        if prompt.is_empty() {
            return Err(ApiError::invalid("prompt", "prompt must not be empty"));
        }
        Ok(Self { parameters, prompt })
    }
}
