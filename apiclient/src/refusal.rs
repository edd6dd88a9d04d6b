//! What the API server said that is no success, and what to do about it.

use crds::names::INSTALL_KINDS;
use kube::core::Status;

use crate::pause::Paused;

/// Rights are made with the chart, and whatever was removed since is made again by an upgrade, even to the same version.
const GIVE_RIGHTS_BACK: &str = "the chart's roles and bindings give this right: helm upgrade makes them anew";

/// What the API server says, without the structure around it, and what to do where that is known; or the chain of causes down to the
/// socket. Only kinds that the chart defines can be unknown.
#[must_use]
pub fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => {
            let said = format!("{} ({} {})", status.message, status.code, status.reason);
            match status.code {
                403 => format!("{said}; {GIVE_RIGHTS_BACK}"),
                404 if is_of_kind(status) => format!("{said}: it does not know the kind; {INSTALL_KINDS}"),
                _ => said,
            }
        }
        kube::Error::Service(cause) if cause.is::<Paused>() => cause.to_string(),
        other => identity::connect::causes(other),
    }
}

/// Whether it is the kind that is not there: of an object that is not, its name is said.
fn is_of_kind(status: &Status) -> bool {
    status.details.as_ref().is_none_or(|details| details.name.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Of an object of this name, if it is of one.
    fn told(code: u16, reason: &str, name: Option<&str>) -> String {
        let status = Status {
            code,
            message: "no".to_owned(),
            reason: reason.to_owned(),
            details: name.map(|name| serde_json::from_value(json!({ "name": name })).unwrap()),
            ..Status::default()
        };
        brief(&kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_api_server_with_its_remedy() {
        assert_eq!(told(409, "Conflict", Some("node-a")), "no (409 Conflict)");
        let forbidden = told(403, "Forbidden", Some("node-a"));
        assert!(
            forbidden.starts_with("no (403 Forbidden); ") && forbidden.contains("helm upgrade"),
            "{forbidden}"
        );
    }

    #[test]
    fn a_kind_that_is_not_there_is_told_from_an_object_that_is_not() {
        assert_eq!(told(404, "NotFound", Some("node-a")), "no (404 NotFound)");
        for nameless in [None, Some("")] {
            let kind = told(404, "NotFound", nameless);
            assert!(
                kind.contains("does not know the kind") && kind.contains(INSTALL_KINDS),
                "{kind}"
            );
        }
    }
}
