//! From a request in HTTP to its answer.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::failure::Failure;
use crate::real::Real;
use crate::request::{Request, Verb};
use crate::selector::Selection;
use crate::store::{Caller, Key, Preconditions};
use crate::watch::{self, Watching};
use crate::{ApiServer, Moment, Seen, Verdict, wall};

/// What answers are made of.
pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

/// The API server as `kube::Client` takes it.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    server: ApiServer,
    connection: Connection,
}

impl Service {
    pub(crate) fn new(server: ApiServer, connection: Connection) -> Self {
        Self { server, connection }
    }

    async fn answer(self, request: http::Request<Body>) -> Result<Response<AnswerBody>, io::Error> {
        let (parts, body) = request.into_parts();
        let sent = body.collect_bytes().await.map_err(io::Error::other)?;
        let body: Value = serde_json::from_slice(&sent).unwrap_or(Value::Null);
        self.connection.moves().await;
        let request = match Request::parse(&parts) {
            Ok(request) => request,
            Err(failure) => return Ok(failed(&failure)),
        };
        let number = {
            let mut inner = self.server.lock();
            if !inner.available {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            inner.requests += 1;
            inner.requests
        };
        if let Some(ended) = self.ask(number, &request, &body, Moment::Before).await? {
            return Ok(ended);
        }
        let answer = match self.server.real() {
            Some(real) => self.carry_out_there(&real, (&parts, &sent), &request),
            None => self.carry_out(&request, &body),
        };
        if let Some(ended) = self.ask(number, &request, &body, Moment::After).await? {
            return Ok(ended);
        }
        self.connection.moves().await;
        Ok(answer.unwrap_or_else(|failure| failed(&failure)))
    }

    /// What the hook says; an answer where the request ends with that.
    async fn ask(
        &self,
        number: u64,
        request: &Request,
        body: &Value,
        moment: Moment,
    ) -> Result<Option<Response<AnswerBody>>, io::Error> {
        let hook = self.server.lock().hook.clone();
        let seen = Seen {
            number,
            client: &self.connection.name,
            request,
            body,
        };
        match hook(&seen, moment) {
            Verdict::Continue => {}
            Verdict::Crash => self.connection.kill(),
            Verdict::Answer(failure) => return Ok(Some(failed(&failure))),
            Verdict::Delay(time) => tokio::time::sleep(time).await,
            Verdict::Drop => return Err(io::Error::from(io::ErrorKind::ConnectionReset)),
        }
        self.connection.moves().await;
        Ok(None)
    }

    fn carry_out_there(
        &self,
        real: &Real,
        (parts, sent): (&Parts, &Bytes),
        request: &Request,
    ) -> Result<Response<AnswerBody>, Failure> {
        if request.verb == Verb::Watch {
            return real.watch(&self.server, parts, request, &self.connection);
        }
        Ok(real.forward(&self.server, parts, sent, (request, &self.caller())))
    }

    fn caller(&self) -> Caller {
        Caller {
            name: self.connection.name.clone(),
            at: wall(),
        }
    }

    fn carry_out(&self, request: &Request, body: &Value) -> Result<Response<AnswerBody>, Failure> {
        let caller = self.caller();
        if request.verb == Verb::Watch {
            let watching = Watching::new(self.server.clone(), self.connection.clone(), request)?;
            return Ok(streamed(watching));
        }
        let answer = self.server.with(|store| match request.verb {
            Verb::List => {
                let selection = selection(request)?;
                let items = store.list(request.kind, &selection);
                Ok((200, listed(request, &items, store.revision())))
            }
            _ => one(store, request, body, &caller),
        });
        let (code, body) = answer?;
        Ok(whole(code, &body))
    }
}

/// A request for one object.
fn one(store: &mut crate::Store, request: &Request, body: &Value, caller: &Caller) -> Result<(u16, Value), Failure> {
    let key = Key::new(request.kind, &request.namespace, &request.name);
    let sub = request.subresource.as_str();
    let written = match request.verb {
        Verb::Get => return Ok((200, shown(request, &store.get(&key)?))),
        Verb::Create => store.create(request.kind, &request.namespace, body.clone(), caller),
        Verb::Replace => store.replace(&key, sub, body.clone(), caller),
        Verb::Patch => store.merge(&key, sub, body, caller),
        Verb::Apply => {
            let force = request.parameter("force") == "true";
            let manager = request.parameter("fieldManager");
            if manager.is_empty() {
                return Err(Failure::invalid(
                    &key,
                    "fieldManager: Required value: is required for apply patch",
                ));
            }
            store.apply(&key, sub, body, (manager, force), caller)
        }
        Verb::Delete => {
            let only = &body["preconditions"];
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let only = Preconditions {
                uid: text(&only["uid"]),
                resource_version: text(&only["resourceVersion"]),
                grace_seconds: body["gracePeriodSeconds"].as_i64(),
            };
            let (object, gone) = store.delete(&key, &only, caller)?;
            return Ok((
                200,
                if gone {
                    deleted(&key, &object)
                } else {
                    (*object).clone()
                },
            ));
        }
        Verb::List | Verb::Watch => return Err(Failure::bad_request("not a request for one object")),
    };
    let (object, new) = written?;
    Ok((if new { 201 } else { 200 }, shown(request, &object)))
}

fn deleted(key: &Key, object: &Value) -> Value {
    let (kind, name) = (key.kind(), &key.name);
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": { "name": name, "group": kind.group, "kind": kind.plural, "uid": object["metadata"]["uid"] },
    })
}

pub(crate) fn selection(request: &Request) -> Result<Selection, Failure> {
    let namespace = Some(request.namespace.clone()).filter(|namespace| !namespace.is_empty());
    let fields = request.parameter("fieldSelector");
    Selection::parse(namespace, request.parameter("labelSelector"), fields)
        .map_err(|part| Failure::bad_request(&format!("selector {part:?} is not modelled")))
}

/// An object as it was asked for.
pub(crate) fn shown(request: &Request, object: &Arc<Value>) -> Value {
    if !request.metadata_only {
        return (**object).clone();
    }
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
    })
}

fn listed(request: &Request, items: &[Arc<Value>], revision: u64) -> Value {
    let limit = request.parameter("limit").parse().unwrap_or(usize::MAX);
    let shown: Vec<Value> = items.iter().take(limit).map(|object| shown(request, object)).collect();
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    // Pages beyond the first are not served: nobody here has five hundred objects.
    if items.len() > limit {
        metadata["remainingItemCount"] = json!(items.len() - limit);
    }
    let (kind, version) = if request.metadata_only {
        ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
    } else {
        (format!("{}List", request.kind.kind), request.kind.api_version())
    };
    json!({ "kind": kind, "apiVersion": version, "metadata": metadata, "items": shown })
}

fn whole(code: u16, body: &Value) -> Response<AnswerBody> {
    let bytes = Bytes::from(body.to_string());
    let body = Full::new(bytes)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync();
    answered(code, body)
}

fn streamed(watching: Watching) -> Response<AnswerBody> {
    answered(200, watch::body(watching))
}

fn failed(failure: &Failure) -> Response<AnswerBody> {
    whole(failure.code, &failure.body())
}

pub(crate) fn answered(code: u16, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = Response<AnswerBody>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}
