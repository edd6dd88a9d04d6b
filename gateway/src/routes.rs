//! Which models there are and who answers for each: the operator's route table, verified.
//!
//! ```text
//!  operator ──Watch──▶ RouteTable ──verify──▶ Table ──▶ requests
//!                          │  ▲
//!                    state directory: read back at start, so that an outage of the operator changes nothing
//! ```

pub mod disk;
#[cfg(test)]
mod tests;
mod trust;
pub mod watch;

use std::collections::HashSet;
use std::sync::Arc;

use identity::{PlacementVerifier, Role, SpiffeId};
use proto::control::v1::{ModelRoute, RouteTable};
use proto::placement::v1::Placement;

/// SHA-256 of a vocabulary file.
pub type Digest = [u8; 32];

/// Models of one table: a cluster of thousands of nodes serves hundreds.
pub const MAX_MODELS: usize = 1024;

/// The first stage of a pipeline that serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Head {
    /// `host:port`.
    pub endpoint: String,
    /// The only identity that may answer there.
    pub worker: SpiffeId,
}

/// One model as requests see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The object's unique id.
    pub uid: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// Seconds since the Unix epoch: the object's creation.
    pub created_unix_s: i64,
    /// Which vocabulary it speaks; `None` until it has been inspected.
    pub vocabulary: Option<Digest>,
    /// Where it can be asked, or why it cannot.
    pub state: ModelState,
}

/// Whether a model can be asked.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelState {
    /// At least one pipeline serves.
    Ready(Route),
    /// None does.
    NotReady {
        /// Epoch of the placement that is being loaded; 0 when there is none.
        epoch: u64,
        /// For the client.
        message: String,
        /// It is about to be by itself: it is being moved or loaded.
        recovering: bool,
    },
}

/// What decides on the tokens of an answer: pipelines of the same weights may go on with each other's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weights {
    /// SHA-256 of the weight index.
    index_sha256: Digest,
    /// Type of the cached keys and values, as in the placement.
    kv_type: i32,
}

impl Weights {
    /// Two are equal if and only if these are.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        [self.index_sha256.as_slice(), &self.kv_type.to_le_bytes()].concat()
    }

    fn of(placement: &Placement) -> Option<Self> {
        let index = &placement.source.as_ref()?.index_sha256;
        Some(Self {
            index_sha256: Digest::try_from(index.as_slice()).ok()?,
            kv_type: placement.runtime.as_ref()?.kv_type,
        })
    }
}

/// Where a model that can be asked is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Epoch of the placement.
    pub epoch: u64,
    /// What computes the answers.
    pub weights: Weights,
    /// Tokens one sequence may have.
    pub context_length: u32,
    /// At least one.
    pub heads: Vec<Head>,
    /// Of the pipeline of each head, in their order. No part of a head: it keeps its connections over epochs.
    pub pipeline_epochs: Vec<u64>,
}

impl Route {
    /// The epoch in which a head is asked: its pipeline's.
    #[must_use]
    pub fn epoch_of(&self, head: &Head) -> u64 {
        let mut pipelines = self.heads.iter().zip(&self.pipeline_epochs);
        let found = pipelines.find(|(known, _)| *known == head);
        found.map_or(self.epoch, |(_, epoch)| *epoch)
    }
}

impl Model {
    /// The id that is always accepted.
    #[must_use]
    pub fn qualified_id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn epoch(&self) -> u64 {
        match &self.state {
            ModelState::Ready(route) => route.epoch,
            ModelState::NotReady { epoch, .. } => *epoch,
        }
    }
}

/// All models, in the operator's order.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Table {
    models: Vec<Arc<Model>>,
}

/// What became of an id.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// The one model with this id.
    Model(Arc<Model>),
    /// Several namespaces have a model of this name.
    Ambiguous,
    /// There is none.
    None,
}

impl Table {
    /// The table that follows `previous`. A model whose envelope does not verify, or whose epoch went backwards, keeps
    /// the state it had; one that was not known before is listed as not ready.
    ///
    /// A placement's `not_after` bounds installing, which is the workers' business: here it is not judged.
    #[must_use]
    pub fn verified(received: RouteTable, previous: &Table, verifier: &PlacementVerifier, trust_domain: &str) -> Self {
        let mut seen = HashSet::new();
        let models = received
            .models
            .into_iter()
            .take(MAX_MODELS)
            .filter(|route| seen.insert(route.model_uid.clone()))
            .map(|route| Arc::new(model(route, previous, verifier, trust_domain)))
            .collect();
        Self { models }
    }

    /// All models.
    #[must_use]
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// The model that a client means: `<namespace>/<name>`, or the name alone where it is unique.
    #[must_use]
    pub fn find(&self, id: &str) -> Found {
        if let Some(model) = self.models.iter().find(|model| model.qualified_id() == id) {
            return Found::Model(Arc::clone(model));
        }
        let mut named = self.models.iter().filter(|model| model.name == id);
        match (named.next(), named.next()) {
            (Some(model), None) => Found::Model(Arc::clone(model)),
            (Some(_), Some(_)) => Found::Ambiguous,
            (None, _) => Found::None,
        }
    }

