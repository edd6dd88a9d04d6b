//! How a gateway gets its identity and keeps it, against a real enrolment port.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "each test file uses its own part of the fakes")]
mod fakes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fakes::{LIMIT, Process, Trust, steps, until};
use gateway::args::IdentitySource;
use gateway::enrolment::Enroller;
use identity::tls::{ALPN_GRPC, server_config_open};
use identity::{Authority, DEFAULT_LEAF_LIFETIME, Held, Role, SpiffeId, Wanted};
use proto::control::v1::enrolment_server::{Enrolment, EnrolmentServer};
use proto::control::v1::{EnrolRequest, EnrolResponse};
use scarcity::disk::Disk;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};

const TOKEN: &str = "a-token";

#[derive(Clone)]
struct Service {
    trust: Arc<Trust>,
    /// Of the leaves that are issued from now on.
    lifetime: Arc<Mutex<Duration>>,
    /// Issues them instead, where there is one.
    other: Arc<Mutex<Option<Authority>>>,
}

#[tonic::async_trait]
impl Enrolment for Service {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let EnrolRequest {
            csr_der,
            service_account_token,
            role,
        } = request.into_inner();
        assert_eq!(role, i32::from(proto::control::v1::Role::Gateway));
        if service_account_token != TOKEN {
            return Err(Status::unauthenticated("the token does not stand"));
        }
        let id = SpiffeId::new(
            "shardwright",
            Role::Gateway {
                pod: "gateway-0".into(),
            },
        )
        .unwrap();
        let lifetime = *self.lifetime.lock().unwrap();
        let other = self.other.lock().unwrap();
        let authority = other.as_ref().unwrap_or(&self.trust.authority);
        let leaf = authority
            .issue(&csr_der, &id, &[], lifetime, SystemTime::now())
            .unwrap();
        let placement_keys = vec![self.trust.signer.public_key().to_vec()];
        Ok(Response::new(EnrolResponse {
            leaf: Some(leaf.into()),
            placement_keys,
        }))
    }
}

struct Fixture {
    trust: Arc<Trust>,
    lifetime: Arc<Mutex<Duration>>,
    other: Arc<Mutex<Option<Authority>>>,
    process: Process,
    endpoint: SocketAddr,
    directory: tempfile::TempDir,
}

impl Fixture {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let trust = Arc::new(Trust::new());
        let credentials = trust.credentials(Role::Operator {
            pod: "operator-0".into(),
        });
        let mut services = RoutesBuilder::default();
        let service = Service {
            trust: Arc::clone(&trust),
            lifetime: Arc::new(Mutex::new(DEFAULT_LEAF_LIFETIME)),
            other: Arc::default(),
        };
        let (lifetime, other) = (Arc::clone(&service.lifetime), Arc::clone(&service.other));
        services.add_service(EnrolmentServer::new(service));
        let (process, endpoint) = Process::start(server_config_open(&credentials, ALPN_GRPC), services).await;
        let fixture = Self {
            trust,
            lifetime,
            other,
            process,
            endpoint,
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::write(fixture.file("bundle.pem"), fixture.trust.authority.bundle_pem()).unwrap();
        std::fs::write(fixture.file("token"), TOKEN).unwrap();
        fixture
    }

    fn issues_for(&self, lifetime: Duration) {
        *self.lifetime.lock().unwrap() = lifetime;
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn enroller(&self, pod_name: &str) -> Enroller {
        Enroller {
            source: IdentitySource::Enrolment {
                endpoint: self.endpoint.to_string(),
                trust_bundle: self.file("bundle.pem"),
                token: self.file("token"),
            },
            directory: self.file("identity"),
            pod_name: Some(pod_name.to_owned()),
        }
    }

    /// The gateway of this one, where the other's operator is.
    fn enroller_at(&self, other: &Self) -> Enroller {
        Enroller {
            source: IdentitySource::Enrolment {
                endpoint: other.endpoint.to_string(),
                trust_bundle: self.file("bundle.pem"),
                token: other.file("token"),
            },
            ..self.enroller("gateway-0")
        }
    }
}

#[tokio::test]
async fn a_gateway_enrols_as_soon_as_its_token_stands() {
    let fixture = Fixture::start().await;
    std::fs::write(fixture.file("token"), "not yet").unwrap();
    let enroller = fixture.enroller("gateway-0");
    let (identified, ()) = tokio::join!(tokio::time::timeout(LIMIT, enroller.first()), async {
        std::fs::write(fixture.file("token"), TOKEN).unwrap();
    });
    let identified = identified.unwrap().unwrap();
    assert_eq!(
        identified.credentials.spiffe_id().to_string(),
        "spiffe://shardwright/gateway/gateway-0"
    );
    let signed = fixture.trust.signer.sign(&proto::placement::v1::Placement::default());
    assert!(
        identified.verifier.load().verify(&signed).is_ok(),
        "it knows the key that signs placements"
    );
}

#[tokio::test]
async fn the_identity_kept_from_before_serves_while_the_operator_is_away() {
    let fixture = Fixture::start().await;
    let first = fixture.enroller("gateway-0").first().await.unwrap();
    fixture.process.kill();
    let again = tokio::time::timeout(LIMIT, fixture.enroller("gateway-0").first())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again.credentials.identity(), first.credentials.identity());
    // One of another pod is no identity of ours: it waits.
    let other = tokio::time::timeout(Duration::from_secs(1), async {
        fixture.enroller("gateway-1").first().await
    })
    .await;
    assert!(other.is_err());
}

