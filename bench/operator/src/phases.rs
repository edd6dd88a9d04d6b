//! What is measured, one after the other, on one cluster.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use localplane::{Error, Result};
use report::Report;
use serde_json::json;

use crate::cluster::{self, Size};
use crate::rig::Rig;
use crate::usage::{PROCESSES, Usage, operator_mib};
use crate::watch::{Model, Models};

const SETTLE_LIMIT: Duration = Duration::from_secs(900);
const LOSS_LIMIT: Duration = Duration::from_secs(60);
const BURST_LIMIT: Duration = Duration::from_secs(300);
const RESTART_LIMIT: Duration = Duration::from_secs(180);
const CALM_LIMIT: Duration = Duration::from_secs(180);
/// Without a write for so long, nothing is under way.
const CALM: Duration = Duration::from_secs(10);
/// Nodes that vanish vanish within this.
const BURST: Duration = Duration::from_secs(1);

/// Notes what the processes took in one phase, and says it.
fn note(report: &mut Report, phase: &str, before: &Usage, peak_mib: &mut f64) -> Result<()> {
    let cores = Usage::look()?.cores_since(before);
    let (rss_mib, highest_mib) = operator_mib()?;
    *peak_mib = peak_mib.max(highest_mib);
    let split: Vec<String> = PROCESSES
        .iter()
        .zip(cores)
        .map(|(name, cores)| format!("{name} {cores:.2}"))
        .collect();
    println!(
        "  cores: {}; operator: {rss_mib:.0} MiB, at most {highest_mib:.0}",
        split.join(", ")
    );
    report.set(&format!("{phase}.operator_cores"), Some(cores[0]));
    report.set(&format!("{phase}.operator_rss_mib"), Some(rss_mib));
    let by_name: serde_json::Map<String, serde_json::Value> = PROCESSES
        .iter()
        .zip(cores)
        .map(|(name, cores)| ((*name).to_owned(), json!(cores)))
        .collect();
    report.figures(&format!("{phase}_cores"), by_name.into());
    report.set("operator.rss_peak_mib", Some(*peak_mib));
    Ok(())
}

/// What runs through all phases.
pub struct Phases<'a> {
    pub rig: &'a mut Rig,
    pub size: Size,
    pub report: &'a mut Report,
    pub peak_mib: f64,
}

