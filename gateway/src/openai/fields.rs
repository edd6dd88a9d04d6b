//! A request body as named fields, each read with its type and bounds so that an error can name it.

use serde_json::{Map, Value};

use super::error::ApiError;

/// The members of a JSON object. `null` is the same as absent; members nobody asks for are ignored.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a body.
    ///
    /// # Errors
    /// 400 when it is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::malformed("the request body is empty; send a JSON object"));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(_) => Err(ApiError::malformed("the request body is not a JSON object")),
            Err(error) => Err(ApiError::malformed(format!(
                "the request body is not valid JSON: {error}"
            ))),
        }
    }

    /// The member `name`, unless absent or `null`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// # Errors
    /// 400 when it is there and no string.
    pub fn string(&self, name: &str) -> Result<Option<&str>, ApiError> {
        self.typed(name, "a string", Value::as_str)
    }

    /// # Errors
    /// 400 when it is absent, empty or no string.
    pub fn required_string(&self, name: &str) -> Result<&str, ApiError> {
        match self.string(name)? {
            Some(text) if !text.is_empty() => Ok(text),
            Some(_) => Err(ApiError::invalid(name, format!("{name} must not be empty"))),
            None => Err(ApiError::invalid(name, format!("{name} is required"))),
        }
    }

    /// # Errors
    /// 400 when it is there and neither `true` nor `false`.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// # Errors
    /// 400 when it is there and no number in [`least`, `most`].
    pub fn number(&self, name: &str, least: f64, most: f64) -> Result<Option<f64>, ApiError> {
        let value = self.typed(name, "a number", Value::as_f64)?;
        match value {
            Some(value) if !(least..=most).contains(&value) => Err(out_of_bounds(name, &least, &most, &value)),
            other => Ok(other),
        }
    }

    /// # Errors
    /// 400 when it is there and no whole number in [`least`, `most`].
    pub fn whole(&self, name: &str, least: i64, most: i64) -> Result<Option<i64>, ApiError> {
        // 5.0 is a whole number to most JSON writers.
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole, and `as` saturates")]
        let as_whole = |value: &Value| {
            value.as_i64().or_else(|| {
                value
                    .as_f64()
                    .filter(|number| number.fract() == 0.0)
                    .map(|number| number as i64)
            })
        };
        let value = self.typed(name, "a whole number", as_whole)?;
        match value {
            Some(value) if !(least..=most).contains(&value) => Err(out_of_bounds(name, &least, &most, &value)),
            other => Ok(other),
        }
    }

    fn typed<'a, T>(
        &'a self,
        name: &str,
        what: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(ApiError::invalid(name, format!("{name} must be {what}"))),
        }
    }
}

fn out_of_bounds<T: std::fmt::Display>(name: &str, least: &T, most: &T, value: &T) -> ApiError {
    ApiError::invalid(
        name,
        format!("{name} must be between {least} and {most}, but is {value}"),
    )
}
