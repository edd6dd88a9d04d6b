//! Carries out what [`super::decide`] says: one write of the Secret for each step, and then one of the ConfigMap.
//!
//! ```text
//!  ConfigMap ──watch──▶ every replica: reads the Secret where the bundle is another, takes the authority into use
//!  what holders say ──▶ the leader: decide (pure) ─▶ replace Secret ─▶ apply ConfigMap ─▶ tell holders
//! ```
//!
//! The Secret is replaced in the version that was read: of two that think that they lead, one is refused and reads again.

use std::pin::pin;
use std::time::{Duration, Instant};

use crds::{moment, names};
use futures::StreamExt;
use identity::{Authority, Wanted};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::PostParams;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use lifecycle::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use super::decide::{Seen, Step, Why, decide, spread};
use super::kept::{self, Difference, Kept, Phase};
use super::tell::{is_news, listed, told_of, told_of_gone};
use super::{KeysError, apply_trust, usable};
use crate::clock;
use crate::context::{Context, Leadership};
use crate::error::call;
use crate::model::publish::{Events, Note};
use crate::retry;
use crate::watching::{events, explain};

/// With nothing to wait for but others.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// What many say at once is looked at once.
const BATCH: Duration = Duration::from_millis(200);
/// Whom a phase waits for is told people this often at most.
const WAITS_FOR_EVERY: Duration = Duration::from_secs(10);

/// Keeps the authority in use what the Secret says, and leads rotations while this replica leads. Ends only by being dropped.
pub async fn follow(context: &Context, mut leadership: Leadership) {
    let ended = CancellationToken::new();
    // Dropped with this future, which ends the task that sends events.
    let _ended = ended.clone().drop_guard();
    let namespace = &context.names.namespace;
    let maps: Api<ConfigMap> = Api::namespaced(context.client.0.clone(), namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", names::TRUST_CONFIG_MAP));
    let mut published = pin!(events(maps, only));
    let mut said = context.holders.changes();
    let mut rotation = Rotation {
        context,
        secrets: Api::namespaced(context.client.0.clone(), namespace),
        events: Events::start(context, ended),
        published: None,
        known: false,
        listed: None,
        secret: None,
        stale: false,
        led_since: None,
        phase_since: clock::now(),
        told: Told::default(),
    };
    let mut backoff = Backoff::new(retry::API);
    loop {
        let leads = leadership.require().is_ok();
        let wake = match rotation.turn(leads).await {
            Ok(wake) => {
                backoff.succeeded();
                wake
            }
            Err(error) => {
                rotation.failed(&error);
                backoff.failed()
            }
        };
        let turned = async {
            if leads {
                leadership.ends().await;
            } else {
                leadership.begins().await;
            }
        };
        tokio::select! {
            Some(event) = published.next() => rotation.take(event),
            () = turned => {}
            Ok(()) = said.changed(), if leads && rotation.is_under_way() => tokio::time::sleep(BATCH).await,
            () = tokio::time::sleep(wake) => {}
        }
    }
}

/// What was told people last, so that nothing is told twice.
#[derive(Debug, Default)]
struct Told {
    /// When the ConfigMap was written.
    published: Option<Instant>,
    /// A wish that is no moment.
    bad_wish: Option<String>,
    /// For whom the present phase waits.
    waits_for: Vec<String>,
    /// That the watch broke.
    broken: bool,
}

struct Rotation<'a> {
    context: &'a Context,
    secrets: Api<Secret>,
    events: Events,
    /// As it is now, once that is known.
    published: Option<ConfigMap>,
    known: bool,
    /// Of a list that has not come to its end.
    listed: Option<ConfigMap>,
    /// As it was read or written last.
    secret: Option<(Kept, Secret)>,
    /// The Secret may be another.
    stale: bool,
    led_since: Option<Instant>,
    /// When this replica heard of the present phase.
    phase_since: Instant,
    told: Told,
}

