//! Is all of the stack whole again: every process runs, one operator leads and hears of everybody, the model is Ready, every stage has
//! its worker.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kube::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use localplane::stack::{Part, Stack, condition_of};
use serde_json::Value;

use crate::{Error, Result};

/// An API server or operator that takes longer is not well.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Looks at one stack.
pub struct Watch {
    models: Api<DynamicObject>,
    http: reqwest::Client,
    name: String,
}

impl Watch {
    /// Of the model of this name in namespace `default`.
    ///
    /// # Errors
    /// No client for the API server or the metrics.
    pub async fn new(stack: &Stack, name: &str) -> Result<Self> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("shardwright.dev", "v1alpha1", "InferenceModel"));
        let client = stack.plane().client().await?;
        Ok(Self {
            models: Api::namespaced_with(client, "default", &kind),
            http: metrics_client(stack.bundle())?,
            name: name.to_owned(),
        })
    }

    /// What is missing yet, in words; `None` when all is whole.
    pub async fn missing(&self, stack: &mut Stack) -> Option<String> {
        let ended = stack.ended();
        if let Some(part) = ended.first() {
            return Some(format!("{part} has ended"));
        }
        if let Some(missing) = self.unheard(stack).await {
            return Some(missing);
        }
        let model = match self.model().await {
            Ok(model) => model,
            Err(missing) => return Some(missing),
        };
        let ready = condition_of(&model, "Ready");
        if ready["status"] != "True" {
            return Some(format!("Ready is {}: {}", ready["status"], ready["message"]));
        }
        stage_without_worker(stack, &model)
    }

    async fn model(&self) -> std::result::Result<Value, String> {
        match tokio::time::timeout(ASK_LIMIT, self.models.get(&self.name)).await {
            Ok(Ok(model)) => Ok(serde_json::to_value(model).unwrap_or_default()),
            Ok(Err(error)) => Err(format!("the API server: {error}")),
            Err(_) => Err("the API server does not answer".to_owned()),
        }
    }

    /// The epoch of the model's placement; `None` where nobody answers.
    pub async fn epoch(&self) -> Option<i64> {
        self.model().await.ok()?["status"]["placement"]["epoch"].as_i64()
    }

    /// A node that has other workers than its stages, in words.
    pub async fn surplus(&self, stack: &Stack) -> Option<String> {
        let model = match self.model().await {
            Ok(model) => model,
            Err(missing) => return Some(missing),
        };
        let stages = model["status"]["placement"]["stages"].as_array()?;
        let unequal = |part: &Part| {
            let Part::Agent(node) = part else { return None };
            let wanted = stages.iter().filter(|stage| stage["node"] == node.as_str()).count();
            let workers = stack.workers(node);
            (workers.len() != wanted).then(|| format!("{node} has {wanted} stages and the workers {workers:?}"))
        };
        stack.parts().iter().find_map(unequal)
    }

    /// Whether one operator leads, and hears of all agents and gateways.
    async fn unheard(&self, stack: &Stack) -> Option<String> {
        let parts = stack.parts();
        let count = |wanted: fn(&Part) -> bool| parts.iter().filter(|part| wanted(part)).count() as f64;
        let agents = count(|part| matches!(part, Part::Agent(_)));
        let gateways = count(|part| matches!(part, Part::Gateway(_)));
        let mut leaders = 0;
        let mut heard = None;
        for part in parts.iter().filter(|part| matches!(part, Part::Operator(_))) {
            let Some(metrics) = self.metrics(stack, part).await else {
                return Some(format!("{part} gives no metrics"));
            };
            let value = |name: &str| {
                let found = metrics.get(&format!("shardwright_operator_{name}"));
                found.copied().unwrap_or_default()
            };
            if value("leader") == 1.0 {
                leaders += 1;
                heard = Some((value("agents_attached"), value("gateways_watching")));
            }
        }
        match heard {
            _ if leaders != 1 => Some(format!("{leaders} operators lead")),
            Some(heard) if heard != (agents, gateways) => Some(format!(
                "the leader hears of {} agents and {} gateways",
                heard.0, heard.1
            )),
            _ => None,
        }
    }

    /// Metrics without labels, by name. `None` where nobody answers.
    pub async fn metrics(&self, stack: &Stack, part: &Part) -> Option<BTreeMap<String, f64>> {
        let answer = self.http.get(stack.metrics_url(part)?).send().await.ok()?;
        let text = answer.text().await.ok()?;
        let values = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        });
        Some(values.collect())
    }
}

fn metrics_client(bundle: &Path) -> Result<reqwest::Client> {
    let unusable = |error: &dyn std::fmt::Display| Error::Other(format!("{}: {error}", bundle.display()));
    let pem = std::fs::read(bundle).map_err(|error| unusable(&error))?;
    let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?;
    let client = reqwest::Client::builder()
        .tls_certs_only(authorities)
        .timeout(ASK_LIMIT);
    client.build().map_err(|error| unusable(&error))
}

fn stage_without_worker(stack: &Stack, model: &Value) -> Option<String> {
    let stages = model["status"]["placement"]["stages"].as_array()?;
    let nodes = stages.iter().filter_map(|stage| stage["node"].as_str());
    let mut without = nodes.filter(|node| stack.workers(node).is_empty());
    without
        .next()
        .map(|node| format!("{node} holds a stage and has no worker"))
}
