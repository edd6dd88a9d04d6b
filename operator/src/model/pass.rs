//! One pass over all models: the steps in order, each pure or with a client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::conditions::{find, is_true, model as kind};
use crds::{InferenceModel, InferenceModelStatus};
use identity::PlacementVerifier;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use proto::control::v1::RouteTable;

use super::access::Access;
use super::apply::{self, Prepared};
use super::assign::{self, Holding, Waits};
use super::decide::{self, Ahead, Decided, World};
use super::in_force::InForce;
use super::learned_pace::{self, Corrections};
use super::links;
use super::observe::Observed;
use super::observed_pace;
use super::publish::{self, Events, Note};
use super::quarantine::sight::{self as quarantined, Around, Kept};
use super::secrets::{self, Secrets};
use super::stages::{self, StageSight};
use super::status::{self, Placed, Sight};
use super::term::{ModelState, Term};
use super::yielding::turn;
use crate::admin::Health as Liveness;
use crate::agents::registry::Snapshot;
use crate::agents::{AgentView, Agents};
use crate::clock;
use crate::context::Context;
use crate::routes::Routes;

/// What the loop works with while this replica leads.
pub struct Loop<'a> {
    /// Client, keys, metrics.
    pub context: &'a Context,
    /// The agents.
    pub agents: &'a Agents,
    /// The gateways.
    pub routes: &'a Routes,
    /// Who is told that the loop is alive.
    pub health: &'a Liveness,
    /// Where transitions are told.
    pub events: Events,
    /// What is remembered.
    pub term: Term,
    /// The Secrets that models name.
    pub secrets: Secrets,
    /// All agents that held placements have attached once, or were given up.
    pub settled: bool,
    /// For how long models are decided before what was decided anew takes effect. The others follow in the next pass.
    pub slice: Duration,
    /// The last pass could not write every status.
    pub writes_failed: bool,
}

/// How a pass ended.
#[derive(Debug)]
pub struct Outcome {
    /// When to look again, if nothing changes.
    pub wakes_at: Option<Instant>,
    /// Statuses that could not be written.
    pub failed_writes: usize,
}

/// A model with what was decided for it; the status is computed from it and from nothing else.
struct Proposal {
    model: Arc<InferenceModel>,
    uid: String,
    decided: Decided,
    status: InferenceModelStatus,
    /// Nothing was decided: status and placement are as they were.
    put_off: bool,
}

