//! The installation's keys: made by whichever replica comes first, kept in Secrets, never overwritten, but for the authority, whose
//! place another takes step by step: [`decide`](decide::decide).
//!
//! Two replicas that start together both try to create; one is told that the Secret exists and reads it.

mod current;
pub mod decide;
mod holders;
pub mod kept;
mod rotate;
mod tell;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crds::names;
use identity::{
    Authority, Credentials, DEFAULT_LEAF_LIFETIME, Held, Identity, KeyPair, PlacementSigner, Role, SpiffeId, Wanted,
    seconds_until,
};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::context::{Keys, Names};
use crate::error::{CallError, call};
use crate::metrics::Metrics;
pub use current::Current;
pub use holders::{Holder, Holders, Place};
use kept::Kept;
pub use rotate::follow;

/// How often the operator looks whether its own leaf is past half life, at least.
const RENEWAL_CHECK: Duration = Duration::from_secs(60);

/// Why the installation's keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The Kubernetes API is unavailable or refuses; tried again.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A Secret is not what this operator once wrote. A person must decide; nothing is overwritten.
    #[error(
        "Secret {namespace}/{secret}: {cause}. Restore it from a backup; or delete it and restart the operator, agents and gateways, which makes a new one"
    )]
    Secret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        secret: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// No key can be made.
    #[error("cannot make a key: {0}")]
    Make(String),
}

impl KeysError {
    /// Whether waiting may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Call(_))
    }
}

/// Reads the installation's keys, or makes them where there are none, and publishes whom to trust.
pub async fn bootstrap(client: &Client, names: &Names) -> Result<Keys, KeysError> {
    let kept = load_authority(client, names).await?;
    let authority = usable(names, &kept)?;
    let signer = Arc::new(load_signer(client, names).await?);
    apply_trust(client, names, &kept::trust_map(&kept, authority.bundle_pem(), "")).await?;
    Ok(Keys {
        authority: Current::new(authority),
        signer,
    })
}

async fn load_authority(client: &Client, names: &Names) -> Result<Kept, KeysError> {
    let fresh = Authority::generate(&names.trust_domain, SystemTime::now()).map_err(make)?;
    let mut wanted = Secret::default();
    Kept::of(&fresh).write(&mut wanted);
    let secret = get_or_create(
        client,
        names,
        names::AUTHORITY_SECRET,
        Some("kubernetes.io/tls"),
        wanted.data.unwrap_or_default(),
    )
    .await?;
    Kept::read(&secret).map_err(|cause| unusable(names, cause))
}

/// The authority that a Secret holds, if it is ours.
fn usable(names: &Names, kept: &Kept) -> Result<Authority, KeysError> {
    let authority = kept.authority().map_err(|error| unusable(names, error.to_string()))?;
    if authority.trust_domain() != names.trust_domain {
        let theirs = authority.trust_domain();
        return Err(unusable(
            names,
            format!(
                "it is for trust domain {theirs:?}, but --trust-domain is {:?}",
                names.trust_domain
            ),
        ));
    }
    Ok(authority)
}

fn unusable(names: &Names, cause: String) -> KeysError {
    KeysError::Secret {
        namespace: names.namespace.clone(),
        secret: names::AUTHORITY_SECRET,
        cause,
    }
}

async fn load_signer(client: &Client, names: &Names) -> Result<PlacementSigner, KeysError> {
    let fresh = PlacementSigner::generate().map_err(make)?;
    let wanted = BTreeMap::from([
        (
            names::PLACEMENT_PRIVATE_KEY.to_owned(),
            ByteString(fresh.pkcs8().to_vec()),
        ),
        (
            names::PLACEMENT_PUBLIC_KEY.to_owned(),
            ByteString(fresh.public_key().to_vec()),
        ),
    ]);
    let secret = get_or_create(client, names, names::PLACEMENT_KEY_SECRET, None, wanted).await?;
    let data = secret.data.unwrap_or_default();
    let bad = |cause: String| KeysError::Secret {
        namespace: names.namespace.clone(),
        secret: names::PLACEMENT_KEY_SECRET,
        cause,
    };
    let missing = || bad(format!("key {} is missing", names::PLACEMENT_PRIVATE_KEY));
    let pkcs8 = data.get(names::PLACEMENT_PRIVATE_KEY).ok_or_else(missing)?;
    PlacementSigner::from_pkcs8(&pkcs8.0).map_err(|error| bad(error.to_string()))
}

