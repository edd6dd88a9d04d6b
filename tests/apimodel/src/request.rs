//! PURE: what a request asks for.

use std::collections::BTreeMap;

use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::request::Parts;

use crate::failure::Failure;
use crate::kinds::{self, Kind};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Read one.
    Get,
    /// Read all.
    List,
    /// Be told of changes.
    Watch,
    /// Make one.
    Create,
    /// Replace one.
    Replace,
    /// Patch one by RFC 7386.
    Patch,
    /// Apply one.
    Apply,
    /// Delete one.
    Delete,
}

impl Verb {
    /// Whether it may change anything.
    #[must_use]
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// A request, parsed.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is to be done.
    pub verb: Verb,
    /// With objects of this kind.
    pub kind: &'static Kind,
    /// In this namespace; empty: in all, or the kind has none.
    pub namespace: String,
    /// With this one; empty: with all.
    pub name: String,
    /// With this part of it.
    pub subresource: String,
    /// Only metadata is wanted.
    pub metadata_only: bool,
    pub(crate) query: BTreeMap<String, String>,
}

impl Request {
    /// From what stands in HTTP.
    ///
    /// # Errors
    /// The path, the verb or the kind of patch is not served.
    pub fn parse(parts: &Parts) -> Result<Self, Failure> {
        let unknown = || Failure::new(404, "NotFound", "the server could not find the requested resource");
        let mut path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        let rest = match path.first() {
            Some(&"api") => path.split_off(1),
            Some(&"apis") => path.split_off(1),
            _ => return Err(unknown()),
        };
        let (group, mut rest) = if path == ["api"] {
            ("", rest)
        } else {
            (rest[0], rest[1..].to_vec())
        };
        if rest.len() < 2 {
            return Err(unknown());
        }
        let version = rest.remove(0);
        let namespace = match rest.as_slice() {
            ["namespaces", namespace, _, ..] => {
                let namespace = (*namespace).to_owned();
                rest.drain(..2);
                namespace
            }
            _ => String::new(),
        };
        let kind = kinds::find(group, version, rest[0]).ok_or_else(unknown)?;
        let part = |at: usize| rest.get(at).map_or_else(String::new, |part| (*part).to_owned());
        let (name, subresource) = (part(1), part(2));
        let query: BTreeMap<String, String> = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
        let header = |name| {
            parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        Ok(Self {
            verb: verb(&parts.method, &name, header(CONTENT_TYPE), &query)?,
            kind,
            namespace,
            name,
            subresource,
            metadata_only: header(ACCEPT).contains("as=PartialObjectMetadata"),
            query,
        })
    }

    /// Whether it is a list that may be answered with what there was at some time. One that asks for no version is answered with what
    /// there is.
    #[must_use]
    pub fn takes_an_old_list(&self) -> bool {
        self.verb == Verb::List && !self.parameter("resourceVersion").is_empty()
    }

    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// `verb kind namespace/name/subresource`, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self {
            verb,
            kind,
            namespace,
            name,
            subresource,
            ..
        } = self;
        let parts = [namespace, name, subresource].map(String::as_str);
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{verb:?} {} {}", kind.plural, parts.join("/"))
            .trim_end()
            .to_owned()
    }
}

fn verb(method: &Method, name: &str, content: &str, query: &BTreeMap<String, String>) -> Result<Verb, Failure> {
    let watches = query.get("watch").is_some_and(|value| value != "false" && value != "0");
    match (method.as_str(), name.is_empty()) {
        ("GET", _) if watches => Ok(Verb::Watch),
        ("GET", true) => Ok(Verb::List),
        ("GET", false) => Ok(Verb::Get),
        ("POST", true) => Ok(Verb::Create),
        ("PUT", false) => Ok(Verb::Replace),
        ("DELETE", false) => Ok(Verb::Delete),
        ("PATCH", false) if content.contains("apply-patch") => Ok(Verb::Apply),
        ("PATCH", false) if content.contains("merge-patch") => Ok(Verb::Patch),
        ("PATCH", false) => Err(Failure::new(
            415,
            "UnsupportedMediaType",
            format!("{content} is not modelled"),
        )),
        _ => Err(Failure::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method",
        )),
    }
}