#[tokio::test]
async fn an_identity_that_a_full_disk_does_not_take_is_used_all_the_same() {
    let Some(disk) = Disk::of(1 << 20) else { return };
    disk.fill_but(0).unwrap();
    let fixture = Fixture::start().await;
    let enroller = Enroller {
        directory: disk.path().join("identity"),
        ..fixture.enroller("gateway-0")
    };
    let identified = tokio::time::timeout(LIMIT, enroller.first()).await.unwrap().unwrap();
    assert_eq!(
        identified.credentials.spiffe_id().to_string(),
        "spiffe://shardwright/gateway/gateway-0"
    );
    assert!(!disk.path().join("identity/leaf.pem").exists());
}

#[tokio::test]
async fn an_identity_is_renewed_from_half_its_life_and_stays_when_that_fails() {
    let fixture = Fixture::start().await;
    let enroller = fixture.enroller("gateway-0");
    let identified = enroller.first().await.unwrap();
    let first = identified.credentials.identity();
    enroller.renew(&identified, SystemTime::now()).await.unwrap();
    assert_eq!(identified.credentials.identity(), first, "nothing is due yet");
    let later = SystemTime::now() + DEFAULT_LEAF_LIFETIME / 2;
    enroller.renew(&identified, later).await.unwrap();
    let second = identified.credentials.identity();
    assert_ne!(second, first);
    fixture.process.kill();
    assert!(enroller.renew(&identified, later).await.is_err());
    assert_eq!(identified.credentials.identity(), second);
}

#[tokio::test]
async fn an_identity_kept_from_before_that_has_ended_is_not_taken_and_the_token_gets_another() {
    let fixture = Fixture::start().await;
    fixture.issues_for(Duration::from_secs(1));
    let kept = fixture.enroller("gateway-0").first().await.unwrap().credentials;
    until("its end", || async { kept.not_after() < SystemTime::now() }).await;
    fixture.issues_for(DEFAULT_LEAF_LIFETIME);
    std::fs::write(fixture.file("token"), "not yet").unwrap();
    let enroller = fixture.enroller("gateway-0");
    let (identified, ()) = tokio::join!(tokio::time::timeout(LIMIT, enroller.first()), async {
        std::fs::write(fixture.file("token"), TOKEN).unwrap();
    });
    let taken = identified.unwrap().unwrap().credentials;
    assert_ne!(taken.identity(), kept.identity());
    assert!(taken.not_after() > SystemTime::now());
}

#[tokio::test]
async fn leaves_of_seconds_are_renewed_again_and_again_and_after_one_has_ended_for_want_of_another_too() {
    let lifetime = Duration::from_secs(3);
    let fixture = Fixture::start().await;
    fixture.issues_for(lifetime);
    let enroller = fixture.enroller("gateway-0");
    let identified = enroller.first().await.unwrap();
    let end = || identified.credentials.not_after();
    let (first, followed) = (end(), identified.clone());
    let remaining_s = Arc::new(AtomicI64::new(0));
    let told = Arc::clone(&remaining_s);
    let following = tokio::spawn(async move {
        enroller
            .follow(&followed, |left_s| told.store(left_s, Ordering::SeqCst))
            .await;
    });
    until("a leaf of after the first one's end", || async {
        end() > first + lifetime
    })
    .await;

    std::fs::write(fixture.file("token"), "not any more").unwrap();
    until("the end of the last one", || async {
        remaining_s.load(Ordering::SeqCst) < 0
    })
    .await;
    assert!(end() < SystemTime::now());
    std::fs::write(fixture.file("token"), TOKEN).unwrap();
    until("another one", || async { end() > SystemTime::now() }).await;
    following.abort();
}

