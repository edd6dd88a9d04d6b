//! OCI and Docker registries: a token, a manifest, and layers that are GGUF files.
//!
//! A layer is a file of the model when its title (`org.opencontainers.image.title`) ends in `.gguf`, or when its media type
//! says so. Weights are checked against the weight index like all others; the manifest only says where they are.

use super::address::{Reference, show};
use super::error::SourceError;
use super::http::Client;
use super::remote::Remote;
use super::{Access, Setting};
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Manifests have some kilobytes; the distribution specification names 4 MiB.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// A token and what comes with it.
const TOKEN_BYTES_MAX: usize = 256 << 10;
/// An index may name an index: not deeper than this.
pub(super) const DEPTH_MAX: usize = 4;
pub(super) const TOO_DEEP: &str = "indexes that name each other";
/// Layers of one image.
const LAYERS_MAX: usize = 2048;

const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
const TITLE: &str = "org.opencontainers.image.title";
/// What a GGUF layer without a title is called.
const UNTITLED: &str = "model.gguf";

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// What a document says.
pub(super) enum Document {
    /// The files of an image.
    Files(Files),
    /// The digest of the document to read instead.
    Elsewhere(String),
}

/// Names, digests and lengths of an image's files.
#[derive(Debug)]
pub(super) struct Files {
    by_name: BTreeMap<String, (String, u64)>,
    first: String,
}

impl Document {
    pub fn parse(bytes: &[u8], shown: &str) -> Result<Self, SourceError> {
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|_| SourceError::malformed(shown, "a manifest that cannot be read"))?;
        if let Some(manifests) = manifest.manifests {
            let ours = |entry: &&Descriptor| {
                let platform = entry.platform.as_ref();
                platform.is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture())
            };
            let chosen = manifests
                .iter()
                .find(ours)
                .or_else(|| manifests.iter().find(|entry| entry.platform.is_none()))
                .or_else(|| manifests.first());
            let digest = chosen.map(|entry| entry.digest.clone());
            return digest
                .map(Self::Elsewhere)
                .ok_or_else(|| SourceError::malformed(shown, "an index that names no manifest"));
        }
        Files::of(manifest.layers.unwrap_or_default(), shown).map(Self::Files)
    }
}

impl Files {
    fn of(layers: Vec<Descriptor>, shown: &str) -> Result<Self, SourceError> {
        let mut by_name = BTreeMap::new();
        for layer in layers.into_iter().take(LAYERS_MAX) {
            let title = layer
                .annotations
                .get(TITLE)
                .map(|title| title.rsplit('/').next().unwrap_or(title).to_owned());
            let is_gguf = layer.media_type.to_ascii_lowercase().contains("gguf")
                || layer.media_type == "application/vnd.ollama.image.model";
            let name = title.or_else(|| is_gguf.then(|| UNTITLED.to_owned()));
            let Some(name) = name.filter(|name| super::address::is_file_name(name)) else {
                continue;
            };
            if sha256_hex(&layer.digest).is_none() {
                return Err(SourceError::malformed(
                    shown,
                    format!("a layer {name} without a SHA-256"),
                ));
            }
            by_name.entry(name).or_insert((layer.digest, layer.size));
        }
        let models: Vec<&String> = by_name.keys().filter(|name| name.ends_with(".gguf")).collect();
        let first = match models.as_slice() {
            [] if by_name.keys().any(|name| name.ends_with(".safetensors")) => {
                return Err(SourceError::Safetensors {
                    source_name: shown.to_owned(),
                });
            }
            [] => return Err(SourceError::malformed(shown, "an image without a GGUF layer")),
            [one] => (*one).clone(),
            // A split set stands in order; anything else would be a choice.
            [first, ..] if first.contains("-00001-of-") => (*first).clone(),
            _ => {
                let names: Vec<&str> = models.iter().map(|name| name.as_str()).take(8).collect();
                let what = format!("several models ({}); keep one to an image", names.join(", "));
                return Err(SourceError::malformed(shown, what));
            }
        };
        Ok(Self { by_name, first })
    }

    /// Name of the model's first file.
    pub fn first(&self) -> &str {
        &self.first
    }

    /// SHA-256 of a file.
    pub fn expected(&self, name: &str) -> Option<gguf::Digest> {
        sha256_hex(self.find(name)?.0)?.parse().ok()
    }

    /// Digest and length of a file.
    pub fn find(&self, name: &str) -> Option<(&str, u64)> {
        self.by_name.get(name).map(|(digest, bytes)| (digest.as_str(), *bytes))
    }
}

/// The digits of `sha256:…`.
pub(super) fn sha256_hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let sound = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    sound.then_some(hex)
}

/// Makes sure that a manifest or index is the one of this digest; any is one of a tag.
pub(super) fn check_document(bytes: &[u8], version: &str, shown: &str) -> Result<(), SourceError> {
    match sha256_hex(version) {
        Some(hex) if gguf::Digest(Sha256::digest(bytes).into()).to_string() != hex => Err(SourceError::malformed(
            shown,
            format!("a manifest that is not {version}"),
        )),
        _ => Ok(()),
    }
}

