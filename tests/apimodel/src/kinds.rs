//! The kinds that are served, and how their fields merge.

/// One kind of object.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Version in the group.
    pub version: &'static str,
    /// As it stands in paths.
    pub plural: &'static str,
    /// As it stands in objects.
    pub kind: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What `status` is to those who write the object itself.
    pub status: Status,
    /// Whether `metadata.generation` counts changes of the spec.
    pub counts_generations: bool,
    /// Whether it may be replaced without saying which version is replaced.
    pub replaced_blindly: bool,
}

/// Where `status` is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has none, or one that is a field like others.
    Field,
    /// By the subresource alone.
    Subresource,
    /// By the subresource, and by whoever creates the object.
    SubresourceOrCreator,
}

const fn kind(group: &'static str, version: &'static str, plural: &'static str, kind: &'static str) -> Kind {
    Kind {
        group,
        version,
        plural,
        kind,
        namespaced: true,
        status: Status::Field,
        counts_generations: false,
        replaced_blindly: true,
    }
}

const fn ours(plural: &'static str, name: &'static str, namespaced: bool) -> Kind {
    Kind {
        namespaced,
        status: Status::Subresource,
        counts_generations: true,
        replaced_blindly: false,
        ..kind("shardwright.dev", "v1alpha1", plural, name)
    }
}

/// All of them.
pub static KINDS: [Kind; 11] = [
    kind("", "v1", "secrets", "Secret"),
    kind("", "v1", "configmaps", "ConfigMap"),
    Kind {
        namespaced: false,
        status: Status::SubresourceOrCreator,
        ..kind("", "v1", "nodes", "Node")
    },
    Kind {
        status: Status::Subresource,
        counts_generations: true,
        ..kind("", "v1", "pods", "Pod")
    },
    kind("", "v1", "events", "Event"),
    kind("events.k8s.io", "v1", "events", "Event"),
    Kind {
        replaced_blindly: false,
        ..kind("coordination.k8s.io", "v1", "leases", "Lease")
    },
    Kind {
        status: Status::Subresource,
        counts_generations: true,
        ..kind("apps", "v1", "deployments", "Deployment")
    },
    ours("inferencemodels", "InferenceModel", true),
    ours("devicegpustates", "DeviceGPUState", false),
    ours("nodelinkstates", "NodeLinkState", false),
];

/// The kind that a path names.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|kind| (kind.group, kind.version, kind.plural) == (group, version, plural))
}

impl Kind {
    /// As it stands in objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// As messages of the API server name it.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

/// How a list merges when several write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// As a whole.
    Whole,
    /// By these fields of its items.
    ByKeys(&'static [&'static str]),
    /// By its values.
    Set,
}

/// How the list at this path merges, as the schemas of the kinds say.
#[must_use]
pub fn merge(path: &[&str]) -> Merge {
    match path {
        ["metadata", "finalizers"] => Merge::Set,
        ["metadata", "ownerReferences"] => Merge::ByKeys(&["uid"]),
        ["status", "conditions"] => Merge::ByKeys(&["type"]),
        ["spec", "taints"] => Merge::ByKeys(&["key", "effect"]),
        ["spec", "containers"] => Merge::ByKeys(&["name"]),
        _ => Merge::Whole,
    }
}
