//! The installation's keys: made once by whichever replica comes first, kept in Secrets, never overwritten.
//!
//! Two replicas that start together both try to create; one is told that the Secret exists and reads it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crds::names;
use identity::{
    Authority, Credentials, DEFAULT_LEAF_LIFETIME, Identity, KeyPair, PlacementSigner, Role, SpiffeId, seconds_until,
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
    let authority = Arc::new(load_authority(client, names).await?);
    let signer = Arc::new(load_signer(client, names).await?);
    publish_trust(client, names, &authority).await?;
    Ok(Keys { authority, signer })
}

async fn load_authority(client: &Client, names: &Names) -> Result<Authority, KeysError> {
    let fresh = Authority::generate(&names.trust_domain, SystemTime::now()).map_err(make)?;
    let wanted = BTreeMap::from([
        (
            names::TLS_CERT_KEY.to_owned(),
            ByteString(fresh.cert_pem().as_bytes().to_vec()),
        ),
        (names::TLS_KEY_KEY.to_owned(), ByteString(fresh.key_pem().into_bytes())),
    ]);
    let data = get_or_create(
        client,
        names,
        names::AUTHORITY_SECRET,
        Some("kubernetes.io/tls"),
        wanted,
    )
    .await?;
    let bad = |cause: String| KeysError::Secret {
        namespace: names.namespace.clone(),
        secret: names::AUTHORITY_SECRET,
        cause,
    };
    let text = |key: &str| -> Result<String, KeysError> {
        let bytes = data.get(key).ok_or_else(|| bad(format!("key {key} is missing")))?;
        String::from_utf8(bytes.0.clone()).map_err(|_| bad(format!("key {key} is not text")))
    };
    let authority = Authority::from_pem(&text(names::TLS_CERT_KEY)?, &text(names::TLS_KEY_KEY)?)
        .map_err(|error| bad(error.to_string()))?;
    if authority.trust_domain() != names.trust_domain {
        let theirs = authority.trust_domain();
        return Err(bad(format!(
            "it is for trust domain {theirs:?}, but --trust-domain is {:?}",
            names.trust_domain
        )));
    }
    Ok(authority)
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
    let data = get_or_create(client, names, names::PLACEMENT_KEY_SECRET, None, wanted).await?;
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
) -> Result<BTreeMap<String, ByteString>, KeysError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
    let get = || call(format!("get Secret {}/{name}", names.namespace), api.get_opt(name));
    if let Some(secret) = get().await? {
        return Ok(secret.data.unwrap_or_default());
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
            Ok(created.data.unwrap_or_default())
        }
        Err(error) if error.is_conflict() => {
            let gone = || KeysError::Secret {
                namespace: names.namespace.clone(),
                secret: name,
                cause: "it appeared and vanished again".into(),
            };
            Ok(get().await?.ok_or_else(gone)?.data.unwrap_or_default())
        }
        Err(error) => Err(error.into()),
    }
}

async fn publish_trust(client: &Client, names: &Names, authority: &Authority) -> Result<(), KeysError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &names.namespace);
    let wanted = ConfigMap {
        metadata: ObjectMeta {
            name: Some(names::TRUST_CONFIG_MAP.to_owned()),
            labels: Some(labels()),
            ..Default::default()
        },
        data: Some(BTreeMap::from([(
            names::TRUST_BUNDLE_KEY.to_owned(),
            authority.bundle_pem(),
        )])),
        ..Default::default()
    };
    let params = PatchParams::apply(names::OPERATOR_FIELD_MANAGER).force();
    let doing = format!("apply ConfigMap {}/{}", names.namespace, names::TRUST_CONFIG_MAP);
    call(
        doing,
        api.patch(names::TRUST_CONFIG_MAP, &params, &Patch::Apply(&wanted)),
    )
    .await?;
    Ok(())
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
        .issue(&pair.csr_der, &id, &names.server_names, DEFAULT_LEAF_LIFETIME, now)
        .map_err(make)?;
    Ok(Identity {
        certificate_chain_pem: leaf.certificate_chain_pem,
        key_pem: pair.key_pem,
        bundle_pem: leaf.bundle_pem,
    })
}

/// Renews the operator's own leaf from half life, until `stop`, and tells what is left of it and of the authority.
pub async fn renew(keys: Keys, names: Arc<Names>, credentials: Credentials, metrics: Metrics, stop: CancellationToken) {
    loop {
        let now = SystemTime::now();
        for (certificate, end) in [
            ("own", credentials.not_after()),
            ("authority", keys.authority.not_after()),
        ] {
            let remaining = metrics.certificate_remaining.with_label_values(&[certificate]);
            remaining.set(seconds_until(end, now));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(credentials.identity().next_look(now, RENEWAL_CHECK)) => {}
        }
        let now = SystemTime::now();
        if !credentials.identity().needs_renewal(now) {
            continue;
        }
        let renewed = own_identity(&keys, &names, now).map_err(|error| error.to_string());
        match renewed.and_then(|identity| credentials.replace(identity).map_err(|error| error.to_string())) {
            Ok(()) => tracing::info!("own certificate renewed"),
            Err(error) => tracing::error!(error, "cannot renew the own certificate; trying again"),
        }
    }
}

#[cfg(test)]
mod tests;
