//! Where a model's weights come from: the schemes, and what each must be pinned by.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the weights come from, what they are pinned by, and how the source is reached.
///
/// Weights from the network must be pinned: by indexSha256 (each node then reads only the bytes of its own layers and checks
/// every tensor) or by sha256 of the whole file (one node reads it once as a whole).
/// `kubectl-shardwright model index <uri>` makes the index and prints its digest.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.uri.matches('^(https|hf|oci)://') || has(self.sha256) || has(self.indexSha256)").message("spec.source.indexSha256 or spec.source.sha256 must be set for a source on the network: run `kubectl-shardwright model index <uri>` and set spec.source.indexSha256 to the digest it prints").field_path(".indexSha256").reason(Reason::FieldValueRequired),
    validation = Rule::new("!has(self.secretRef) || self.uri.matches('^(https|hf|oci)://')").message("spec.source.secretRef is for https://, hf:// and oci:// sources; remove it").field_path(".secretRef"),
    validation = Rule::new("!has(self.proxyURL) || self.uri.matches('^(https|hf|oci)://')").message("spec.source.proxyURL is for https://, hf:// and oci:// sources; remove it").field_path(".proxyURL")
)]
pub struct ModelSource {
    /// Address of a GGUF file; of the first file where a model is split into several (name-00001-of-00003.gguf). One of:
    /// file:///absolute/path.gguf (readable on every node that may hold layers, or from a peer that has it),
    /// pvc://<claim>/<path>.gguf (a claim in the installation's namespace, mounted by the chart's agent.modelClaims),
    /// https://<host>/<path>.gguf,
    /// hf://<organisation>/<repository>/<file>.gguf[@<revision>] (Hugging Face, or what HF_ENDPOINT names),
    /// oci://<registry>/<repository>[:tag|@sha256:<digest>]/<file>.gguf (a layer, by its title).
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("!self.startsWith('http://')").message("spec.source.uri must not be http://: weights are fetched over TLS alone; use https://, and spec.source.secretRef with key ca.crt for an authority of your own"),
        validation = Rule::new("self.startsWith('http://') || self.matches('^(file:///|pvc://|https://|hf://|oci://)')").message("spec.source.uri must begin with file:/// (and an absolute path), pvc://, https://, hf:// or oci://"),
        validation = Rule::new("!self.matches('^pvc:') || self.matches('^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[^/]')").message("spec.source.uri must be pvc://<claim>/<path>, such as pvc://models/llama/model.gguf"),
        validation = Rule::new("!self.matches('^https:') || self.matches('^https://[^/]+/.')").message("spec.source.uri must be https://<host>/<path>, such as https://models.example.org/model.gguf"),
        validation = Rule::new("!self.matches('^hf:') || self.matches('^hf://[A-Za-z0-9][-A-Za-z0-9._]*/[A-Za-z0-9][-A-Za-z0-9._]*/[^/@]')").message("spec.source.uri must be hf://<organisation>/<repository>/<file>[@<revision>], such as hf://org/model-GGUF/model-Q4_K_M.gguf@main"),
        validation = Rule::new("!self.matches('^oci:') || self.matches('^oci://[^/]+/[^/]')").message("spec.source.uri must be oci://<registry>/<repository>, such as oci://registry.example.org/models/llama:1"),
        validation = Rule::new("!self.matches('^[a-z]+://[^/]*@')").message("spec.source.uri must not contain credentials; put them into a Secret and name it in spec.source.secretRef"),
        validation = Rule::new("!self.contains('#')").message("spec.source.uri must not contain a fragment ('#')"),
        validation = Rule::new("!self.matches('[[:space:][:cntrl:]]')").message("spec.source.uri must not contain white space or control characters; write %20 for a blank in an https:// address"),
        validation = Rule::new("!self.matches('/[.][.](/|$)')").message("spec.source.uri must not contain a '..' segment"),
        validation = Rule::new("!self.matches('[.]safetensors([@?][^/]*)?$')").message("spec.source.uri names a .safetensors file, which cannot be loaded; convert the model with llama.cpp: `python convert_hf_to_gguf.py <folder of the model> --outfile model.gguf`")
    )]
    pub uri: String,
    /// SHA-256 of the whole file (of all files of a split model, one after the other), 64 lower-case hexadecimal digits. A file
    /// or claim without any digest is taken as found, and all nodes must agree on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[0-9a-f]{64}$')").message("spec.source.sha256 must be 64 lower-case hexadecimal digits")
    )]
    pub sha256: Option<String>,
    /// SHA-256 of the weight index, the file <uri>.index.json beside the model, as `kubectl-shardwright model index <uri>` prints
    /// it. With it a node reads only its own layers and checks every tensor; 64 lower-case hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[0-9a-f]{64}$')").message("spec.source.indexSha256 must be 64 lower-case hexadecimal digits, as `kubectl-shardwright model index <uri>` prints them")
    )]
    pub index_sha256: Option<String>,
    /// Secret in the model's namespace with what the source demands. Keys: token (a bearer token), or username and password;
    /// ca.crt (PEM, authorities to trust beside the system's). The chart's operator.sourceSecretNamespaces must list the namespace.
    /// It is read again by itself; a change restarts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SourceSecret>,
    /// Proxy for this source, http://host:port or https://host:port. Without it agents take what the chart's agent.httpsProxy says.
    #[serde(default, rename = "proxyURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^https?://[^/?#]+/?$')").message("spec.source.proxyURL must be http://host:port or https://host:port"),
        validation = Rule::new("!self.contains('@')").message("spec.source.proxyURL must not contain credentials")
    )]
    pub proxy_url: Option<String>,
}

/// A Secret in the model's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SourceSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("spec.source.secretRef.name must be the name of a Secret: lower-case letters, digits, '-' and '.'")
    )]
    pub name: String,
}

impl ModelSource {
    /// Whether two sources name the same bytes. How they are reached does not matter.
    #[must_use]
    pub fn same_weights(&self, other: &Self) -> bool {
        (&self.uri, &self.sha256, &self.index_sha256) == (&other.uri, &other.sha256, &other.index_sha256)
    }
}

/// Prefixes kept for reuse.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PrefixCache {
    /// Prefixes of prompts that are kept beside the sequences in flight, so that a prompt that begins alike is not computed
    /// again. They take room of the cache that sequences leave, and give it back first. 0: none are kept.
    #[serde(default = "default_max_prefixes")]
    #[schemars(range(min = 0, max = 32))]
    pub max_prefixes: i32,
}

impl Default for PrefixCache {
    fn default() -> Self {
        Self {
            max_prefixes: default_max_prefixes(),
        }
    }
}

fn default_max_prefixes() -> i32 {
    8
}

/// What a stage may give up for want of memory.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemoryPressure {
    /// Keep keys and values in eight bits where kvType does not fit. It changes the tokens that are generated.
    #[serde(default)]
    pub allow_kv_quantisation: bool,
    /// Leave the first layers of a stage in the node's memory, where the processor computes them slowly.
    #[serde(default)]
    pub allow_host_layers: bool,
}