impl Phases<'_> {
    /// From the first model to the last that is ready.
    pub async fn settle(&mut self) -> Result<()> {
        let (models, before, start) = (self.size.models, Usage::look()?, Instant::now());
        self.rig.apply_models(models).await?;
        let all = |is_so: fn(&Model) -> bool| move |seen: &Models| seen.len() == models && seen.values().all(is_so);
        let observer = &mut self.rig.observer;
        let placed = observer.until("all models are placed", SETTLE_LIMIT, all(|model| model.is_placed));
        let placed_s = (placed.await? - start).as_secs_f64();
        let ready = observer.until("all models are ready", SETTLE_LIMIT, all(|model| model.is_ready));
        let ready_s = (ready.await? - start).as_secs_f64();
        let stages: usize = observer.models().values().map(|model| model.stages.len()).sum();
        println!("{models} models: all placed after {placed_s:.1} s, ready after {ready_s:.1} s, {stages} stages");
        self.report.set("settle.placed_s", Some(placed_s));
        self.report.set("settle.ready_s", Some(ready_s));
        note(self.report, "settle", &before, &mut self.peak_mib)
    }

    /// Until no status was written for a while: what follows a placement, such as standing by for losses, is over then.
    pub async fn calm(&mut self) -> Result<()> {
        let (start, mut last, mut since) = (Instant::now(), Models::new(), Instant::now());
        crate::wait_for("no status changes", CALM_LIMIT, || {
            let seen = self.rig.observer.models();
            if seen != last {
                (last, since) = (seen, Instant::now());
            }
            since.elapsed() >= CALM
        })
        .await?;
        let calm_s = start.elapsed().saturating_sub(CALM).as_secs_f64();
        println!("no status changes any more after another {calm_s:.0} s");
        self.report.set("settle.calm_s", Some(calm_s));
        Ok(())
    }

    /// Nothing happens.
    pub async fn idle(&mut self, period: Duration) -> Result<()> {
        let objects = &self.rig.ground.objects;
        let (before, start, served) = (Usage::look()?, Instant::now(), objects.writes_served().await?);
        let own = objects.writes();
        tokio::time::sleep(period).await;
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        let writes = objects.writes_served().await? - served;
        let of_agents = objects.writes() - own;
        let per_node = writes / self.size.nodes as f64 / minutes;
        println!(
            "nothing happens for {:.0} s: {per_node:.2} API writes per node and minute, {of_agents} of {writes} by agents",
            minutes * 60.0
        );
        self.report.set("idle.writes_per_node_minute", Some(per_node));
        note(self.report, "idle", &before, &mut self.peak_mib)
    }

    /// Devices that hold stages are lost, the next one as soon as a model has its new placement and is ready again.
    pub async fn losses(&mut self, losses: usize) -> Result<()> {
        let before = Usage::look()?;
        let (mut published_s, mut ready_s) = (Vec::new(), Vec::new());
        for loss in 0..losses {
            let name = cluster::model_name(loss * 37 % self.size.models);
            let models = self.rig.observer.models();
            let Some(model) = models.get(&name) else {
                return Err(Error::Other(format!("{name} is not there")));
            };
            let (_, device) = &model.stages[loss % model.stages.len()];
            let (node, ordinal) = self.find(device)?;
            let start = Instant::now();
            self.rig.agents.lose(node, ordinal);
            let observer = &mut self.rig.observer;
            let elsewhere = |seen: &Models| seen.get(&name).is_some_and(|new| is_without(new, device));
            let what = format!("{name} is placed without {device}");
            let published = observer.until(&what, LOSS_LIMIT, elsewhere).await?;
            let again = |seen: &Models| {
                seen.get(&name)
                    .is_some_and(|new| new.is_ready && is_without(new, device))
            };
            let ready = observer
                .until(&format!("{name} is ready again"), LOSS_LIMIT, again)
                .await?;
            published_s.push((published - start).as_secs_f64());
            ready_s.push((ready - start).as_secs_f64());
        }
        for (what, all) in [("published", &mut published_s), ("ready", &mut ready_s)] {
            all.sort_by(f64::total_cmp);
            let [p50, p95, p99, max] = [0.5, 0.95, 0.99, 1.0].map(|share| percentile(all, share));
            println!(
                "{losses} devices lost, each until {what}: p50 {p50:.3} s, p95 {p95:.3} s, p99 {p99:.3} s, max {max:.3} s"
            );
            let place = if what == "published" {
                "loss"
            } else {
                "loss_until_ready"
            };
            for (name, value) in [("p50_s", p50), ("p95_s", p95), ("p99_s", p99), ("max_s", max)] {
                self.report.set(&format!("{place}.{name}"), Some(value));
            }
            self.report.figures(&format!("losses_{what}_s"), json!(all));
        }
        note(self.report, "loss", &before, &mut self.peak_mib)
    }

    /// One node in ten vanishes, nodes of models among them, within a second.
    pub async fn burst(&mut self) -> Result<()> {
        let (before, models) = (Usage::look()?, self.rig.observer.models());
        let count = (self.size.nodes / 10).max(1);
        // Those of every third model first, so that there is something to do.
        let holders = models.values().step_by(3).flat_map(|model| model.stages.first());
        let holders = holders.map(|(node, _)| node.clone());
        let others = (0..self.size.nodes).rev().map(cluster::node_name);
        let mut gone: BTreeSet<String> = BTreeSet::new();
        for node in holders.chain(others) {
            if gone.len() < count {
                gone.insert(node);
            }
        }
        let is_hit = |model: &Model| model.stages.iter().any(|(node, _)| gone.contains(node));
        let hit = models.values().filter(|model| is_hit(model)).count();
        let start = Instant::now();
        for node in &gone {
            self.rig.agents.vanish(self.node(node)?);
            tokio::time::sleep(BURST.div_f64(count as f64)).await;
        }
        let (observer, all) = (&mut self.rig.observer, self.size.models);
        let is_settled =
            |seen: &Models| seen.len() == all && seen.values().all(|model| model.is_placed && !is_hit(model));
        let settled = observer.until("all models are on other nodes", BURST_LIMIT, is_settled);
        let settled_s = (settled.await? - start).as_secs_f64();
        let is_ready = |seen: &Models| is_settled(seen) && seen.values().all(|model| model.is_ready);
        let ready = observer.until("all models are ready again", BURST_LIMIT, is_ready);
        let ready_s = (ready.await? - start).as_secs_f64();
        println!(
            "{count} nodes vanish within a second: {hit} models placed anew after {settled_s:.1} s, ready after {ready_s:.1} s"
        );
        self.report.set("burst.settled_s", Some(settled_s));
        self.report.set("burst.ready_s", Some(ready_s));
        self.report.set("burst.models_hit", Some(hit as f64));
        note(self.report, "burst", &before, &mut self.peak_mib)?;
        self.size.nodes -= count;
        Ok(())
    }

    /// The operator is killed and started again.
    pub async fn restart(&mut self, calm: Duration) -> Result<()> {
        let before_models = self.rig.observer.models();
        let holders: BTreeSet<&str> = before_models
            .values()
            .flat_map(|model| model.stages.iter().map(|(node, _)| node.as_str()))
            .collect();
        let start = Instant::now();
        self.rig.restart_operator()?;
        let nodes = self.size.nodes;
        // The old streams have to end first.
        let dropped = crate::wait_for("streams end", RESTART_LIMIT, || self.rig.ground.streams() < nodes);
        dropped.await?;
        self.rig.attached(nodes).await?;
        let attached_s = start.elapsed().as_secs_f64();
        let ground = &self.rig.ground;
        crate::wait_for("every agent is told what to hold", RESTART_LIMIT, || {
            ground.told() >= nodes
        })
        .await?;
        let told_s = start.elapsed().as_secs_f64();
        let before = Usage::look()?;
        tokio::time::sleep(calm).await;
        let after = self.rig.observer.models();
        let is_changed = |name: &&String| {
            after.get(*name).map(|m| (m.epoch, &m.stages)) != before_models.get(*name).map(|m| (m.epoch, &m.stages))
        };
        let changed = before_models.keys().filter(is_changed).count();
        let ready = after.values().filter(|model| model.is_ready).count();
        println!(
            "the operator is killed and started again: {nodes} agents attached after {attached_s:.1} s, told what to hold ({} hold something) after {told_s:.1} s; {changed} placements changed, {ready} models ready",
            holders.len()
        );
        self.report.set("restart.attached_s", Some(attached_s));
        self.report.set("restart.leads_with_full_state_s", Some(told_s));
        self.report.set("restart.placements_changed", Some(changed as f64));
        note(self.report, "restart", &before, &mut self.peak_mib)
    }

    /// Node and number of a device by its name.
    fn find(&self, device: &str) -> Result<(usize, usize)> {
        let (node, _) = device.rsplit_once('-').unwrap_or_default();
        let node = self.node(node)?;
        let ordinals = 0..self.size.devices_per_node;
        let found = ordinals
            .into_iter()
            .find(|ordinal| cluster::device_name(node, *ordinal) == device);
        let ordinal = found.ok_or_else(|| Error::Other(format!("{device} is none of ours")))?;
        Ok((node, ordinal))
    }

    fn node(&self, name: &str) -> Result<usize> {
        let number = name.strip_prefix("node-").and_then(|number| number.parse().ok());
        number.ok_or_else(|| Error::Other(format!("{name} is none of ours")))
    }
}

fn is_without(model: &Model, device: &str) -> bool {
    model.is_placed && model.stages.iter().all(|(_, held)| held != device)
}

/// Of sorted values: the one that this share is not above.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    #[test]
    fn percentiles_are_values_that_were_measured() {
        let all: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(
            [0.5, 0.99, 1.0].map(|share| super::percentile(&all, share)),
            [100.0, 198.0, 200.0]
        );
        assert_eq!(super::percentile(&[3.0], 0.99), 3.0);
    }
}
