//! The API server's answers to what it does not do.

use serde_json::{Value, json};

use crate::store::Key;

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub struct Failure {
    /// HTTP status.
    pub code: u16,
    /// One CamelCase word, or nothing.
    pub reason: String,
    /// For a person.
    pub message: String,
}

impl Failure {
    /// Any.
    #[must_use]
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    pub(crate) fn not_found(key: &Key) -> Self {
        let (kind, name) = (key.kind().qualified(), &key.name);
        Self::new(404, "NotFound", format!("{kind} {name:?} not found"))
    }

    pub(crate) fn exists(key: &Key) -> Self {
        let (kind, name) = (key.kind().qualified(), &key.name);
        Self::new(409, "AlreadyExists", format!("{kind} {name:?} already exists"))
    }

    pub(crate) fn modified(key: &Key) -> Self {
        Self::conflict(
            key,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(crate) fn precondition(key: &Key, field: &str, wanted: &str, found: &Value) -> Self {
        let found = found.as_str().unwrap_or_default();
        Self::conflict(
            key,
            &format!("Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {found}"),
        )
    }

    pub(crate) fn no_such_uid(key: &Key, wanted: &Value) -> Self {
        let uid = wanted["metadata"]["uid"].as_str().unwrap_or_default();
        Self::conflict(
            key,
            &format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found"),
        )
    }

    fn conflict(key: &Key, why: &str) -> Self {
        let (kind, name) = (key.kind().qualified(), &key.name);
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {kind} {name:?}: {why}"),
        )
    }

    pub(crate) fn contested(fields: &[String]) -> Self {
        let count = fields.len();
        Self::new(
            409,
            "Conflict",
            format!("Apply failed with {count} conflict(s): {}", fields.join(", ")),
        )
    }

    pub(crate) fn expired(wanted: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {wanted} ({oldest})"))
    }

    pub(crate) fn bad_request(message: &str) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn invalid(key: &Key, message: &str) -> Self {
        let (kind, name) = (key.kind().qualified(), &key.name);
        Self::new(422, "Invalid", format!("{kind} {name:?} is invalid: {message}"))
    }

    /// As the API server sends it.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            body["reason"] = json!(self.reason);
        }
        body
    }
}
