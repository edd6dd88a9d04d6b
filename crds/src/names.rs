//! Names that more than one process, or a person, must agree on.

/// API group of every kind.
pub const GROUP: &str = "shardwright.dev";
/// API version of every kind.
pub const VERSION: &str = "v1alpha1";
/// Category of every kind: `kubectl get shardwright`.
pub const CATEGORY: &str = "shardwright";
/// What makes the kinds anew: definitions are part of the chart, but Helm installs them once and never again.
pub const INSTALL_KINDS: &str = "kubectl apply --server-side -f charts/shardwright/crds";

/// Default trust domain of SPIFFE ids.
pub const TRUST_DOMAIN: &str = "shardwright";
/// Audience of the service account token that is exchanged for a certificate.
pub const ENROLMENT_AUDIENCE: &str = "shardwright-enrol";

/// Service account of the operator's pods.
pub const OPERATOR_SERVICE_ACCOUNT: &str = "shardwright-operator";
/// Service account of the agents' pods.
pub const AGENT_SERVICE_ACCOUNT: &str = "shardwright-agent";
/// Service account of the gateways' pods.
pub const GATEWAY_SERVICE_ACCOUNT: &str = "shardwright-gateway";

/// Server-side apply field manager of the operator.
pub const OPERATOR_FIELD_MANAGER: &str = "shardwright-operator";
/// Server-side apply field manager of the agents.
pub const AGENT_FIELD_MANAGER: &str = "shardwright-agent";

/// Lease in the install namespace whose holder leads.
pub const LEADER_LEASE: &str = "shardwright-operator";

/// Secret in the install namespace with the certificate authority: keys [`TLS_CERT_KEY`] and [`TLS_KEY_KEY`].
pub const AUTHORITY_SECRET: &str = "shardwright-authority";
/// Key of the authority's certificate, PEM.
pub const TLS_CERT_KEY: &str = "tls.crt";
/// Key of the authority's private key, PEM.
pub const TLS_KEY_KEY: &str = "tls.key";
/// Key in that Secret of the certificate of the authority that issues next, and is trusted already.
pub const NEXT_CERT_KEY: &str = "next.crt";
/// Key of its private key.
pub const NEXT_KEY_KEY: &str = "next.key";
/// Key in that Secret of the certificate of the authority that issued before, and is trusted still.
pub const PREVIOUS_CERT_KEY: &str = "previous.crt";
/// Secret in the install namespace with the Ed25519 pair that signs placements.
pub const PLACEMENT_KEY_SECRET: &str = "shardwright-placement-key";
/// Key of the private half, PKCS#8 DER.
pub const PLACEMENT_PRIVATE_KEY: &str = "ed25519.pk8";
/// Key of the public half, 32 raw bytes.
pub const PLACEMENT_PUBLIC_KEY: &str = "ed25519.pub";
/// ConfigMap in the install namespace with what agents and gateways trust.
pub const TRUST_CONFIG_MAP: &str = "shardwright-trust";
/// Key of the authorities to trust, PEM, the one that issues first.
pub const TRUST_BUNDLE_KEY: &str = "bundle.pem";
/// Annotation of [`TRUST_CONFIG_MAP`], set by people to the present moment (RFC 3339): another authority shall take the place of the
/// present one. Each value is honoured once.
pub const ROTATE_AUTHORITY: &str = "shardwright.dev/rotate-authority";
/// Annotation of [`AUTHORITY_SECRET`] and [`TRUST_CONFIG_MAP`]: the value of [`ROTATE_AUTHORITY`] that was honoured last.
pub const AUTHORITY_ROTATED_FOR: &str = "shardwright.dev/authority-rotated-for";
/// Annotation of both: since when the authority is in its present phase (RFC 3339).
pub const AUTHORITY_SINCE: &str = "shardwright.dev/authority-phase-since";
/// Annotation of [`TRUST_CONFIG_MAP`]: [`AUTHORITY_STEADY`], [`AUTHORITY_PREPARED`] or [`AUTHORITY_ACTIVE`].
pub const AUTHORITY_PHASE: &str = "shardwright.dev/authority-phase";
/// Annotation of [`TRUST_CONFIG_MAP`]: for whom the next phase waits, for people.
pub const AUTHORITY_WAITS_FOR: &str = "shardwright.dev/authority-waits-for";
/// One authority issues, and it alone is trusted.
pub const AUTHORITY_STEADY: &str = "steady";
/// A new authority is being trusted by all, and the old one issues.
pub const AUTHORITY_PREPARED: &str = "prepared";
/// The new authority issues, and the old one is trusted still.
pub const AUTHORITY_ACTIVE: &str = "active";
/// Secret in the install namespace with the bearer keys of the gateway's clients.
pub const API_KEYS_SECRET: &str = "shardwright-api-keys";
/// Key of the bearer keys, one a line.
pub const API_KEYS_KEY: &str = "keys";