/// As registries write it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image in a registry.
pub(super) struct Image {
    client: Arc<Client>,
    base: Url,
    shown: String,
    files: Files,
}

impl Image {
    pub async fn open(setting: &Setting, access: &Access, reference: &Reference) -> Result<Self, SourceError> {
        let Reference {
            registry,
            repository,
            version,
        } = reference;
        let shown = format!("oci://{registry}/{repository}");
        let base = Url::parse(&format!("https://{registry}/v2/{repository}/"))
            .map_err(|_| SourceError::bad(&shown, "its registry is no host"))?;
        let mut client = Client::new(setting, access, &base)?;
        let mut version = version.clone();
        for _ in 0..DEPTH_MAX {
            let url = join(&base, &format!("manifests/{version}"), &shown)?;
            let body = manifest(&mut client, &url, access, &shown).await?;
            check_document(&body, &version, &shown)?;
            match Document::parse(&body, &shown)? {
                Document::Elsewhere(digest) => version = digest,
                Document::Files(files) => {
                    return Ok(Self {
                        client: Arc::new(client),
                        base,
                        shown,
                        files,
                    });
                }
            }
        }
        Err(SourceError::malformed(&shown, TOO_DEEP))
    }

    pub fn first(&self) -> &str {
        self.files.first()
    }

    /// The blob of a file, and the digest it must have.
    pub async fn blob(&self, name: &str) -> Result<(Remote, Option<gguf::Digest>), SourceError> {
        let (digest, bytes) = self.files.find(name).ok_or_else(|| SourceError::NotFound {
            source_name: format!("{name} in {}", self.shown),
            note: String::new(),
        })?;
        let url = join(&self.base, &format!("blobs/{digest}"), &self.shown)?;
        let remote = Remote::open(Arc::clone(&self.client), url).await?;
        if remote.bytes() == bytes {
            return Ok((remote, self.files.expected(name)));
        }
        Err(SourceError::Changed {
            source_name: format!("{name} in {}", self.shown),
            what: format!("its manifest says {bytes} bytes, its blob has {}", remote.bytes()),
        })
    }
}

fn join(base: &Url, path: &str, shown: &str) -> Result<Url, SourceError> {
    let url = Url::parse(&format!("{base}{path}"));
    url.map_err(|_| SourceError::bad(shown, format!("{path} is no path")))
}

/// Reads a manifest; a registry that asks for a token of its own is given one, which `client` uses from then on.
async fn manifest(client: &mut Client, url: &Url, access: &Access, shown: &str) -> Result<Vec<u8>, SourceError> {
    let challenged = [StatusCode::UNAUTHORIZED];
    let (status, headers, body) = client
        .get_small(url, ACCEPT_MANIFESTS, MANIFEST_BYTES_MAX, &challenged)
        .await?;
    if status.is_success() {
        return Ok(body);
    }
    let denied = || SourceError::Denied {
        source_name: shown.to_owned(),
        status: StatusCode::UNAUTHORIZED.as_u16(),
    };
    let challenge = Challenge::of(&headers).ok_or_else(denied)?;
    let token = challenge.token(client, access, shown).await?;
    *client = client.with_token(token, challenge, access.clone());
    let (_, _, body) = client.get_small(url, ACCEPT_MANIFESTS, MANIFEST_BYTES_MAX, &[]).await?;
    Ok(body)
}

/// `WWW-Authenticate: Bearer realm="…",service="…",scope="…"`.
pub(super) struct Challenge {
    realm: Url,
    service: Option<String>,
    scope: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Challenge {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(WWW_AUTHENTICATE)?.to_str().ok()?;
        let (scheme, rest) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut found = BTreeMap::new();
        // Values are quoted and may hold commas, but no quotes.
        let mut rest = rest.trim_start();
        while let Some((key, after)) = rest.split_once("=\"") {
            let (value, after) = after.split_once('"')?;
            found.insert(key.trim_matches([',', ' ']).to_ascii_lowercase(), value.to_owned());
            rest = after;
        }
        let realm = Url::parse(found.get("realm")?)
            .ok()
            .filter(|url| url.scheme() == "https")?;
        Some(Self {
            realm,
            service: found.remove("service"),
            scope: found.remove("scope"),
        })
    }

    /// A token for the client's registry.
    pub async fn token(&self, client: &Client, access: &Access, shown: &str) -> Result<HeaderValue, SourceError> {
        let mut url = self.realm.clone();
        for (key, value) in [("service", &self.service), ("scope", &self.scope)] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(key, value);
            }
        }
        // A realm is often on another host; the user's password goes there only because the registry itself names it.
        let client = client.at(&url, access);
        let (_, _, body) = client.get_small(&url, "application/json", TOKEN_BYTES_MAX, &[]).await?;
        let told: Token = serde_json::from_slice(&body)
            .map_err(|_| SourceError::malformed(&show(&self.realm), "a token that cannot be read"))?;
        let token = if told.token.is_empty() {
            told.access_token
        } else {
            told.token
        };
        let value = HeaderValue::try_from(format!("Bearer {token}"))
            .ok()
            .filter(|_| !token.is_empty());
        let mut value = value.ok_or_else(|| SourceError::malformed(shown, "an empty token"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}