async fn get_or_create(
    client: &Client,
    names: &Names,
    name: &'static str,
    type_: Option<&str>,
    wanted: BTreeMap<String, ByteString>,
) -> Result<Secret, KeysError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
    let get = || call(format!("get Secret {}/{name}", names.namespace), api.get_opt(name));
    if let Some(secret) = get().await? {
        return Ok(secret);
    }
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels()),
            ..Default::default()
        },
        type_: type_.map(str::to_owned),
        data: Some(wanted),
        ..Default::default()
    };
    let doing = format!("create Secret {}/{name}", names.namespace);
    match call(doing, api.create(&PostParams::default(), &secret)).await {
        Ok(created) => {
            tracing::info!(secret = name, namespace = %names.namespace, "made a new key and stored it");
            Ok(created)
        }
        Err(error) if error.is_conflict() => {
            let gone = || KeysError::Secret {
                namespace: names.namespace.clone(),
                secret: name,
                cause: "it appeared and vanished again".into(),
            };
            get().await?.ok_or_else(gone)
        }
        Err(error) => Err(error.into()),
    }
}

async fn apply_trust(client: &Client, names: &Names, wanted: &ConfigMap) -> Result<ConfigMap, CallError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &names.namespace);
    let params = PatchParams::apply(names::OPERATOR_FIELD_MANAGER).force();
    let doing = format!("apply ConfigMap {}/{}", names.namespace, names::TRUST_CONFIG_MAP);
    call(
        doing,
        api.patch(names::TRUST_CONFIG_MAP, &params, &Patch::Apply(wanted)),
    )
    .await
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([(
        "app.kubernetes.io/managed-by".to_owned(),
        names::OPERATOR_FIELD_MANAGER.to_owned(),
    )])
}

fn make(error: impl std::fmt::Display) -> KeysError {
    KeysError::Make(error.to_string())
}

/// The operator's own identity, fresh from its authority.
pub fn own_identity(keys: &Keys, names: &Names, now: SystemTime) -> Result<Identity, KeysError> {
    let pair = KeyPair::generate().map_err(make)?;
    let role = Role::Operator {
        pod: names.pod_name.clone(),
    };
    let id = SpiffeId::new(names.trust_domain.clone(), role).map_err(make)?;
    let leaf = keys
        .authority
        .get()
        .issue(&pair.csr_der, &id, &names.server_names, DEFAULT_LEAF_LIFETIME, now)
        .map_err(make)?;
    Ok(Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem: pair.key_pem,
        bundle_pem: leaf.bundle_pem,
    })
}

/// Renews the operator's own leaf from half life and whenever the authority is another, until `stop`, and tells what is left of it and
/// of the authorities.
pub async fn renew(keys: Keys, names: Arc<Names>, credentials: Credentials, metrics: Metrics, stop: CancellationToken) {
    let mut changes = keys.authority.changes();
    // It may be another by now than when the own leaf was issued.
    changes.mark_changed();
    loop {
        let now = SystemTime::now();
        tell_remaining(&keys, &credentials, &metrics, now);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(credentials.identity().next_look(now, RENEWAL_CHECK)) => {}
            Ok(()) = changes.changed() => {}
        }
        let (now, identity) = (SystemTime::now(), credentials.identity());
        let wanted = Wanted::of(&keys.authority.get(), Duration::ZERO);
        let is_wanted = Held::of(&identity).is_ok_and(|held| held.is(&wanted));
        if is_wanted && !identity.needs_renewal(now) {
            continue;
        }
        let renewed = own_identity(&keys, &names, now).map_err(|error| error.to_string());
        match renewed.and_then(|identity| credentials.replace(identity).map_err(|error| error.to_string())) {
            Ok(()) => tracing::info!("own certificate renewed"),
            Err(error) => tracing::error!(error, "cannot renew the own certificate; trying again"),
        }
    }
}

fn tell_remaining(keys: &Keys, credentials: &Credentials, metrics: &Metrics, now: SystemTime) {
    let authority = keys.authority.get();
    for (certificate, end) in [
        ("own", Some(credentials.not_after())),
        ("authority", Some(authority.not_after())),
        ("other_authority", authority.other_not_after()),
    ] {
        let gauges = &metrics.certificate_remaining;
        match end {
            Some(end) => gauges.with_label_values(&[certificate]).set(seconds_until(end, now)),
            // It was not told of.
            None => drop(gauges.remove_label_values(&[certificate])),
        }
    }
}

#[cfg(test)]
mod tests;