#[tokio::test]
async fn an_identity_of_an_authority_that_is_mounted_no_more_is_renewed_at_once() {
    let (old, new) = (Fixture::start().await, Fixture::start().await);
    let identified = old.enroller("gateway-0").first().await.unwrap();
    let first = identified.credentials.identity();
    let (mounted, enroller) = (old.file("bundle.pem"), old.enroller_at(&new));
    enroller.renew(&identified, SystemTime::now()).await.unwrap();
    std::fs::remove_file(&mounted).unwrap();
    enroller.renew(&identified, SystemTime::now()).await.unwrap();
    assert_eq!(identified.credentials.identity(), first, "nothing is due");
    std::fs::write(&mounted, new.trust.authority.bundle_pem()).unwrap();
    enroller.renew(&identified, SystemTime::now()).await.unwrap();
    let second = identified.credentials.identity();
    assert_eq!(second.bundle_pem, new.trust.authority.bundle_pem());
}

#[tokio::test]
async fn an_identity_that_trusts_all_who_are_mounted_is_renewed_where_its_own_authority_is_none_of_them() {
    let (old, new) = (Fixture::start().await, Fixture::start().await);
    let (issues, takes_over) = (&old.trust.authority, &new.trust.authority);
    let again = Authority::from_pem(issues.cert_pem(), &issues.key_pem()).unwrap();
    *old.other.lock().unwrap() = Some(again.beside(takes_over.cert_pem()).unwrap());
    let identified = old.enroller("gateway-0").first().await.unwrap();
    let first = identified.credentials.identity();
    std::fs::write(old.file("bundle.pem"), &first.bundle_pem).unwrap();
    let enroller = old.enroller_at(&new);
    enroller.renew(&identified, SystemTime::now()).await.unwrap();
    assert_eq!(identified.credentials.identity(), first, "both are mounted");
    std::fs::write(old.file("bundle.pem"), takes_over.bundle_pem()).unwrap();
    enroller.renew(&identified, SystemTime::now()).await.unwrap();
    assert_eq!(identified.credentials.identity().bundle_pem, takes_over.bundle_pem());
}

#[tokio::test]
async fn an_identity_is_another_as_soon_as_the_operator_wishes_and_what_is_mounted_and_behind_takes_nothing_back() {
    let fixture = Fixture::start().await;
    let enroller = fixture.enroller("gateway-0");
    let identified = enroller.first().await.unwrap();
    let [prepared, ..] = steps(&fixture.trust.authority);
    let wanted = Wanted::of(&prepared, Duration::ZERO);
    *fixture.other.lock().unwrap() = Some(prepared);
    let (following, followed) = (fixture.enroller("gateway-0"), identified.clone());
    let following = tokio::spawn(async move { following.follow(&followed, |_| {}).await });
    identified.wishes.tell(Some(wanted.clone()));
    until("it trusts both", || async {
        Held::of(&identified.credentials.identity()).unwrap().is(&wanted)
    })
    .await;
    following.abort();

    let held = identified.credentials.identity();
    for heard in [Some(wanted), None] {
        identified.wishes.tell(heard);
        enroller.renew(&identified, SystemTime::now()).await.unwrap();
        assert_eq!(identified.credentials.identity(), held);
    }
}

#[tokio::test]
async fn a_directory_without_an_identity_is_an_error_and_a_changed_one_is_taken_up() {
    let fixture = Fixture::start().await;
    let directory = fixture.file("given");
    std::fs::create_dir(&directory).unwrap();
    let source = IdentitySource::Directory(directory.clone());
    let enroller = Enroller {
        source,
        directory: fixture.file("identity"),
        pod_name: None,
    };
    assert!(enroller.first().await.is_err());
    let store = || {
        fixture
            .trust
            .identity(Role::Gateway {
                pod: "gateway-0".into(),
            })
            .store(&directory)
            .unwrap();
        identity::sign::store_keys(&directory, &[fixture.trust.signer.public_key().to_vec()]).unwrap();
    };
    store();
    let identified = enroller.first().await.unwrap();
    let first = identified.credentials.identity();
    store();
    enroller.renew(&identified, SystemTime::now()).await.unwrap();
    assert_ne!(identified.credentials.identity(), first);
}