impl Rotation<'_> {
    /// Does what is to be done now; how long nothing is, but for what others say.
    async fn turn(&mut self, leads: bool) -> Result<Duration, KeysError> {
        if !leads {
            // Whom to trust is told by the leader alone.
            self.led_since = None;
            self.context.holders.want(None);
        } else if self.led_since.is_none() {
            self.led_since = Some(clock::now());
            self.stale = true;
        }
        if self.stale {
            self.read().await?;
        }
        // Of a ConfigMap that was not seen yet nobody knows what it asks for.
        let Some(led_since) = self.led_since.filter(|_| self.known) else {
            return Ok(IDLE);
        };
        let wish = self.wish();
        let Some((kept, _)) = &self.secret else {
            return Ok(IDLE);
        };
        let holders = self.context.holders.list(clock::now());
        let authority = self.context.keys.authority.get();
        let step = decide(&Seen {
            phase: kept.phase(),
            since: kept.since,
            known_for: clock::now().saturating_duration_since(self.phase_since),
            is_asked: wish.is_some() && wish != kept.honoured,
            ends: authority.not_after(),
            lifetime: authority.lifetime(),
            authorities: &authority.trusted(),
            issuer: authority.fingerprint(),
            holders: &holders,
            led_for: clock::now().saturating_duration_since(led_since),
            now: self.context.wall.now(),
        });
        match step {
            Step::Wait {
                wake,
                waits_for,
                overdue,
            } => {
                self.warn(&waits_for, overdue);
                let later = self.publish(&listed(&waits_for)).await?;
                // One that went says nothing when it is waited for no longer.
                let forgotten = self.context.holders.forgets_in(clock::now());
                let forgotten = forgotten.filter(|_| !waits_for.is_empty());
                Ok(later.into_iter().chain(forgotten).fold(wake, Duration::min))
            }
            step => {
                self.step(&step, wish.as_deref()).await?;
                self.publish("").await?;
                Ok(Duration::ZERO)
            }
        }
    }

    fn is_under_way(&self) -> bool {
        self.secret
            .as_ref()
            .is_some_and(|(kept, _)| kept.phase() != Phase::Steady)
    }

    /// What people ask for, where it is a moment.
    fn wish(&mut self) -> Option<String> {
        let wish = kept::wish(self.published.as_ref()?)?.to_owned();
        if moment::read(&wish).is_some() {
            return Some(wish);
        }
        if self.told.bad_wish.as_ref() != Some(&wish) {
            let (map, annotation) = (names::TRUST_CONFIG_MAP, names::ROTATE_AUTHORITY);
            tracing::warn!(
                wish,
                "annotation {annotation} of ConfigMap {map} is no moment such as 2026-01-01T12:00:00Z; no authority is made"
            );
            self.told.bad_wish = Some(wish);
        }
        None
    }

    /// Reads the Secret, and takes what it holds into use.
    async fn read(&mut self) -> Result<(), KeysError> {
        let (namespace, name) = (&self.context.names.namespace, names::AUTHORITY_SECRET);
        let secret = call(format!("get Secret {namespace}/{name}"), self.secrets.get_opt(name)).await?;
        self.stale = false;
        match secret {
            Some(secret) => self.adopt(secret),
            None => {
                self.note(Some(told_of_gone(namespace)));
                self.secret = None;
                self.tell();
                Ok(())
            }
        }
    }

    /// Takes what a Secret holds into use, and tells all to trust that.
    fn adopt(&mut self, secret: Secret) -> Result<(), KeysError> {
        self.secret = None;
        let kept = Kept::read(&secret).map_err(|cause| super::unusable(&self.context.names, cause))?;
        let authority = usable(&self.context.names, &kept)?;
        for phase in Phase::ALL {
            let gauge = self.context.metrics.authority_phase.with_label_values(&[phase.name()]);
            gauge.set(i64::from(phase == kept.phase()));
        }
        let known = self.context.keys.authority.get().bundle_pem();
        if authority.bundle_pem() != known {
            self.phase_since = clock::now();
        }
        self.context.keys.authority.replace(authority);
        self.secret = Some((kept, secret));
        self.tell();
        Ok(())
    }

    /// Tells all whom to trust, if that is for this replica to say.
    fn tell(&self) {
        let holders = &self.context.holders;
        let wanted = self
            .led_since
            .map(|_| Wanted::of(&self.context.keys.authority.get(), spread(holders.count())));
        holders.want(wanted.as_ref());
    }

    /// One write of the Secret, in the version that was read.
    async fn step(&mut self, step: &Step, wish: Option<&str>) -> Result<(), KeysError> {
        let Some((kept, secret)) = &self.secret else {
            return Ok(());
        };
        let now = self.context.wall.now();
        let next = match step {
            Step::Wait { .. } => return Ok(()),
            Step::Prepare(why) => {
                let new = Authority::generate(&self.context.names.trust_domain, now).map_err(super::make)?;
                let wish = wish.filter(|_| *why == Why::Asked);
                kept.prepared(&new, wish, now)
            }
            Step::Activate(_) => kept.activated(now),
            Step::Finish(_) => kept.finished(now),
        };
        let mut secret = secret.clone();
        next.write(&mut secret);
        let (namespace, name) = (&self.context.names.namespace, names::AUTHORITY_SECRET);
        let params = PostParams::default();
        let replaced = self.secrets.replace(name, &params, &secret);
        let secret = call(format!("replace Secret {namespace}/{name}"), replaced).await?;
        self.adopt(secret)?;
        self.told.waits_for.clear();
        self.note(told_of(step));
        Ok(())
    }

    /// Has the ConfigMap tell what is so; where whom is waited for is all that differs, not more often than people read it. After
    /// which time it is worth a write.
    async fn publish(&mut self, waits_for: &str) -> Result<Option<Duration>, KeysError> {
        let Some((kept, _)) = &self.secret else {
            return Ok(None);
        };
        let bundle_pem = self.context.keys.authority.get().bundle_pem();
        let wanted = kept::trust_map(kept, bundle_pem, waits_for);
        let since = self.told.published.map(|at| clock::now().saturating_duration_since(at));
        let early = since.map_or(Duration::ZERO, |since| WAITS_FOR_EVERY.saturating_sub(since));
        match kept::difference(self.published.as_ref(), &wanted) {
            Difference::None => return Ok(None),
            Difference::WaitsFor if !early.is_zero() => return Ok(Some(early)),
            Difference::WaitsFor | Difference::State => {}
        }
        let map = apply_trust(&self.context.client.0, &self.context.names, &wanted).await?;
        self.published = Some(map);
        self.told.published = Some(clock::now());
        Ok(None)
    }

    /// Somebody keeps all others waiting.
    fn warn(&mut self, waits_for: &[String], overdue: bool) {
        // Those who come one after the other in a large cluster are no event each.
        if !overdue || !is_news(&self.told.waits_for, waits_for) {
            return;
        }
        self.told.waits_for = waits_for.to_vec();
        let message = match self.secret.as_ref().map(|(kept, _)| kept.phase()) {
            Some(Phase::Prepared) => format!(
                "These do not say that they trust the new authority, which issues in ten minutes at the latest: {}",
                listed(waits_for)
            ),
            _ => format!(
                "These use leaves of the old authority, which is trusted for a day at the longest: {}",
                listed(waits_for)
            ),
        };
        tracing::warn!("{message}");
        self.note(Some(Note::new(true, "AuthorityWaits", "Wait", &message)));
    }

    fn note(&self, note: Option<Note>) {
        if let (Some(note), Some(map)) = (note, &self.published) {
            self.events.publish_about(&map.object_ref(&()), [note]);
        }
    }

    fn failed(&mut self, error: &KeysError) {
        self.stale = true;
        let category = match error {
            KeysError::Call(cause) => cause.category(),
            KeysError::Secret { .. } | KeysError::Make(_) => "authority",
        };
        self.context.metrics.errors.with_label_values(&[category]).inc();
        tracing::warn!(%error, "the authority stays as it is; trying again");
    }

    fn take(&mut self, event: watcher::Result<Event<ConfigMap>>) {
        match event {
            Ok(Event::Apply(map)) => self.see(Some(map)),
            Ok(Event::Delete(_)) => self.see(None),
            Ok(Event::Init) => self.listed = None,
            Ok(Event::InitApply(map)) => self.listed = Some(map),
            Ok(Event::InitDone) => {
                let listed = self.listed.take();
                self.see(listed);
            }
            Err(error) => {
                self.context.metrics.errors.with_label_values(&["watch"]).inc();
                if !std::mem::replace(&mut self.told.broken, true) {
                    let (error, map) = (explain(&error), names::TRUST_CONFIG_MAP);
                    tracing::warn!(error, "ConfigMap {map} cannot be watched; trying again");
                }
            }
        }
    }

    fn see(&mut self, map: Option<ConfigMap>) {
        (self.known, self.told.broken) = (true, false);
        let ours = self.context.keys.authority.get().bundle_pem();
        // Another replica has made a step, or somebody else has changed it.
        if map.as_ref().and_then(kept::bundle) != Some(ours.as_str()) {
            self.stale = true;
        }
        self.published = map;
    }
}
