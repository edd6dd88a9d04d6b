//! The Secrets that models name: read by name when they are due, since the operator may not list or watch them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crds::InferenceModel;
use crds::conditions::reason;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use lifecycle::backoff::Policy;

use super::access::Access;
use super::status::Why;
use crate::context::Context;
use crate::error::{CallError, call};

/// A Secret that was read is read again after this long: a new token is in use before people begin to wonder.
pub const FRESH: Duration = Duration::from_secs(60);
/// One that is missing, wrong or unreadable, after this: somebody is about to mend it.
const RETRY: Policy = Policy {
    first: Duration::from_secs(2),
    cap: Duration::from_secs(30),
};
/// Reads under way.
const CONCURRENT: usize = 8;
/// Repeated reads in one pass; the rest are due in the next one. With [`CONCURRENT`] it bounds how long a pass waits.
const READS_MAX: usize = 32;
/// First reads in one pass: without them a new leader would take access from shards that have it. A few seconds' worth.
const FIRST_READS_MAX: usize = 1024;

/// Namespace and name.
pub type Key = (String, String);

#[derive(Debug)]
struct Known {
    access: Result<Access, Why>,
    failures: u32,
    due: Instant,
}

/// What is known of the Secrets.
#[derive(Debug, Default)]
pub struct Secrets {
    known: BTreeMap<Key, Known>,
}

/// The Secret that a model names.
#[must_use]
pub fn key(model: &InferenceModel) -> Option<Key> {
    let secret = model.spec.source.secret_ref.as_ref()?;
    Some((
        model.metadata.namespace.clone().unwrap_or_default(),
        secret.name.clone(),
    ))
}

impl Secrets {
    /// Reads what is due of the Secrets that models name, and forgets the others.
    pub async fn refresh(&mut self, context: &Context, wanted: BTreeSet<Key>, now: Instant) {
        self.known.retain(|key, _| wanted.contains(key));
        let reads = self
            .due(wanted, now)
            .into_iter()
            .map(|key| async { (read(context, &key).await, key) });
        let answers: Vec<(Result<Access, Unread>, Key)> = futures::stream::iter(reads)
            .buffer_unordered(CONCURRENT)
            .collect()
            .await;
        for (answer, key) in answers {
            self.learn(key, answer, now);
        }
    }

    /// What to read now: all that was never read, and some of what is due again.
    fn due(&self, wanted: BTreeSet<Key>, now: Instant) -> Vec<Key> {
        let (known, unread): (Vec<Key>, Vec<Key>) = wanted.into_iter().partition(|key| self.known.contains_key(key));
        let due = |key: &Key| self.known.get(key).is_some_and(|known| known.due <= now);
        let again = known.into_iter().filter(due).take(READS_MAX);
        unread.into_iter().take(FIRST_READS_MAX).chain(again).collect()
    }

    fn learn(&mut self, key: Key, answer: Result<Access, Unread>, now: Instant) {
        let before = self.known.remove(&key);
        let failures = match &answer {
            Ok(_) => 0,
            Err(_) => before.as_ref().map_or(0, |known| known.failures).saturating_add(1),
        };
        let access = match (answer, before) {
            (Ok(access), _) => Ok(access),
            // What was read before holds until the API server says otherwise.
            (Err(Unread::NoAnswer(_)), Some(Known { access: Ok(access), .. })) => Ok(access),
            (Err(Unread::NoAnswer(why) | Unread::Refused(why)), _) => Err(why),
        };
        let wait = if failures == 0 {
            FRESH
        } else {
            RETRY.wait(failures, 1.0)
        };
        let due = now + wait;
        self.known.insert(key, Known { access, failures, due });
    }

    /// How to reach a model's source, or why that is not known.
    pub fn access(&self, model: &InferenceModel) -> Result<Access, Why> {
        let access = match key(model) {
            None => Access::default(),
            Some(key) => match self.known.get(&key) {
                Some(known) => known.access.clone()?,
                None => {
                    let (namespace, name) = &key;
                    let message = format!("Secret {namespace}/{name} has not been read yet");
                    return Err(Why::new(reason::SECRET_UNREADABLE, message));
                }
            },
        };
        Ok(access.by_proxy(model.spec.source.proxy_url.as_deref()))
    }

    /// When the next one is due.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        self.known.values().map(|known| known.due).min()
    }
}

/// Why a Secret is not known.
enum Unread {
    /// It is missing, forbidden or wrong.
    Refused(Why),
    /// The API server cannot tell now.
    NoAnswer(Why),
}

