//! A scripted API server for tests: each call must be one that the script expects, and all of it must be used.

pub mod port;

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use identity::{Authority, PlacementSigner, SubjectName};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::authority::Current;
use crate::clock::Wall;
use crate::context::{ClientHandle, Context, Keys, Names};
use crate::metrics::Metrics;
use crate::model::gain::Threshold;
use crate::model::quarantine::Limit;

/// One call, and its answer.
#[derive(Debug, Clone)]
pub struct Step {
    method: Method,
    path: String,
    status: StatusCode,
    answer: Value,
}

impl Step {
    /// A call that succeeds.
    pub fn ok(method: Method, path: &str, answer: Value) -> Self {
        Self {
            method,
            path: path.into(),
            status: StatusCode::OK,
            answer,
        }
    }

    /// A call that fails.
    pub fn fails(method: Method, path: &str, status: u16, reason: &str) -> Self {
        let answer = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": status,
        });
        Self {
            method,
            path: path.into(),
            status: StatusCode::from_u16(status).unwrap(),
            answer,
        }
    }
}

/// What came of a script.
#[derive(Debug, Default)]
pub struct Script {
    steps: Mutex<Vec<Step>>,
    calls: Mutex<Vec<(String, Value)>>,
    unexpected: Mutex<Vec<String>>,
}

impl Script {
    /// A client whose API server follows the script. Calls may come in any order.
    pub fn client(steps: impl IntoIterator<Item = Step>) -> (Client, Arc<Self>) {
        let script = Arc::new(Self {
            steps: Mutex::new(steps.into_iter().collect()),
            ..Default::default()
        });
        let served = script.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let script = served.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                Ok::<_, std::convert::Infallible>(script.answer(&parts.method, parts.uri.path(), body))
            }
        });
        (Client::new(service, "shardwright-system"), script)
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> Response<Body> {
        let call = format!("{method} {path}");
        self.calls.lock().unwrap().push((call.clone(), body));
        let mut steps = self.steps.lock().unwrap();
        let expected = steps
            .iter()
            .position(|step| step.method == *method && step.path == path);
        let Some(step) = expected.map(|at| steps.remove(at)) else {
            self.unexpected.lock().unwrap().push(call);
            return Response::builder().status(418).body(Body::empty()).unwrap();
        };
        let answer = serde_json::to_vec(&step.answer).unwrap();
        Response::builder()
            .status(step.status)
            .body(Body::from(answer))
            .unwrap()
    }

    /// The bodies sent with a call, in order.
    pub fn bodies(&self, call: &str) -> Vec<Value> {
        let calls = self.calls.lock().unwrap();
        calls
            .iter()
            .filter(|(made, _)| made == call)
            .map(|(_, body)| body.clone())
            .collect()
    }

    /// Fails unless exactly the scripted calls were made.
    pub fn finished(&self) {
        assert_eq!(
            *self.unexpected.lock().unwrap(),
            Vec::<String>::new(),
            "calls that nobody expected"
        );
        let left: Vec<String> = self
            .steps
            .lock()
            .unwrap()
            .iter()
            .map(|step| format!("{} {}", step.method, step.path))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "calls that were not made");
    }
}

/// Names of a test installation.
pub fn names() -> Names {
    let local = vec![SubjectName::Dns("localhost".into())];
    Names {
        namespace: "shardwright-system".into(),
        pod_name: "operator-0".into(),
        trust_domain: "shardwright".into(),
        server_names: local.clone(),
        gateway_names: local,
    }
}

/// Keys of a test installation.
pub fn keys() -> Keys {
    Keys {
        authority: Current::new(Authority::generate("shardwright", std::time::SystemTime::now()).unwrap()),
        signer: Arc::new(PlacementSigner::generate().unwrap()),
    }
}

/// A context with that client.
pub fn context(client: Client) -> Context {
    Context {
        names: Arc::new(names()),
        client: ClientHandle(client),
        keys: keys(),
        holders: Arc::default(),
        threshold: Threshold::default(),
        quarantine: Limit::default(),
        metrics: Metrics::new(),
        wall: Wall::default(),
    }
}