/// Label of a DeviceGPUState and of a NodeLinkState: the name of its Node.
pub const NODE_LABEL: &str = "shardwright.dev/node";
/// Label of a DeviceGPUState: its backend.
pub const BACKEND_LABEL: &str = "shardwright.dev/backend";
/// Label of a DeviceGPUState whose device is used beside other pods: [`SHARED`].
pub const SHARING_LABEL: &str = "shardwright.dev/sharing";
/// The one value of [`SHARING_LABEL`].
pub const SHARED: &str = "share";
/// Prefix of the pods in the install namespace that hold devices for the node's agent.
pub const RESERVATION_PREFIX: &str = "shardwright-reserve-";
/// Component label of those pods.
pub const RESERVATION_COMPONENT: &str = "reservation";

/// Longest name that the API server accepts for an object, and DNS for a host.
pub const MAX_NAME_BYTES: usize = 253;
/// Longest part of such a name, and the longest name of a namespace.
pub const MAX_LABEL_BYTES: usize = 63;

/// Whether a name of nodes, pods, services and trust domains is one (RFC 1123): labels of lower-case letters, digits and '-', with
/// dots between them, and no more than `most_bytes` in all.
pub fn is_dns_name(name: &str, most_bytes: usize) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL_BYTES
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= most_bytes && name.split('.').all(label)
}

/// Name of the DeviceGPUState of one device: `<node>-<backend><index>` in lower case, so that a person finds it.
///
/// The same arguments always give the same name; a name that would be too long is shortened and keeps a hash of the node.
pub fn device_name(node: &str, backend: &str, index: u32) -> String {
    bounded("", node, &format!("-{backend}{index}"))
}

/// Most devices that work as one.
pub const MAX_GROUP_DEVICES: usize = 8;
/// What stands between the names of a device group's members. No device's own name has it: theirs are DNS names.
pub const GROUP_SEPARATOR: char = '+';

/// Name of the group of these devices: the same in whatever order they come.
pub fn group_name<'a>(members: impl IntoIterator<Item = &'a str>) -> String {
    let mut members: Vec<&str> = members.into_iter().collect();
    members.sort_unstable();
    let mut name = String::new();
    for member in members {
        if !name.is_empty() {
            name.push(GROUP_SEPARATOR);
        }
        name.push_str(member);
    }
    name
}

/// The devices behind a name, in ascending order: a group's members; of a single device, itself.
pub fn members(device: &str) -> impl Iterator<Item = &str> {
    device.split(GROUP_SEPARATOR)
}

/// Name of the Lease that an agent renews for its node, in the install namespace.
pub fn agent_lease(node: &str) -> String {
    bounded("shardwright-agent-", node, "")
}

/// Annotation of that Lease, of any value, while the agent lives and the operator does not hear it.
pub const APART: &str = "shardwright.dev/apart";

/// Name of one of the pods that hold devices of a node, in the install namespace.
pub fn reservation_pod(node: &str, resource: &str, index: u32) -> String {
    let slug: String = resource
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    bounded(RESERVATION_PREFIX, node, &format!("-{slug}-{index}"))
}

fn bounded(prefix: &str, node: &str, suffix: &str) -> String {
    let name = format!("{prefix}{node}{suffix}").to_ascii_lowercase();
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    let hash = format!("-{:016x}", fnv1a(node));
    let room = MAX_NAME_BYTES.saturating_sub(prefix.len() + hash.len() + suffix.len());
    let kept: String = node.chars().take(room).filter(char::is_ascii).collect();
    format!("{prefix}{kept}{hash}{suffix}").to_ascii_lowercase()
}

/// FNV-1a, 64 bits: a name must not depend on a hasher that may change between releases.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
