//! Servers that misbehave, and addresses of every kind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod proxy;
#[path = "../rig/mod.rs"]
mod rig;
#[path = "../tiny_model/mod.rs"]
mod tiny_model;

use agent::source::{Access, Kind, Setting, Source, SourceError};
use origin::{Manner, Script, Seen, Server};
use proto::control::v1::SourceAccess;
use rig::hasty;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;

const PATH: &str = "/m.gguf";
const BYTES: usize = 300_000;
/// Who brings nothing for so long is given up; far more than a busy machine takes for a request.
const STALLED: Duration = Duration::from_secs(10);

struct Bench {
    runtime: Runtime,
    server: Server,
    setting: Setting,
}

impl Bench {
    fn new() -> Self {
        let runtime = rig::runtime();
        let server = Server::start().unwrap();
        server.put(PATH, content());
        let setting = Setting {
            patience: hasty(),
            hf_endpoint: server.url(""),
            ..Setting::default()
        };
        Self {
            runtime,
            server,
            setting,
        }
    }

    fn told(&self) -> SourceAccess {
        SourceAccess {
            ca_bundle_pem: self.server.ca_pem.clone(),
            ..SourceAccess::default()
        }
    }

    fn open(&self, uri: &str, told: SourceAccess) -> Result<Source, SourceError> {
        self.runtime
            .block_on(Source::open(&self.setting, uri, &Access::from(told)))
    }

    /// A hundred thousand bytes from the middle of the first file.
    fn read(&self, uri: &str, told: SourceAccess) -> Result<Vec<u8>, SourceError> {
        let source = self.open(uri, told)?;
        self.runtime.block_on(async {
            let file = source.file(source.first()).await?;
            file.read_all(100_000, 100_000).await
        })
    }

    fn fault(&self) -> (&'static str, String) {
        let error = self
            .read(&self.server.url(&format!("{PATH}?token=hush")), self.told())
            .unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(&self.server.url(PATH)) && !message.contains("hush"),
            "{message}"
        );
        (error.reason(), message)
    }
}

fn content() -> Vec<u8> {
    (0..BYTES).map(|place| (place * 7 + place / 251) as u8).collect()
}

fn is_long(seen: &Seen) -> bool {
    seen.range.is_some_and(|(first, last)| last - first > 1)
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let mut bench = Bench::new();
    bench.setting.patience.progress = STALLED;
    bench.server.behave(|seen| match seen.number {
        1 => Manner::Truncate(30_000),
        2 => Manner::Status(503, vec![]),
        3 => Manner::Stall(66_000),
        4 => Manner::Status(429, vec![("Retry-After".into(), "0".into())]),
        _ => Manner::Serve,
    });
    let bytes = bench.read(&bench.server.url(PATH), bench.told()).unwrap();
    assert_eq!(bytes, content()[100_000..200_000]);
    let begins: Vec<u64> = bench
        .server
        .seen()
        .iter()
        .filter_map(|seen| Some(seen.range?.0))
        .collect();
    assert_eq!(begins, [0, 100_000, 130_000, 130_000, 196_000, 196_000]);
    assert!(bench.server.sent() < 101_000, "no byte twice: {}", bench.server.sent());
}

#[test]
fn a_source_that_drips_is_given_up() {
    let bench = Bench::new();
    bench.server.behave(|seen| {
        if is_long(seen) {
            Manner::Truncate(1000)
        } else {
            Manner::Serve
        }
    });
    assert_eq!(bench.fault().0, "Truncated");
    assert_eq!(bench.server.sent(), 3001, "three attempts");
}

#[test]
fn a_server_that_gives_less_than_asked_for_is_asked_for_the_rest() {
    let mut bench = Bench::new();
    // The first failure would be the last.
    bench.setting.patience.attempts = 1;
    bench.server.behave(|_| Manner::Cap(70_000));
    assert_eq!(
        bench.read(&bench.server.url(PATH), bench.told()).unwrap(),
        content()[100_000..200_000]
    );
    let begins: Vec<u64> = bench.server.seen().iter().map(|seen| seen.range.unwrap().0).collect();
    assert_eq!(begins, [0, 100_000, 170_000]);
}