async fn read(context: &Context, (namespace, name): &Key) -> Result<Access, Unread> {
    let api: Api<Secret> = Api::namespaced(context.client.0.clone(), namespace);
    match call(format!("get Secret {namespace}/{name}"), api.get(name)).await {
        Ok(secret) => Access::of_secret(namespace, name, &secret).map_err(Unread::Refused),
        Err(error) => {
            context.metrics.errors.with_label_values(&[error.category()]).inc();
            Err(unread(namespace, name, &error))
        }
    }
}

fn unread(namespace: &str, name: &str, error: &CallError) -> Unread {
    if error.is_not_found() {
        return Unread::Refused(Why::new(
            reason::SECRET_NOT_FOUND,
            format!("Secret {namespace}/{name}, named by spec.source.secretRef, does not exist; create it"),
        ));
    }
    if error.is_forbidden() {
        return Unread::Refused(Why::new(
            reason::SECRET_FORBIDDEN,
            format!(
                "the operator may not read Secret {namespace}/{name}, named by spec.source.secretRef; add {namespace:?} to the chart's value operator.sourceSecretNamespaces"
            ),
        ));
    }
    Unread::NoAnswer(Why::new(reason::SECRET_UNREADABLE, error.to_string()))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::fixture::{self as api, Script, Step};
    use crate::model::fixture;

    const PATH: &str = "/api/v1/namespaces/default/secrets/access";

    fn model() -> InferenceModel {
        let mut model = fixture::model();
        model.spec.source.secret_ref = Some(crds::SourceSecret { name: "access".into() });
        model.spec.source.proxy_url = Some("http://proxy:1".into());
        model
    }

    fn secret(token: &str) -> Step {
        let body = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "access", "namespace": "default" },
            "data": { "token": token },
        });
        Step::ok(Method::GET, PATH, body)
    }

    fn token(secrets: &Secrets) -> Result<String, String> {
        let access = secrets.access(&model()).map_err(|why| why.reason)?;
        let message = access.to_message().unwrap();
        assert_eq!(message.proxy_url, "http://proxy:1");
        Ok(message.bearer_token)
    }

    #[tokio::test]
    async fn a_secret_is_read_when_it_is_due_and_again_later() {
        let gone = Step::fails(Method::GET, PATH, 404, "NotFound");
        let busy = Step::fails(Method::GET, PATH, 503, "Unavailable");
        let forbidden = Step::fails(Method::GET, PATH, 403, "Forbidden");
        let (client, script) = Script::client([gone, secret("YWJj"), busy, forbidden]);
        let context = api::context(client);
        let (mut secrets, start) = (Secrets::default(), Instant::now());
        let wanted = || BTreeSet::from([key(&model()).unwrap()]);
        secrets.refresh(&context, wanted(), start).await;
        assert_eq!(token(&secrets), Err("SecretNotFound".into()));
        secrets.refresh(&context, wanted(), start).await;

        let retry = secrets.wakes_at().unwrap();
        assert_eq!(retry, start + RETRY.first);
        secrets.refresh(&context, wanted(), retry).await;
        assert_eq!(token(&secrets), Ok("abc".into()));
        assert_eq!(secrets.wakes_at(), Some(retry + FRESH));

        secrets.refresh(&context, wanted(), retry + FRESH).await;
        assert_eq!(
            token(&secrets),
            Ok("abc".into()),
            "an API server that is busy takes nothing back"
        );
        let later = secrets.wakes_at().unwrap();
        secrets.refresh(&context, wanted(), later).await;
        let why = secrets.access(&model()).unwrap_err();
        assert_eq!(why.reason, "SecretForbidden");
        assert!(
            why.message.contains("operator.sourceSecretNamespaces"),
            "{}",
            why.message
        );
        script.finished();
        secrets.refresh(&context, BTreeSet::new(), later).await;
        assert_eq!(secrets.wakes_at(), None, "what nobody names is forgotten");
    }

    #[test]
    fn all_secrets_are_read_before_a_new_leader_tells_anybody_and_few_at_a_time_later() {
        let (mut secrets, now) = (Secrets::default(), Instant::now());
        let wanted = || (0..100).map(|at| ("default".to_owned(), at.to_string())).collect();
        let unread = secrets.due(wanted(), now);
        assert_eq!(unread.len(), 100);
        for key in unread {
            secrets.learn(key, Ok(Access::default()), now);
        }
        assert!(secrets.due(wanted(), now).is_empty());
        assert_eq!(secrets.due(wanted(), now + FRESH).len(), READS_MAX);
    }

    #[test]
    fn a_source_without_a_secret_needs_none() {
        assert!(
            Secrets::default()
                .access(&fixture::model())
                .unwrap()
                .to_message()
                .is_none()
        );
    }
}
