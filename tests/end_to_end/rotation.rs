//! Another authority takes the place of the one whose certificates all parts know each other by, while clients ask without a pause.

use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use localplane::assets;
use localplane::stack::{NAMESPACE, Part, run};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::Value;

use super::serving::Serving;
use super::{LIMIT, Seen, until};

/// Two phases of their least time, and all renewals.
const ROTATED_WITHIN: Duration = Duration::from_secs(300);

impl Serving {
    /// The tool, as an administrator runs it.
    fn tool(&self, arguments: &[&str]) -> String {
        let kubectl = assets::kubectl().expect("kubectl");
        let mut tool = Command::new(assets::own("kubectl-shardwright").expect("the tool"));
        tool.env("PATH", kubectl.parent().expect("a folder"))
            .env("KUBECONFIG", self.here.stack.plane().kubeconfig());
        run(tool.args(arguments).args(["-n", NAMESPACE])).expect("it does so")
    }

    /// What is told of the authority.
    fn authority(&self) -> Value {
        let told = self.tool(&["authority", "status", "-O", "json"]);
        serde_json::from_str(&told).expect("JSON")
    }

    fn is_rotated(&self) -> bool {
        let told = self.authority();
        told["phase"] == "steady" && !told["honoured"].is_null() && told["honoured"] == told["askedFor"]
    }

    /// How often operators were asked for leaves by agents and gateways.
    async fn issued(&self) -> f64 {
        let mut sum = 0.0;
        for part in self.here.stack.parts() {
            if matches!(part, Part::Operator(_)) {
                let metrics = self.here.stack.metrics(&part).await.expect("metrics");
                sum += metrics.value("shardwright_operator_enrolments_total");
            }
        }
        sum
    }

    /// Waits until they were asked so often.
    async fn has_issued(&self, wanted: f64) {
        let look = async || -> localplane::Result<Seen<()>> {
            let issued = self.issued().await;
            Ok(if issued >= wanted {
                Seen::Done(())
            } else {
                Seen::Not(format!("{issued} of {wanted}"))
            })
        };
        until("the last leaves are asked for", LIMIT, look)
            .await
            .expect("issued");
    }
}

/// A copy of an agent's leaf and key.
fn stolen(from: &Path, to: &Path) -> PathBuf {
    std::fs::create_dir_all(to).expect("a folder");
    for name in ["leaf.pem", "key.pem"] {
        std::fs::copy(from.join(name), to.join(name)).expect("copied");
    }
    to.to_owned()
}

/// What an operator says to whoever shows this leaf at its control port, and trusts this bundle.
fn said_to(leaf: &Path, bundle: &Path, endpoint: &str) -> Result<usize, String> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(bundle).expect("a bundle") {
        roots.add(authority.expect("a certificate")).expect("an authority");
    }
    let chain = CertificateDer::pem_file_iter(leaf.join("leaf.pem")).expect("a leaf");
    let chain = chain.map(|certificate| certificate.expect("a certificate")).collect();
    let key = PrivateKeyDer::from_pem_file(leaf.join("key.pem")).expect("a key");
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_client_auth_cert(chain, key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut socket = TcpStream::connect(endpoint).expect("connected");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    // The first words of HTTP/2, or why there are none.
    let mut words = [0; 1];
    let said = rustls::Stream::new(&mut connection, &mut socket).read(&mut words);
    said.map_err(|error| error.to_string())
}

#[tokio::test]
#[ignore = "make test-long: 240 s"]
async fn clients_do_not_notice_that_another_authority_takes_the_place_of_the_present_one_whose_leaves_are_refused_then()
{
    let mut serving = Serving::start_with(3, 2).await;
    serving.everybody_is_heard().await;
    let (workers, processes) = (serving.workers(), serving.here.stack.parts().len());
    let head = serving.here.stack.state_dir(&serving.head).join("identity");
    let old = stolen(&head, &serving.here.dir.path().join("stolen"));
    let endpoint = serving.here.stack.control_endpoint();
    assert_eq!(said_to(&old, serving.here.stack.bundle(), &endpoint), Ok(1));

    let (began, issued) = (Instant::now(), serving.issued().await);
    serving.tool(&["authority", "rotate"]);
    while !serving.is_rotated() {
        assert!(began.elapsed() < ROTATED_WITHIN, "{}", serving.authority());
        serving.expect(serving.story().await).await;
        serving.here.stack.mount_trust_again().await.expect("mounted");
    }
    println!("another authority after {:?}", began.elapsed());
    // Each agent and gateway has renewed in each of the three steps; both operators by themselves.
    serving.has_issued(issued + 3.0 * (processes - 2) as f64).await;
    serving.here.stack.mount_trust_again().await.expect("mounted");

    serving.everybody_is_heard().await;
    serving.expect(serving.story().await).await;
    serving.serve_on(&workers);
    let after = serving.here.ready("m").await;
    assert_eq!(after["status"]["placement"]["epoch"].as_i64(), Some(serving.epoch));
    let bundle = serving.here.stack.bundle();
    let refused = said_to(&old, bundle, &endpoint).expect_err("a leaf of the old authority");
    assert!(
        refused.contains("UnknownCA") || refused.contains("unknown"),
        "{refused}"
    );
    assert_eq!(said_to(&head, bundle, &endpoint), Ok(1));
    serving.answers().await;
}