#[test]
fn every_way_of_misbehaving_has_a_reason_of_its_own() {
    let mut bench = Bench::new();
    let cases: Vec<(&str, Script)> = vec![
        ("RangeNotSupported", Box::new(|_| Manner::IgnoreRange)),
        ("SourceNotFound", Box::new(|_| Manner::Status(404, vec![]))),
        ("AccessDenied", Box::new(|_| Manner::Status(403, vec![]))),
        ("SourceUnavailable", Box::new(|_| Manner::Status(500, vec![]))),
        ("SourceUnavailable", Box::new(|_| Manner::Status(429, vec![]))),
        ("Unreadable", Box::new(|_| Manner::Status(418, vec![]))),
        ("SourceUnavailable", Box::new(|_| Manner::HugeHeader)),
        ("SourceStalled", Box::new(|_| Manner::Mute)),
        (
            "SourceStalled",
            Box::new(|seen| if is_long(seen) { Manner::Stall(0) } else { Manner::Serve }),
        ),
        (
            "Truncated",
            Box::new(|seen| {
                if is_long(seen) {
                    Manner::Truncate(0)
                } else {
                    Manner::Serve
                }
            }),
        ),
        (
            "SourceChanged",
            Box::new(|seen| {
                if is_long(seen) {
                    Manner::Etag("\"two\"")
                } else {
                    Manner::Serve
                }
            }),
        ),
        (
            "SourceChanged",
            Box::new(|seen| {
                if is_long(seen) {
                    Manner::Length(250_000)
                } else {
                    Manner::Serve
                }
            }),
        ),
        (
            "SourceChanged",
            Box::new(|seen| {
                if is_long(seen) {
                    Manner::Length(50_000)
                } else {
                    Manner::Serve
                }
            }),
        ),
    ];
    for (number, (expected, script)) in cases.into_iter().enumerate() {
        bench.setting.patience.progress = match expected {
            // Nothing else can come of it, however slow the machine is.
            "SourceStalled" => STALLED / 50,
            _ => hasty().progress,
        };
        bench.server.behave(script);
        let (reason, message) = bench.fault();
        assert_eq!(reason, expected, "case {number}: {message}");
    }
}

#[test]
fn what_a_person_can_mend_is_told_with_how() {
    let bench = Bench::new();
    for (manner, remedy) in [
        (Manner::IgnoreRange, "use a server that honours them"),
        (
            Manner::Status(401, vec![]),
            "denies access (401); name a Secret that may read it in spec.source.secretRef",
        ),
    ] {
        bench.server.behave(move |_| manner.clone());
        let (_, message) = bench.fault();
        assert!(message.contains(remedy), "{message}");
    }
}

#[test]
fn a_server_that_asks_for_time_is_given_it_up_to_a_limit() {
    let mut bench = Bench::new();
    bench.setting.patience.retry_after_max = Duration::from_millis(300);
    bench.server.behave(|seen| match seen.number {
        0 => Manner::Status(429, vec![("Retry-After".into(), "1000".into())]),
        _ => Manner::Serve,
    });
    let began = std::time::Instant::now();
    bench.read(&bench.server.url(PATH), bench.told()).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[test]
fn an_authority_that_nobody_vouches_for_is_not_spoken_to() {
    let bench = Bench::new();
    let error = bench
        .read(&bench.server.url(PATH), SourceAccess::default())
        .unwrap_err();
    assert_eq!(error.reason(), "SourceUnavailable", "{error}");
    assert!(bench.server.seen().is_empty());
    let told = SourceAccess {
        ca_bundle_pem: "nonsense".into(),
        ..SourceAccess::default()
    };
    assert!(
        bench
            .read(&bench.server.url(PATH), told)
            .unwrap_err()
            .to_string()
            .contains("ca.crt")
    );
}

#[test]
fn redirects_are_followed_to_https_alone_and_other_hosts_are_told_nothing() {
    let bench = Bench::new();
    let other = format!("https://127.0.0.1:{}/far.gguf?sig=1", bench.server.address.port());
    bench.server.put("/far.gguf", content());
    bench.server.behave(move |seen| match seen.path.as_str() {
        PATH => Manner::Status(302, vec![("Location".into(), other.clone())]),
        "/loop.gguf" => Manner::Status(307, vec![("Location".into(), "/loop.gguf".into())]),
        "/plain.gguf" => Manner::Status(301, vec![("Location".into(), "http://localhost/m.gguf".into())]),
        _ => Manner::Serve,
    });
    let told = || SourceAccess {
        username: "name".into(),
        password: "word".into(),
        ..bench.told()
    };
    assert_eq!(
        bench.read(&bench.server.url(PATH), told()).unwrap(),
        content()[100_000..200_000]
    );
    for seen in bench.server.seen() {
        let expected = (seen.path == PATH).then_some("Basic bmFtZTp3b3Jk");
        assert_eq!(seen.authorization.as_deref(), expected, "{}", seen.path);
    }
    for path in ["/loop.gguf", "/plain.gguf"] {
        let error = bench.read(&bench.server.url(path), told()).unwrap_err();
        assert!(error.to_string().contains("redirect"), "{error}");
    }
}

#[test]
fn secrets_are_in_no_debug_output() {
    let told = SourceAccess {
        bearer_token: "hush".into(),
        username: "hush".into(),
        password: "hush".into(),
        ca_bundle_pem: "hush".into(),
        proxy_url: "https://u:hush@p".into(),
    };
    assert!(!format!("{:?}", Access::from(told)).contains("hush"));
}

#[test]
fn a_hub_revision_is_pinned_to_its_commit() {
    let bench = Bench::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    bench
        .server
        .put(&format!("/org/repo/resolve/{commit}/q4/m.gguf"), content());
    bench.server.behave(move |seen| match seen.path.as_str() {
        "/api/models/org/repo/revision/main" => {
            Manner::Document(200, vec![], format!("{{\"sha\":\"{commit}\",\"x\":1}}").into_bytes())
        }
        _ => Manner::Serve,
    });
    let told = SourceAccess {
        bearer_token: "hf_secret".into(),
        ..bench.told()
    };
    let bytes = bench.read("hf://org/repo/q4/m.gguf", told.clone()).unwrap();
    assert_eq!(bytes, content()[100_000..200_000]);
    assert_eq!(
        bench.open("hf://org/repo/q4/m.gguf", told.clone()).unwrap().kind(),
        Kind::Hf
    );
    let seen = bench.server.seen();
    assert!(
        seen.iter()
            .all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret"))
    );
    bench.server.forget();
    bench.read(&format!("hf://org/repo/q4/m.gguf@{commit}"), told).unwrap();
    assert!(bench.server.seen().iter().all(|seen| !seen.path.starts_with("/api")));
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", gguf::Digest(Sha256::digest(bytes).into()))
}

fn manifest(layers: &[(&str, &[u8])]) -> Vec<u8> {
    let layers: Vec<serde_json::Value> = layers
        .iter()
        .map(|(title, content)| {
            serde_json::json!({"mediaType": "application/octet-stream", "digest": sha256(content), "size": content.len(),
                "annotations": {"org.opencontainers.image.title": title}})
        })
        .collect();
    serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "layers": layers})).unwrap()
}

