//! A model's own chat template: messages to prompt text, as the model was trained to read it.
//!
//! Templates come out of model files, so rendering them is bounded: steps, recursion and output here, memory by the
//! [process](child) that a [`Renderer`] asks. They see the messages, the special tokens' text and the time, and nothing
//! else.

pub mod child;
mod clock;
mod python;
mod renderer;
#[cfg(test)]
mod tests;

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

pub use renderer::Renderer;

/// Instructions one rendering may execute: a thousand messages through the longest templates in use take a tenth of it.
const MAX_STEPS: u64 = 1_000_000;
/// Nesting of macros, loops and conditions; the longest templates in use need about twenty.
const MAX_RECURSION: usize = 100;
/// Bytes of a template's source; the longest in use have 30 KiB.
const MAX_SOURCE_BYTES: usize = 512 * 1024;
/// Bytes of a rendered prompt: what the tokeniser takes.
pub const MAX_PROMPT_BYTES: usize = 4 * 1024 * 1024;

const NAME: &str = "chat";

/// One message of a conversation, as templates see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Plain text.
    pub content: String,
    /// The participant's name, if one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Text of the special tokens that templates may write out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SpecialText {
    /// Beginning of a sequence; empty when the model has none.
    pub bos: String,
    /// End of a sequence; empty when the model has none.
    pub eos: String,
}

/// Why a template gave no prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TemplateError {
    /// The template cannot be used with any conversation.
    #[error(
        "the model's chat template cannot be read: {cause}; use /v1/completions or a model file with a valid template"
    )]
    Unreadable {
        /// What the parser found, and where.
        cause: String,
    },
    /// The template's own `raise_exception`.
    #[error("the model's chat template refuses these messages: {cause}")]
    Raised {
        /// The template's own words.
        cause: String,
    },
    /// An operation in the template failed.
    #[error("the model's chat template failed on these messages: {cause}")]
    Failed {
        /// What failed, and where.
        cause: String,
    },
    /// More than `MAX_STEPS`.
    #[error("the model's chat template took more than {MAX_STEPS} steps on these messages; send fewer or shorter ones")]
    TooManySteps,
    /// More than `MAX_PROMPT_BYTES`.
    #[error("these messages make a prompt of more than {MAX_PROMPT_BYTES} bytes; send fewer or shorter ones")]
    TooLong,
    /// More memory or time than a rendering may take.
    #[error(
        "the model's chat template took more memory or time on these messages than it may; send fewer or shorter ones"
    )]
    Exhausted,
    /// There is no process to render it.
    #[error("chat templates cannot be rendered now; try again shortly")]
    Unavailable,
}

/// A template's `raise_exception`, recognised again behind whatever the engine wraps around it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// A compiled template. Rendering takes it by reference: one serves all requests.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: SpecialText,
}

impl ChatTemplate {
    /// Compiles `source` with the settings that chat templates are written for.
    ///
    /// # Errors
    /// `Unreadable` when it is too long or no valid template.
    pub fn compile(source: &str, special: SpecialText) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            let cause = format!("it has {} bytes, the limit is {MAX_SOURCE_BYTES}", source.len());
            return Err(TemplateError::Unreadable { cause });
        }
        let unreadable = |error: Error| TemplateError::Unreadable {
            cause: describe(&error),
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(unreadable)?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(MAX_STEPS));
        environment.set_recursion_limit(MAX_RECURSION);
        environment.set_unknown_method_callback(python::method);
        environment.add_filter("tojson", python::to_json);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(unreadable)?;
        Ok(Self { environment, special })
    }

    /// The prompt for `messages`, ending where the assistant's answer begins. `strftime_now` shows `now_unix_s`.
    ///
    /// # Errors
    /// Everything but `Unreadable`.
    pub fn render(&self, messages: &[Message], now_unix_s: i64) -> Result<String, TemplateError> {
        let mut environment = self.environment.clone();
        environment.add_function("strftime_now", move |format: &str| {
            clock::format(format, now_unix_s).map_err(|cause| Error::new(ErrorKind::InvalidOperation, cause))
        });
        let template = environment.get_template(NAME).map_err(|error| classify(&error))?;
        let mut output = Bounded::default();
        let variables = context! {
            messages => Value::from(minijinja::value::Serde(messages)),
            add_generation_prompt => true,
            bos_token => &self.special.bos,
            eos_token => &self.special.eos,
            tools => Value::from(()),
            documents => Value::from(()),
        };
        let rendered = template.render_captured_to(variables, &mut output).map(drop);
        if output.exceeded {
            return Err(TemplateError::TooLong);
        }
        rendered.map_err(|error| classify(&error))?;
        String::from_utf8(output.bytes).map_err(|error| TemplateError::Failed {
            cause: error.to_string(),
        })
    }
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message.to_owned())))
}

fn classify(error: &Error) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::TooManySteps;
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(Raised(cause)) = inner.downcast_ref() {
            return TemplateError::Raised { cause: cause.clone() };
        }
        if let Some(inner) = inner.downcast_ref::<Error>()
            && inner.kind() == ErrorKind::OutOfFuel
        {
            return TemplateError::TooManySteps;
        }
        source = inner.source();
    }
    TemplateError::Failed { cause: describe(error) }
}

/// The engine's words with the line, without its internal template name.
fn describe(error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

/// Output that refuses to grow past `MAX_PROMPT_BYTES`.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    exceeded: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_PROMPT_BYTES {
            self.exceeded = true;
            return Err(io::Error::other("the prompt is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
