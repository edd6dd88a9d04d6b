//! One authority takes another's place: asked for as people do, and watched for agents that would not understand each other.

use std::time::Duration;

use crds::names;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::host::Life;
use crate::objects::INSTALLATION;
use crate::world::World;

/// What is not over by then never will be: the longest that one who lags behind is waited for, and as long again.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(250);
/// ConfigMaps.
const MAPS: &str = "/v1/configmaps";

impl World {
    /// Sets the wish for another authority, as `kubectl annotate` does.
    pub fn wish_for_another_authority(&self, wish: &str) {
        let wish = json!({ "metadata": { "annotations": { (names::ROTATE_AUTHORITY): wish } } });
        self.patch(MAPS, INSTALLATION, names::TRUST_CONFIG_MAP, &wish);
    }

    /// What people are told of the authority by this annotation; null where nothing is.
    #[must_use]
    pub fn told_of_the_authority(&self, annotation: &str) -> Value {
        let map = self.object(MAPS, INSTALLATION, names::TRUST_CONFIG_MAP);
        map.map_or(Value::Null, |map| map["metadata"]["annotations"][annotation].clone())
    }

    /// Wishes for another authority, and waits until it alone is trusted by all.
    ///
    /// # Errors
    /// It is not in time, or two agents would not understand each other meanwhile.
    pub async fn rotate_authority(&self, wish: &str) -> Result<(), String> {
        self.wish_for_another_authority(wish);
        self.until_authority_is(names::AUTHORITY_STEADY, wish, LIMIT).await
    }

    /// Waits until this wish has come to this phase, and all agents have.
    ///
    /// # Errors
    /// As of [`World::rotate_authority`].
    pub async fn until_authority_is(&self, phase: &str, wish: &str, limit: Duration) -> Result<(), String> {
        let began = Instant::now();
        loop {
            if let Some(strangers) = self.strangers() {
                return Err(strangers);
            }
            let told =
                [names::AUTHORITY_PHASE, names::AUTHORITY_ROTATED_FOR].map(|name| self.told_of_the_authority(name));
            if told == [json!(phase), json!(wish)] && (phase != names::AUTHORITY_STEADY || self.one_is_trusted()) {
                return Ok(());
            }
            if began.elapsed() >= limit {
                return Err(format!("I1: the authority is {told:?} after {limit:?}"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// All agents that run trust one authority, the same, and have its leaf.
    fn one_is_trusted(&self) -> bool {
        let mut held = self.trusting();
        let Some((_, first)) = held.next() else { return true };
        let one = first.authorities.len() == 1 && first.authorities == first.issuers;
        one && held.all(|(_, other)| other == first)
    }

    /// Two agents of which one does not trust whoever issued the other's leaf.
    fn strangers(&self) -> Option<String> {
        for (one, shown) in self.trusting() {
            for (other, held) in self.trusting() {
                if !shown.issuers.is_subset(&held.authorities) {
                    return Some(format!("I7: {other} does not trust who issued the leaf of {one}"));
                }
            }
        }
        None
    }

    /// Agents that run and have a leaf.
    fn trusting(&self) -> impl Iterator<Item = (String, identity::Held)> {
        let up = self.hosts.values().filter(|host| *host.life.borrow() == Life::Up);
        let held = up.map(|host| (host.node.clone(), host.agent().trust().clone()));
        held.filter(|(_, held)| !held.issuers.is_empty())
    }
}

/// Whether what a Secret holds of the authority may become this by one write: another one beside the one that issues, that one in its
/// place, or the old one gone.
pub(crate) fn is_a_step(before: &Value, after: &Value) -> bool {
    let keys = [names::TLS_CERT_KEY, names::NEXT_CERT_KEY, names::PREVIOUS_CERT_KEY];
    let ([issues, next, previous], [now, later, former]) = (keys.map(|key| &before[key]), keys.map(|key| &after[key]));
    let prepared = now == issues && next.is_null() && previous.is_null() && former.is_null();
    let activated = now == next && former == issues && previous.is_null() && later.is_null();
    let finished = now == issues && next.is_null() && later.is_null() && former.is_null();
    prepared || activated || finished
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_made_beside_one_alone_and_takes_its_place_only_then() {
        let steady = json!({ "tls.crt": "A" });
        let prepared = json!({ "tls.crt": "A", "next.crt": "B" });
        let active = json!({ "tls.crt": "B", "previous.crt": "A" });
        let over = json!({ "tls.crt": "B" });
        let other = json!({ "tls.crt": "A", "next.crt": "C" });
        for [before, after] in [[&steady, &prepared], [&prepared, &active], [&active, &over]] {
            assert!(is_a_step(before, after), "{before} {after}");
        }
        for [before, after] in [
            [&prepared, &other],
            [&prepared, &over],
            [&steady, &active],
            [&steady, &over],
            [&active, &prepared],
            [&active, &steady],
        ] {
            assert!(!is_a_step(before, after), "{before} {after}");
        }
    }
}