fn index_of(manifest: &[u8]) -> Vec<u8> {
    let entry = |architecture: &str, digest: String| {
        serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1,
            "platform": {"os": "linux", "architecture": architecture}})
    };
    let ours = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let manifests = [entry("s390x", sha256(b"other")), entry(ours, sha256(manifest))];
    serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": manifests})).unwrap()
}

#[test]
fn a_registry_is_read_with_its_token_through_index_and_manifest_to_the_blob() {
    let bench = Bench::new();
    let manifest = manifest(&[("README.md", b"text"), ("m.gguf", &content())]);
    let index = index_of(&manifest);
    bench
        .server
        .put(&format!("/v2/a/b/blobs/{}", sha256(&content())), content());
    let realm = format!("https://localhost:{}/token", bench.server.address.port());
    let by_digest = format!("/v2/a/b/manifests/{}", sha256(&manifest));
    let (first, second) = (index.clone(), manifest.clone());
    bench.server.behave(move |seen| {
        let allowed = seen.authorization.as_deref() == Some("Bearer granted");
        match seen.path.as_str() {
            "/token" => {
                assert!(
                    seen.query.contains("service=reg") && seen.query.contains("scope=repository"),
                    "{}",
                    seen.query
                );
                Manner::Document(200, vec![], b"{\"token\":\"granted\"}".to_vec())
            }
            _ if !allowed => {
                let challenge = format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:a/b:pull\"");
                Manner::Status(401, vec![("WWW-Authenticate".into(), challenge)])
            }
            "/v2/a/b/manifests/q4" => Manner::Document(200, vec![], first.clone()),
            path if path == by_digest => Manner::Document(200, vec![], second.clone()),
            _ => Manner::Serve,
        }
    });
    let uri = format!("oci://{}/a/b:q4", bench.server.host());
    assert_eq!(bench.read(&uri, bench.told()).unwrap(), content()[100_000..200_000]);
    let source = bench.open(&uri, bench.told()).unwrap();
    assert_eq!((source.kind(), source.first()), (Kind::Oci, "m.gguf"));
    let wrong = format!("oci://{}/a/b@{}", bench.server.host(), sha256(b"another"));
    assert!(bench.open(&wrong, bench.told()).is_err());
}