    /// The model with this unique id.
    #[must_use]
    pub fn by_uid(&self, uid: &str) -> Option<&Arc<Model>> {
        self.models.iter().find(|model| model.uid == uid)
    }

    /// The id to list a model under: its name where that is unique.
    #[must_use]
    pub fn public_id(&self, model: &Model) -> String {
        match self.find(&model.name) {
            Found::Model(_) => model.name.clone(),
            _ => model.qualified_id(),
        }
    }

    /// Every vocabulary that a model speaks, once.
    #[must_use]
    pub fn vocabularies(&self) -> Vec<Digest> {
        let mut seen = HashSet::new();
        self.models
            .iter()
            .filter_map(|model| model.vocabulary)
            .filter(|digest| seen.insert(*digest))
            .collect()
    }

    /// Every head that serves.
    #[must_use]
    pub fn heads(&self) -> HashSet<Head> {
        let routes = self.models.iter().filter_map(|model| match &model.state {
            ModelState::Ready(route) => Some(route),
            ModelState::NotReady { .. } => None,
        });
        routes.flat_map(|route| route.heads.iter().cloned()).collect()
    }
}

fn model(route: ModelRoute, previous: &Table, verifier: &PlacementVerifier, trust_domain: &str) -> Model {
    let before = previous.by_uid(&route.model_uid);
    let accepted_epoch = before.map_or(0, |model| model.epoch());
    let state = match state(&route, accepted_epoch, verifier, trust_domain) {
        Ok(state) => state,
        Err(cause) => {
            tracing::warn!(model = %route.name, namespace = %route.namespace, %cause, "placement refused");
            before.map_or_else(
                || not_ready(0, "its placement cannot be verified by this gateway", false),
                |before| before.state.clone(),
            )
        }
    };
    let mut model = Model {
        uid: route.model_uid,
        namespace: route.namespace,
        name: route.name,
        created_unix_s: route.created_unix_s,
        vocabulary: Digest::try_from(route.vocabulary_sha256.as_slice()).ok(),
        state,
    };
    if let Some(before) = before
        && model.epoch() < before.epoch()
    {
        let (offered, present) = (model.epoch(), before.epoch());
        tracing::warn!(model = %model.qualified_id(), offered, present, "older placement refused");
        model.state = before.state.clone();
    }
    model
}

fn not_ready(epoch: u64, message: &str, recovering: bool) -> ModelState {
    ModelState::NotReady {
        epoch,
        message: message.to_owned(),
        recovering,
    }
}

fn state(
    route: &ModelRoute,
    accepted_epoch: u64,
    verifier: &PlacementVerifier,
    trust_domain: &str,
) -> Result<ModelState, String> {
    let message = if route.message.is_empty() {
        "it is not serving yet"
    } else {
        &route.message
    };
    let Some(envelope) = &route.envelope else {
        // Placed nowhere any more; what was accepted before stays the least that is accepted again.
        return Ok(not_ready(accepted_epoch, message, route.recovering));
    };
    let placement = verifier.verify(envelope).map_err(|error| error.to_string())?;
    if placement.model_uid != route.model_uid || placement.namespace != route.namespace || placement.name != route.name
    {
        return Err(format!(
            "the placement is for {}/{} ({})",
            placement.namespace, placement.name, placement.model_uid
        ));
    }
    if !route.ready {
        return Ok(not_ready(placement.epoch, message, route.recovering));
    }
    let (heads, pipeline_epochs) = heads(route, &placement, trust_domain)?;
    let context_length = placement.runtime.as_ref().map_or(0, |runtime| runtime.context_length);
    if heads.is_empty() || context_length == 0 {
        return Ok(not_ready(placement.epoch, message, route.recovering));
    }
    let weights = Weights::of(&placement).ok_or("the placement names no weights")?;
    Ok(ModelState::Ready(Route {
        epoch: placement.epoch,
        weights,
        context_length,
        heads,
        pipeline_epochs,
    }))
}

/// The heads that serve and may speak, in the order of the pipelines, and the pipelines' epochs.
fn heads(route: &ModelRoute, placement: &Placement, trust_domain: &str) -> Result<(Vec<Head>, Vec<u64>), String> {
    let (pipelines, endpoints) = (placement.pipelines.len(), route.head_endpoints.len());
    if pipelines != endpoints {
        return Err(format!("{pipelines} pipelines, but {endpoints} endpoints"));
    }
    let (mut heads, mut epochs) = (Vec::new(), Vec::new());
    for (pipeline, endpoint) in placement.pipelines.iter().zip(&route.head_endpoints) {
        // There is none for this number at present.
        let Some(stage) = pipeline.stages.first() else { continue };
        let role = Role::Worker {
            node: stage.node.clone(),
            model_uid: placement.model_uid.clone(),
        };
        let worker = SpiffeId::new(trust_domain, role).map_err(|error| error.to_string())?;
        if !endpoint.is_empty() && !placement.denied.contains(&worker.to_string()) {
            heads.push(Head {
                endpoint: endpoint.clone(),
                worker,
            });
            epochs.push(pipeline.epoch_in(placement));
        }
    }
    Ok((heads, epochs))
}