impl Loop<'_> {
    /// Observe → read Secrets → validate, translate, build, decide → assign, sign → apply → publish.
    pub async fn pass(&mut self, mut observed: Observed, now: Instant, wall: Timestamp) -> Outcome {
        // 1. (pure) By priority; of equals, whoever came first is placed first.
        observed.models.sort_by(|a, b| turn(a).cmp(&turn(b)));
        let Snapshot {
            nodes: mut agents,
            inspected,
            silenced,
        } = self.agents.snapshot();
        // (client) Who is not heard, and says by other ways that it is there.
        self.term.unheard.look(&agents, silenced, now);
        self.term.miss(&agents, &observed.devices, now);
        self.term.unheard.ask(self.context, now).await;
        let unheard = self.term.unheard.fill(&mut agents, now);
        let metric = &self.context.metrics.agents_unheard;
        metric.set(i64::try_from(unheard).unwrap_or(i64::MAX));
        // 2. (client) What sources demand.
        let named = observed.models.iter().filter_map(|model| secrets::key(model)).collect();
        self.secrets.refresh(self.context, named, now).await;
        // 3. (pure) Remember, learn, ask.
        self.remember(&observed, &agents, inspected, now);
        let awaited = self.term.awaited(&agents, now);
        // 4. (pure) Decide for every model, and compute its status.
        let proposals = clock::at_length(|| self.propose(&observed, &agents, &awaited, now, wall));
        // Deciding may have taken longer than the lease: here the loop is dropped if it no longer leads.
        tokio::task::yield_now().await;
        // 5. (client) A placement is in force once it is in status, and not before: an epoch is never used twice.
        let failed_writes = self.apply(&proposals, &awaited, now).await;
        self.writes_failed = failed_writes > 0;
        // 6. (client) Tell agents, gateways and people.
        self.publish(&proposals, &agents, &awaited);
        self.name_peers(&observed, &agents);
        let wakes = [
            self.term.wakes_at(&awaited, now),
            self.secrets.wakes_at(),
            self.term.unheard.wakes_at(),
        ];
        let mut wakes_at = wakes.into_iter().flatten().min();
        // Memory that one model gave up may be what another, decided before it, waits for.
        let moved = proposals.iter().any(|proposal| self.took_effect(proposal));
        let waits = moved && proposals.iter().any(|proposal| proposal.decided.placed != Placed::Yes);
        let is_left = |proposal: &Proposal| proposal.put_off || proposal.decided.ahead != Ahead::Nothing;
        if waits || proposals.iter().any(is_left) {
            wakes_at = Some(now);
        }
        Outcome {
            wakes_at,
            failed_writes,
        }
    }

    fn remember(
        &mut self,
        observed: &Observed,
        agents: &BTreeMap<String, AgentView>,
        inspected: Vec<crate::agents::registry::Inspected>,
        now: Instant,
    ) {
        let public_key = self.context.keys.signer.public_key();
        match PlacementVerifier::new([public_key]) {
            Ok(verifier) => self.term.recall(&observed.models, &verifier),
            Err(error) => tracing::error!(%error, "the own placement key is not usable"),
        }
        self.term.reach(&observed.models, &self.secrets);
        self.term.doubt(agents);
        // Weight indexes have mebibytes, and each is digested.
        clock::at_length(|| {
            self.term.learn(
                inspected,
                &self.routes.vocabularies,
                &self.agents.indexes,
                &self.context.metrics,
            );
        });
        let asked = self.agents;
        self.term.ask(&observed.models, agents, now, |node, inspect| {
            asked.inspect(node, inspect)
        });
        for state in self.term.models.values_mut() {
            let Some(in_force) = &state.in_force else { continue };
            let source = in_force.placement.source.as_ref();
            let uri = source.map_or("", |source| source.uri.as_str());
            let healths = stages::healths(&stages::look(in_force, agents), uri);
            for (stage, health) in in_force.stages().into_iter().zip(healths) {
                state.failures.observe(&stage.device, health, now);
            }
        }
    }

    /// What all decisions of a pass depend on.
    fn world<'w>(
        &mut self,
        observed: &'w Observed,
        agents: &'w BTreeMap<String, AgentView>,
        awaited: &'w BTreeSet<String>,
        (now, wall): (Instant, Timestamp),
    ) -> World<'w> {
        let known = self.term.links.links(&observed.links, wall.as_second());
        let reports = self.term.reports(&observed.devices, agents);
        let around = Around {
            observed,
            reports: &reports,
            agents,
            awaited,
            models: &self.term.models,
            wall,
        };
        let kept = quarantined::look(around, &mut self.term.quarantine, self.context.quarantine, now);
        let held = self.term.quarantine.held().len();
        self.context
            .metrics
            .devices_held
            .set(i64::try_from(held).unwrap_or(i64::MAX));
        let mut world = World::new((observed, reports), agents, awaited, now, wall.as_second())
            .with_links(known)
            .with_groups(self.term.links.groups())
            .with_threshold(self.context.threshold);
        world.kept = kept;
        let is_unheard = |node: &&String| self.term.unheard.is(node);
        world.unheard = agents.keys().filter(is_unheard).cloned().collect();
        let taught = self.term.models.values().flat_map(|state| &state.learned_pace);
        world.paces = Corrections::of(taught);
        for (uid, state) in &self.term.models {
            if let Some(facts) = state.facts() {
                world.holders.knows(uid, &facts);
            }
            if let Some(in_force) = &state.in_force {
                world.holders.hold(uid, in_force);
            }
            if let Some(record) = &state.yielded {
                world.holders.has_yielded(uid, record);
            }
        }
        world
    }

    fn propose(
        &mut self,
        observed: &Observed,
        agents: &BTreeMap<String, AgentView>,
        awaited: &BTreeSet<String>,
        now: Instant,
        wall: Timestamp,
    ) -> Vec<Proposal> {
        let mut world = self.world(observed, agents, awaited, (now, wall));
        let mut proposals = Vec::with_capacity(observed.models.len());
        let (began, mut is_new, mut looked) = (clock::now(), false, false);
        for model in &observed.models {
            let Some(uid) = model.metadata.uid.clone() else {
                continue;
            };
            let Some(state) = self.term.models.get_mut(&uid) else {
                continue;
            };
            // Many models, or one that is hard to place, make a pass long: each of them is a sign of life.
            self.health.beat(Some(clock::now()));
            // Models come in turn: whoever is put off is decided on what those before it have by then. Not where a status cannot
            // be written: its model would keep all after it from being decided, for ever.
            if is_new && !self.writes_failed && clock::now().duration_since(began) >= self.slice {
                proposals.push(Proposal::put_off(model, uid, state));
                continue;
            }
            // Looks ahead come one in a pass, and after what is urgent.
            world.leisure = !is_new && !looked;
            let refused = state.refused.is_some();
            let mut decided = decide::decide(&world, model, state, &self.context.keys.signer);
            if decided.note.is_none() {
                decided.note = state
                    .in_force
                    .as_ref()
                    .and_then(|present| self.term.vanished.note(present));
            }
            is_new |= decided.new_in_force.is_some();
            looked |= decided.ahead == Ahead::Looked;
            let placements = &self.context.metrics.placements;
            world.holders.heed(&uid, &decided);
            if decided.new_in_force.is_some() {
                placements.with_label_values(&["placed"]).inc();
            } else if !refused && state.refused.is_some() {
                placements.with_label_values(&["refused"]).inc();
            }
            let kept = world.kept.get(&uid);
            let present = decided.new_in_force.as_ref().or(state.in_force.as_ref());
            let unheard = present.and_then(|present| self.term.unheard.note(present));
            let slow = present.and_then(|present| self.term.links.slow().note(present));
            let notes = [decided.note.take(), slow].into_iter().flatten();
            decided.note = notes.reduce(|all, more| format!("{all}; {more}"));
            let told = (&decided, kept, unheard.as_deref());
            let status = sight(model, state, told, agents, (now, wall));
            proposals.push(Proposal {
                model: model.clone(),
                uid,
                decided,
                status,
                put_off: false,
            });
        }
        proposals
    }

    /// A placement that was decided or given up in this pass, as status says by now.
    fn took_effect(&self, proposal: &Proposal) -> bool {
        let in_force = self.term.models.get(&proposal.uid).map(|state| &state.in_force);
        let Decided {
            new_in_force,
            withdrawn,
            ..
        } = &proposal.decided;
        (new_in_force.is_some() || *withdrawn) && in_force == Some(new_in_force)
    }

    async fn apply(&mut self, proposals: &[Proposal], awaited: &BTreeSet<String>, now: Instant) -> usize {
        let changed = |proposal: &&Proposal| {
            let state = &self.term.models[&proposal.uid];
            !proposal.put_off && !is_awaited(state, awaited) && state.must_write(&proposal.model, &proposal.status, now)
        };
        let prepared = |proposal: &Proposal| Prepared {
            model: proposal.model.clone(),
            version: self.term.models[&proposal.uid]
                .version(&proposal.model)
                .map(str::to_owned),
            status: proposal.status.clone(),
        };
        let writes: Vec<Prepared> = proposals.iter().filter(changed).map(prepared).collect();
        let by_uid: BTreeMap<&str, &Proposal> = proposals
            .iter()
            .map(|proposal| (proposal.uid.as_str(), proposal))
            .collect();
        let mut failed = 0;
        for applied in apply::apply(self.context, writes).await {
            let (Some(proposal), Some(state)) =
                (by_uid.get(applied.uid.as_str()), self.term.models.get_mut(&applied.uid))
            else {
                continue;
            };
            match applied.result {
                Ok(version) => {
                    let notes = publish::transitions(state.previous(&proposal.model), &proposal.status);
                    if let Some(new) = &proposal.decided.new_in_force {
                        tell_placed(&proposal.model, new);
                    }
                    state.wrote(proposal.status.clone(), proposal.decided.new_in_force.clone(), now);
                    state.made(&proposal.model, version);
                    state.has_yielded(proposal.decided.yielded.clone(), proposal.decided.withdrawn);
                    tell(&proposal.model, &notes);
                    self.events.publish(&proposal.model, notes);
                }
                // Deleted in between; the watch says so in a moment.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    failed += 1;
                    state.doubts_version();
                    tracing::warn!(%error, "a status is not written; trying again");
                }
            }
        }
        failed
    }

    fn publish(&mut self, proposals: &[Proposal], agents: &BTreeMap<String, AgentView>, awaited: &BTreeSet<String>) {
        let models = &self.term.models;
        let look = |uid: &str| {
            let in_force = models.get(uid)?.in_force.as_ref()?;
            Some((in_force, stages::look(in_force, agents)))
        };
        let sights: Vec<Option<(&InForce, Vec<StageSight>)>> =
            proposals.iter().map(|proposal| look(&proposal.uid)).collect();
        let holdings = proposals.iter().zip(&sights).filter_map(|(proposal, sights)| {
            let (in_force, sights) = sights.as_ref()?;
            let access = models.get(&proposal.uid)?.access.as_ref().ok();
            Some(Holding {
                in_force,
                sights,
                access: access.and_then(Access::to_message),
                proposed: models
                    .get(&proposal.uid)?
                    .moving
                    .proposal
                    .as_ref()
                    .map(|proposal| &proposal.next),
                standby: models.get(&proposal.uid)?.standby.placements().collect(),
            })
        });
        self.agents.assign(&assign::assignments(holdings, agents));

        // A new leader does not yet know who serves: gateways keep their last table until it does.
        self.settled |= awaited.is_empty();
        if !self.settled {
            return;
        }
        let route = |(proposal, sights): (&Proposal, &Option<(&InForce, Vec<StageSight>)>)| {
            let in_force = sights.as_ref().map(|(in_force, sights)| (*in_force, sights.as_slice()));
            let vocabulary = proposal
                .status
                .model
                .as_ref()
                .and_then(|model| model.vocabulary_sha256.parse::<gguf::Digest>().ok());
            let conditions = &proposal.status.conditions;
            let waits = Waits {
                message: find(conditions, kind::READY).map_or_else(String::new, |ready| ready.message.clone()),
                placed: is_true(conditions, kind::PLACED),
            };
            assign::model_route(
                &proposal.model,
                in_force,
                vocabulary.map(|digest| digest.0.to_vec()).unwrap_or_default(),
                waits,
            )
        };
        self.routes.publish(RouteTable {
            models: proposals.iter().zip(&sights).map(route).collect(),
        });
        self.count(proposals);
    }

    /// Tells every agent to whom it measures links.
    fn name_peers(&mut self, observed: &Observed, agents: &BTreeMap<String, AgentView>) {
        let members = links::members(agents, &observed.node_labels);
        let placed = self.term.models.values().filter_map(|state| state.in_force.as_ref());
        let pipelines = placed.flat_map(InForce::pipelines);
        let hops = pipelines.flat_map(|pipeline| pipeline.stages.windows(2));
        let neighbours = hops
            .filter_map(|hop| match hop {
                [from, to] if from.node != to.node => Some((from.node.clone(), to.node.clone())),
                _ => None,
            })
            .collect();
        self.agents.name_peers(self.term.links.peers(members, neighbours));
    }

    fn count(&self, proposals: &[Proposal]) {
        let ready = |proposal: &&Proposal| is_true(&proposal.status.conditions, kind::READY);
        let placed = |proposal: &&Proposal| is_true(&proposal.status.conditions, kind::PLACED);
        let (ready, placed) = (
            proposals.iter().filter(ready).count(),
            proposals.iter().filter(placed).count(),
        );
        let models = &self.context.metrics.models;
        for (state, count) in [
            ("ready", ready),
            ("placed", placed.saturating_sub(ready)),
            ("waiting", proposals.len() - placed),
        ] {
            models
                .with_label_values(&[state])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.compare(proposals);
    }

    /// What was predicted beside what was measured, of the placements that serve.
    fn compare(&self, proposals: &[Proposal]) {
        let metrics = &self.context.metrics;
        metrics.prediction_error_ratio.reset();
        metrics.prediction_tokens.reset();
        for Proposal { model, status, .. } in proposals {
            let (namespace, name) = (model.metadata.namespace.as_deref(), model.metadata.name.as_deref());
            for stage in status.placement.iter().flat_map(|placement| &placement.stages) {
                let Some(error) = observed_pace::error_ratio(stage) else {
                    continue;
                };
                let (pipeline, index) = (stage.pipeline.to_string(), stage.index.to_string());
                let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
                let labels = [namespace, name, &pipeline, &index];
                metrics.prediction_error_ratio.with_label_values(&labels).set(error);
                let tokens = stage.observed.and_then(|observed| observed.tokens);
                let counted = metrics.prediction_tokens.with_label_values(&labels);
                counted.set(tokens.unwrap_or_default());
            }
        }
    }
}