#[test]
fn a_registrys_token_that_has_expired_is_renewed_in_the_middle_of_a_blob() {
    let bench = Bench::new();
    let manifest = manifest(&[("m.gguf", &content())]);
    let blob = format!("/v2/a/b/blobs/{}", sha256(&content()));
    bench.server.put(&blob, content());
    let realm = bench.server.url("/token");
    let given = std::sync::atomic::AtomicUsize::new(0);
    bench.server.behave(move |seen| {
        let allowed = match seen.authorization.as_deref() {
            Some("Bearer t1") => true,
            Some("Bearer t0") => !is_long(seen),
            _ => false,
        };
        match seen.path.as_str() {
            "/token" => {
                let number = given.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Manner::Document(200, vec![], format!("{{\"token\":\"t{number}\"}}").into_bytes())
            }
            _ if !allowed => {
                let challenge = format!("Bearer realm=\"{realm}\"");
                Manner::Status(401, vec![("WWW-Authenticate".into(), challenge)])
            }
            path if path == blob => Manner::Serve,
            _ => Manner::Document(200, vec![], manifest.clone()),
        }
    });
    let uri = format!("oci://{}/a/b:q4", bench.server.host());
    assert_eq!(bench.read(&uri, bench.told()).unwrap(), content()[100_000..200_000]);
}

#[test]
fn the_challenge_of_a_host_that_a_redirect_led_to_is_not_obeyed() {
    let bench = Bench::new();
    let port = bench.server.address.port();
    bench.server.behave(move |seen| match seen.path.as_str() {
        "/v2/a/b/manifests/q4" => {
            Manner::Status(302, vec![("Location".into(), format!("https://127.0.0.1:{port}/far"))])
        }
        "/far" => {
            let challenge = format!("Bearer realm=\"https://127.0.0.1:{port}/token\"");
            Manner::Status(401, vec![("WWW-Authenticate".into(), challenge)])
        }
        _ => Manner::Document(200, vec![], b"{\"token\":\"granted\"}".to_vec()),
    });
    let told = SourceAccess {
        username: "name".into(),
        password: "word".into(),
        ..bench.told()
    };
    let error = bench
        .open(&format!("oci://{}/a/b:q4", bench.server.host()), told)
        .err()
        .unwrap();
    assert_eq!(error.reason(), "AccessDenied", "{error}");
    assert!(bench.server.seen().iter().all(|seen| seen.path != "/token"));
}

#[test]
fn a_manifest_that_is_not_its_digest_and_an_image_without_a_model_are_refused() {
    let bench = Bench::new();
    let none = manifest(&[("README.md", b"text")]);
    let tensors = manifest(&[("model.safetensors", b"text")]);
    let two = manifest(&[("a.gguf", b"text"), ("b.gguf", b"other")]);
    bench
        .server
        .behave(move |seen| match seen.path.rsplit('/').next().unwrap() {
            "none" => Manner::Document(200, vec![], none.clone()),
            "tensors" => Manner::Document(200, vec![], tensors.clone()),
            "two" => Manner::Document(200, vec![], two.clone()),
            _ => Manner::Document(200, vec![], b"{}".to_vec()),
        });
    let open = |version: &str| bench.open(&format!("oci://{}/a/b{version}", bench.server.host()), bench.told());
    for (version, reason, words) in [
        (":none", "Unreadable", "without a GGUF layer"),
        (":tensors", "UnsupportedFormat", "convert_hf_to_gguf"),
        (":two", "Unreadable", "several models"),
        (&format!("@{}", sha256(b"x")), "Unreadable", "a manifest that is not"),
    ] {
        let error = open(version).err().unwrap();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn claims_are_read_below_their_mount_and_nowhere_else() {
    let mut bench = Bench::new();
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("models/sub")).unwrap();
    std::fs::write(root.path().join("models/sub/m.gguf"), content()).unwrap();
    std::fs::write(root.path().join("secret"), content()).unwrap();
    std::os::unix::fs::symlink("../secret", root.path().join("models/out.gguf")).unwrap();
    std::os::unix::fs::symlink("sub/m.gguf", root.path().join("models/in.gguf")).unwrap();
    bench.setting.pvc_root = Some(root.path().to_owned());
    let read = |uri: &str| bench.read(uri, SourceAccess::default());
    assert_eq!(read("pvc://models/sub/m.gguf").unwrap(), content()[100_000..200_000]);
    assert_eq!(read("pvc://models/in.gguf").unwrap(), content()[100_000..200_000]);
    assert!(
        read("pvc://models/out.gguf")
            .unwrap_err()
            .to_string()
            .contains("out of the claim")
    );
    assert_eq!(read("pvc://models/none.gguf").unwrap_err().reason(), "SourceNotFound");
    assert_eq!(read("pvc://others/m.gguf").unwrap_err().reason(), "SourceNotFound");
    // The files beside the first one, which may be a link to elsewhere in the claim.
    std::fs::write(root.path().join("models/beside.gguf"), b"beside").unwrap();
    let source = bench.open("pvc://models/in.gguf", SourceAccess::default()).unwrap();
    let file = |name: &str| bench.runtime.block_on(source.file(name));
    assert_eq!(file("beside.gguf").unwrap().bytes(), 6);
    let error = file("out.gguf").unwrap_err().to_string();
    assert!(error.contains("out of the claim"), "{error}");
}

#[test]
fn an_image_layout_in_a_claim_is_read_inside_of_the_claim_alone() {
    let mut bench = Bench::new();
    let root = tempfile::tempdir().unwrap();
    let manifest = manifest(&[("m.gguf", &content())]);
    let layout = layout(&root.path().join("models/image"), &manifest, &content());
    bench.setting.pvc_root = Some(root.path().to_owned());
    let read = || bench.read("pvc://models/image", SourceAccess::default());
    let hex = |bytes: &[u8]| sha256(bytes)["sha256:".len()..].to_owned();
    assert_eq!(read().unwrap(), content()[100_000..200_000]);
    for (name, bytes) in [(hex(&content()), content()), (hex(&manifest), manifest)] {
        std::fs::remove_file(layout.join(&name)).unwrap();
        std::fs::write(root.path().join(&name), bytes).unwrap();
        std::os::unix::fs::symlink(root.path().join(&name), layout.join(&name)).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains("out of the claim"), "{error}");
    }
}

