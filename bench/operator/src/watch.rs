//! An observer of its own: what the API server says of every model, and when it said so.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use crds::InferenceModel;
use crds::conditions::{is_true, model as kind};
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use localplane::{Error, Result};
use tokio::sync::watch;

/// A model as its status says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    /// Of the placement; zero without one.
    pub epoch: i64,
    /// Node and device of each stage.
    pub stages: Vec<(String, String)>,
    pub is_placed: bool,
    pub is_ready: bool,
    /// Of condition Placed.
    pub said: String,
    /// Of the object: another one after each write.
    pub version: String,
}

/// All models, by name.
pub type Models = BTreeMap<String, Model>;

/// Follows all models.
pub struct Observer {
    seen: watch::Receiver<Models>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Observer {
    pub fn start(client: Client) -> Self {
        let (models, seen) = watch::channel(Models::new());
        let task = tokio::spawn(async move {
            let api: Api<InferenceModel> = Api::all(client);
            let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                        let (name, model) = read(&object);
                        models.send_modify(|models| {
                            models.insert(name, model);
                        });
                    }
                    Ok(_) => {}
                    Err(error) => eprintln!("the observer's watch broke and begins again: {error}"),
                }
            }
        });
        Self { seen, task }
    }

    /// All models as they were seen last.
    pub fn models(&self) -> Models {
        self.seen.borrow().clone()
    }

    /// Waits until the models are so; says when that was first seen.
    pub async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut is_so: impl FnMut(&Models) -> bool,
    ) -> Result<Instant> {
        let seen = self.seen.wait_for(|models| is_so(models));
        let seen = tokio::time::timeout(limit, async { seen.await.map(drop) }).await;
        match seen {
            Ok(Ok(())) => Ok(Instant::now()),
            Ok(Err(_)) => Err(Error::Other("the observer ended".into())),
            Err(_) => Err(Error::TimedOut {
                condition: what.to_owned(),
                seconds: limit.as_secs(),
                last: told(&self.models()),
            }),
        }
    }
}

fn read(object: &InferenceModel) -> (String, Model) {
    let name = object.metadata.name.clone().unwrap_or_default();
    let version = object.metadata.resource_version.clone().unwrap_or_default();
    let Some(status) = &object.status else {
        let unknown = Model {
            version,
            ..Model::default()
        };
        return (name, unknown);
    };
    let placement = status.placement.as_ref();
    let stages = placement.into_iter().flat_map(|placement| &placement.stages);
    let placed = crds::conditions::find(&status.conditions, kind::PLACED);
    let model = Model {
        epoch: placement.map_or(0, |placement| placement.epoch),
        stages: stages.map(|stage| (stage.node.clone(), stage.device.clone())).collect(),
        is_placed: is_true(&status.conditions, kind::PLACED) && placement.is_some(),
        is_ready: is_true(&status.conditions, kind::READY),
        version,
        said: placed.map_or_else(String::new, |placed| format!("{}: {}", placed.reason, placed.message)),
    };
    (name, model)
}

/// How many are how far, and what the first of those says that are not placed.
fn told(models: &Models) -> String {
    let placed = models.values().filter(|model| model.is_placed).count();
    let ready = models.values().filter(|model| model.is_ready).count();
    let waiting = models.iter().find(|(_, model)| !model.is_placed);
    let waiting = waiting.map_or_else(String::new, |(name, model)| format!("; {name}: {}", model.said));
    format!("{placed} of {} are placed, {ready} ready{waiting}", models.len())
}
