//! The body of `POST /v1/chat/completions`.

use serde_json::Value;

use super::error::{ApiError, shortened};
use super::fields::Fields;
use super::parameters::Parameters;
use crate::template::Message;

/// Messages of one conversation: beyond any context this serves, at one token each.
const MAX_MESSAGES: usize = 16_384;

/// A validated chat request.
#[derive(Debug, PartialEq)]
pub struct ChatRequest {
    /// All but the messages.
    pub parameters: Parameters,
    /// At least one.
    pub messages: Vec<Message>,
}

impl ChatRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::parse(body)?;
        let parameters = Parameters::read(&fields)?;
        let messages = match fields.get("messages") {
            None => return Err(ApiError::invalid("messages", "messages is required")),
            Some(Value::Array(messages)) if messages.is_empty() => {
                return Err(ApiError::invalid("messages", "messages must hold at least one message"));
            }
            Some(Value::Array(messages)) if messages.len() > MAX_MESSAGES => {
                let count = messages.len();
                return Err(ApiError::invalid(
                    "messages",
                    format!("messages may hold at most {MAX_MESSAGES} messages, not {count}"),
                ));
            }
            Some(Value::Array(messages)) => messages
                .iter()
                .enumerate()
                .map(|(index, message)| read_message(index, message))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(ApiError::invalid("messages", "messages must be an array")),
        };
        Ok(Self { parameters, messages })
    }
}

fn read_message(index: usize, message: &Value) -> Result<Message, ApiError> {
    let at = format!("messages[{index}]");
    let Value::Object(message) = message else {
        return Err(ApiError::invalid(
            &at,
            format!("{at} must be an object with role and content"),
        ));
    };
    let role = match message.get("role").and_then(Value::as_str) {
        // Templates are written for "system"; "developer" is its newer name.
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some(role @ ("tool" | "function")) => {
            return Err(ApiError::unsupported(
                &format!("{at}.role"),
                format!("{at}.role: messages of role {role} are not supported by this server"),
            ));
        }
        Some(other) => {
            let message = format!(
                "{at}.role must be system, developer, user or assistant, not {:?}",
                shortened(other)
            );
            return Err(ApiError::invalid(&format!("{at}.role"), message));
        }
        None => {
            return Err(ApiError::invalid(
                &format!("{at}.role"),
                format!("{at}.role must be a string"),
            ));
        }
    };
    for name in ["tool_calls", "function_call"] {
        if message
            .get(name)
            .is_some_and(|calls| !calls.is_null() && calls.as_array().is_none_or(|calls| !calls.is_empty()))
        {
            return Err(ApiError::unsupported(
                &format!("{at}.{name}"),
                format!("{at}.{name} is not supported by this server"),
            ));
        }
    }
    let content = read_content(&format!("{at}.content"), message.get("content"))?;
    let name = match message.get("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(_) => {
            return Err(ApiError::invalid(
                &format!("{at}.name"),
                format!("{at}.name must be a string"),
            ));
        }
    };
    Ok(Message {
        role: role.to_owned(),
        content,
        name,
    })
}

fn read_content(at: &str, content: Option<&Value>) -> Result<String, ApiError> {
    let wrong = || ApiError::invalid(at, format!("{at} must be a string or an array of parts of type text"));
    match content {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let mut texts = Vec::new();
            for part in parts {
                match (
                    part.get("type").and_then(Value::as_str),
                    part.get("text").and_then(Value::as_str),
                ) {
                    (Some("text"), Some(text)) => texts.push(text),
                    (Some(other), _) if other != "text" => {
                        let message = format!(
                            "{at}: parts of type {:?} are not supported by this server, only text",
                            shortened(other)
                        );
                        return Err(ApiError::unsupported(at, message));
                    }
                    _ => return Err(wrong()),
                }
            }
            Ok(texts.join("\n"))
        }
        _ => Err(wrong()),
    }
}