/// Writes an image layout and gives the folder of its blobs.
fn layout(folder: &Path, manifest: &[u8], blob: &[u8]) -> PathBuf {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    for bytes in [manifest, blob] {
        std::fs::write(blobs.join(&sha256(bytes)["sha256:".len()..]), bytes).unwrap();
    }
    std::fs::write(folder.join("oci-layout"), b"{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    std::fs::write(folder.join("index.json"), index_of(manifest)).unwrap();
    blobs
}

#[test]
fn indexes_of_an_image_layout_that_name_each_other_come_to_an_end() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(&[("m.gguf", &content())]);
    let blobs = layout(folder.path(), &manifest, &content());
    let names = [
        "sha256:".to_owned() + &"a".repeat(64),
        "sha256:".to_owned() + &"b".repeat(64),
    ];
    for (own, other) in [(&names[0], &names[1]), (&names[1], &names[0])] {
        let index = serde_json::json!({"manifests": [{"digest": other, "size": 1}]}).to_string();
        std::fs::write(blobs.join(&own["sha256:".len()..]), &index).unwrap();
        std::fs::write(folder.path().join("index.json"), index).unwrap();
    }
    let uri = format!("file://{}", folder.path().display());
    let error = bench.open(&uri, SourceAccess::default()).err().unwrap();
    assert!(error.to_string().contains("a manifest that is not"), "{error}");
    // As deep as no image is.
    let mut digest = sha256(&manifest);
    for _ in 0..5 {
        let index = serde_json::json!({"manifests": [{"digest": digest, "size": 1}]}).to_string();
        digest = sha256(index.as_bytes());
        std::fs::write(blobs.join(&digest["sha256:".len()..]), &index).unwrap();
        std::fs::write(folder.path().join("index.json"), index).unwrap();
    }
    let error = bench.open(&uri, SourceAccess::default()).err().unwrap();
    assert!(error.to_string().contains("name each other"), "{error}");
}

#[test]
fn a_layer_that_is_not_what_its_manifest_says_is_no_model() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let model = tiny_model::bytes(3);
    let blobs = layout(folder.path(), &manifest(&[("m.gguf", &model)]), &model);
    let node = rig::Node::new(&bench.runtime);
    let inspect = || {
        let uri = format!("file://{}", folder.path().display());
        rig::inspect(&bench.runtime, &node.models, &uri, None, &[])
    };
    inspect().unwrap();
    let mut damaged = model.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(blobs.join(&sha256(&model)["sha256:".len()..]), damaged).unwrap();
    let fault = inspect().unwrap_err();
    assert_eq!(fault.reason, "DigestMismatch");
    assert!(fault.message.contains("its manifest says"), "{}", fault.message);
}

#[test]
fn an_image_layout_in_a_folder_is_a_source() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    layout(folder.path(), &manifest(&[("m.gguf", &content())]), &content());
    let uri = format!("file://{}", folder.path().display());
    assert_eq!(
        bench.read(&uri, SourceAccess::default()).unwrap(),
        content()[100_000..200_000]
    );
}