impl Proposal {
    fn put_off(model: &Arc<InferenceModel>, uid: String, state: &ModelState) -> Self {
        Self {
            status: state.previous(model).cloned().unwrap_or_default(),
            model: Arc::clone(model),
            uid,
            decided: Decided::put_off(),
            put_off: true,
        }
    }
}

fn is_awaited(state: &ModelState, awaited: &BTreeSet<String>) -> bool {
    let stages = state.in_force.as_ref().map(InForce::stages).unwrap_or_default();
    stages.iter().any(|stage| awaited.contains(&stage.node))
}

fn sight(
    model: &InferenceModel,
    state: &mut ModelState,
    (decided, kept, unheard): (&Decided, Option<&Kept>, Option<&str>),
    agents: &BTreeMap<String, AgentView>,
    (now, wall): (Instant, Timestamp),
) -> InferenceModelStatus {
    let mut away = std::mem::take(&mut state.away);
    away.look(state.in_force.as_ref(), agents, state.previous(model), wall);
    let stays = state.in_force.as_ref().filter(|_| !decided.withdrawn);
    let in_force = decided.new_in_force.as_ref().or(stays);
    let is_on = |kept: &&Kept| {
        let mut devices = in_force.map(InForce::members).into_iter().flatten();
        devices.any(|device| kept.devices.contains(device))
    };
    let sights = in_force.map(|in_force| {
        let mut sights = stages::look(in_force, agents);
        state.progress.show(in_force.placement.epoch, &mut sights, now);
        let news = state.paces.show(in_force.placement.epoch, &mut sights, now);
        if let Some(resolved) = state.resolved.as_ref().filter(|_| news) {
            let view = status::view(in_force, &sights);
            state.learned_pace = learned_pace::learn(&state.learned_pace, &resolved.quantisation, &view);
        }
        sights
    });
    if sights.iter().flatten().all(StageSight::serves) {
        away.forget();
    }
    let sight = Sight {
        model,
        resolution: &state.inspection.resolution(),
        resolved: state.resolved.as_ref(),
        unreachable: state.access.as_ref().err(),
        learned: state.learned,
        learned_pace: &state.learned_pace,
        placed: &decided.placed,
        yielded: decided.yielded.as_ref(),
        note: decided.note.as_deref(),
        held: kept.filter(is_on).map(|kept| kept.message.as_str()),
        unheard,
        away: &away,
        recovery: state.standby.judge(|next| stages::look(next, agents)),
        in_force: in_force.zip(sights.as_deref()),
    };
    let status = status::status(&sight, state.previous(model), &Time(wall));
    state.away = away;
    status
}

fn tell(model: &InferenceModel, notes: &[Note]) {
    let (namespace, model) = (&model.metadata.namespace, &model.metadata.name);
    for Note {
        warning,
        reason,
        message,
        ..
    } in notes
    {
        if *warning {
            tracing::warn!(namespace, model, reason, "{message}");
        } else {
            tracing::info!(namespace, model, reason, "{message}");
        }
    }
}

fn tell_placed(model: &InferenceModel, in_force: &InForce) {
    let stages: Vec<String> = in_force
        .view
        .stages
        .iter()
        .map(|stage| format!("{}:{}", stage.device, stage.layers))
        .collect();
    tracing::info!(
        namespace = model.metadata.namespace,
        model = model.metadata.name,
        epoch = in_force.placement.epoch,
        stages = stages.join(" "),
        "placed"
    );
}

#[cfg(test)]
mod tests;
