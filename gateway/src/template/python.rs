//! The methods of Python's strings and dictionaries that chat templates call, and `tojson` as Python writes it.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Called by the engine when a value has no such method of its own.
///
/// # Errors
/// `UnknownMethod` for all but the methods here.
pub fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => match value.as_str() {
            Some(text) => string_method(text, name, arguments),
            None => Err(Error::from(ErrorKind::UnknownMethod)),
        },
        ValueKind::Map => map_method(state, value, name, arguments),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn map_method(state: &mut State, map: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    match name {
        "items" => {
            let () = from_args(arguments)?;
            state.apply_filter("items", std::slice::from_ref(map))
        }
        "keys" => {
            let () = from_args(arguments)?;
            Ok(map.try_iter()?.collect())
        }
        "values" => {
            let () = from_args(arguments)?;
            map.try_iter()?
                .map(|key| map.get_item(&key))
                .collect::<Result<Value, Error>>()
        }
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(arguments)?;
            let found = map.get_item(&key)?;
            Ok(if found.is_undefined() {
                default.unwrap_or_else(|| Value::from(()))
            } else {
                found
            })
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn string_method(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    match name {
        "strip" | "lstrip" | "rstrip" => strip(text, name, arguments),
        "startswith" | "endswith" => affix(text, name, arguments),
        "split" | "rsplit" => split(text, name == "rsplit", arguments),
        "splitlines" => {
            let () = from_args(arguments)?;
            Ok(text.lines().map(Value::from).collect())
        }
        "upper" => no_arguments(arguments, || text.to_uppercase().into()),
        "lower" => no_arguments(arguments, || text.to_lowercase().into()),
        "capitalize" => no_arguments(arguments, || capitalise(text).into()),
        "title" => no_arguments(arguments, || {
            text.split_inclusive(' ').map(capitalise).collect::<String>().into()
        }),
        "isdigit" => no_arguments(arguments, || {
            (!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())).into()
        }),
        "isspace" => no_arguments(arguments, || {
            (!text.is_empty() && text.chars().all(char::is_whitespace)).into()
        }),
        "replace" => {
            let (from, to, count): (&str, &str, Option<i64>) = from_args(arguments)?;
            Ok(match count.and_then(|count| usize::try_from(count).ok()) {
                Some(count) => text.replacen(from, to, count).into(),
                None => text.replace(from, to).into(),
            })
        }
        "find" | "rfind" => {
            let (wanted,): (&str,) = from_args(arguments)?;
            let at = if name == "find" {
                text.find(wanted)
            } else {
                text.rfind(wanted)
            };
            // Python counts characters.
            Ok(at.map_or(Value::from(-1), |at| text[..at].chars().count().into()))
        }
        "count" => {
            let (wanted,): (&str,) = from_args(arguments)?;
            Ok(text.matches(wanted).count().into())
        }
        "removeprefix" | "removesuffix" => {
            let (affix,): (&str,) = from_args(arguments)?;
            let cut = if name == "removeprefix" {
                text.strip_prefix(affix)
            } else {
                text.strip_suffix(affix)
            };
            Ok(cut.unwrap_or(text).into())
        }
        "join" => {
            let (parts,): (Value,) = from_args(arguments)?;
            Ok(parts
                .try_iter()?
                .map(|part| part.to_string())
                .collect::<Vec<_>>()
                .join(text)
                .into())
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn no_arguments(arguments: &[Value], result: impl FnOnce() -> Value) -> Result<Value, Error> {
    let () = from_args(arguments)?;
    Ok(result())
}

fn capitalise(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first
            .to_uppercase()
            .chain(characters.flat_map(char::to_lowercase))
            .collect(),
        None => String::new(),
    }
}

fn strip(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (set,): (Option<&str>,) = from_args(arguments)?;
    let unwanted = |character: char| set.map_or(character.is_whitespace(), |set| set.contains(character));
    let mut rest = text;
    if name != "rstrip" {
        rest = rest.trim_start_matches(unwanted);
    }
    if name != "lstrip" {
        rest = rest.trim_end_matches(unwanted);
    }
    Ok(rest.into())
}

fn affix(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (wanted,): (Value,) = from_args(arguments)?;
    let has = |affix: &str| {
        if name == "startswith" {
            text.starts_with(affix)
        } else {
            text.ends_with(affix)
        }
    };
    if let Some(affix) = wanted.as_str() {
        return Ok(has(affix).into());
    }
    let mut choices = wanted.try_iter()?;
    Ok(choices.any(|choice| choice.as_str().is_some_and(has)).into())
}

fn split(text: &str, from_end: bool, arguments: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
    // As in Python: negative means no limit, and n splits give n + 1 parts.
    let parts = most
        .and_then(|most| usize::try_from(most).ok())
        .map_or(usize::MAX, |most| most.saturating_add(1));
    let Some(separator) = separator else {
        let words: Vec<&str> = text.split_whitespace().collect();
        if parts >= words.len() {
            return Ok(words.into_iter().map(Value::from).collect());
        }
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "split by white space takes no limit here",
        ));
    };
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let mut pieces: Vec<&str> = if from_end {
        text.rsplitn(parts, separator).collect()
    } else {
        text.splitn(parts, separator).collect()
    };
    if from_end {
        pieces.reverse();
    }
    Ok(pieces.into_iter().map(Value::from).collect())
}

/// `json.dumps(value, ensure_ascii=False)`, with `indent` if given: other spacing would be other tokens.
///
/// # Errors
/// When the value has no JSON form.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that the template engine calls"
)]
pub fn to_json(value: Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut bytes = Vec::new();
    match indent {
        // Sixteen is far past what any template asks for.
        Some(indent) => {
            let spaces = " ".repeat(indent.min(16));
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            value
                .serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
                .map_err(failed)?;
        }
        None => value
            .serialize(&mut Serializer::with_formatter(&mut bytes, PythonSpacing))
            .map_err(failed)?,
    }
    String::from_utf8(bytes)
        .map(Value::from)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// A space after every comma and colon.
struct PythonSpacing;

impl Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
