//! etcd and kube-apiserver on loopback.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::certificates::Certificates;
use crate::ports::free_port;
use crate::process::{self, Process};
use crate::wait::{Seen, until};
use crate::{Error, Result, assets, file, folder};

/// The user of the kubeconfig, by a static token: a member of system:masters.
const ADMIN_TOKEN: &str = "local-admin";
/// The API server builds its role objects after it starts to answer; ready takes 3-6 s on two cores.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// The first file in a plane's folder: what holds it may be emptied for the next run.
const MARKER: &str = ".localplane";
/// What etcd keeps, in a plane's folder.
const DATA: &str = "etcd";
/// In the API server's certificate, whatever address it is reached at.
const SERVER_NAME: &str = "localhost";
/// The audience that Shardwright's enrolment asks tokens for.
pub const ENROL_AUDIENCE: &str = "shardwright-enrol";

/// A running control plane. Dropping it ends both processes; its directory stays with the caller.
pub struct Plane {
    dir: PathBuf,
    url: String,
    /// What processes in Pods dial: the API server, or what stands in front of it.
    pods_url: String,
    certificates: Certificates,
    client: kube::Client,
    // Dropped in this order: killed, because their data goes with them.
    apiserver: Process,
    apiserver_command: Command,
    etcd: Process,
    etcd_command: Command,
}

impl Plane {
    /// Starts a fresh control plane with its data, keys and logs in `dir` and waits until it is ready.
    pub async fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(file(dir))?;
        let marker = dir.join(MARKER);
        std::fs::write(&marker, "").map_err(file(&marker))?;
        // Kubeconfigs name files in it, and are read from anywhere.
        let dir = &dir.canonicalize().map_err(file(dir))?;
        let certificates = Certificates::generate(dir)?;
        let (client_port, peer_port, api_port) = (free_port()?, free_port()?, free_port()?);
        let etcd_command = etcd_command(dir, client_port, peer_port)?;
        let etcd = spawn_etcd(dir, &etcd_command)?;
        let apiserver_command = apiserver_command(dir, &certificates, client_port, api_port)?;
        let apiserver = spawn_apiserver(dir, &apiserver_command)?;
        let url = format!("https://127.0.0.1:{api_port}");
        write_kubeconfig(
            &dir.join("kubeconfig"),
            &url,
            &certificates,
            &Credential::Token(ADMIN_TOKEN),
        )?;
        let client = crate::client::from_kubeconfig(&dir.join("kubeconfig")).await?;
        let mut plane = Self {
            dir: dir.to_owned(),
            pods_url: url.clone(),
            url,
            certificates,
            client,
            apiserver,
            apiserver_command,
            etcd,
            etcd_command,
        };
        plane.wait_until_ready().await?;
        Ok(plane)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let (apiserver, client) = (&mut self.apiserver, &self.client);
        until("the API server is ready", READY_LIMIT, || {
            let alive = apiserver.check();
            let client = client.clone();
            async move {
                alive?;
                let request = http::Request::get("/readyz")
                    .body(Vec::new())
                    .map_err(|error| Error::Other(error.to_string()))?;
                match client.request_text(request).await {
                    Ok(_) => Ok(Seen::Done(())),
                    Err(error) => Ok(Seen::Not(error.to_string())),
                }
            }
        })
        .await
    }

    /// Kills the API server; etcd keeps what it has.
    pub fn kill_apiserver(&mut self) {
        self.apiserver.kill();
    }

    /// Starts the API server again, on the same port and the same data, and waits until it is ready.
    pub async fn restart_apiserver(&mut self) -> Result<()> {
        self.apiserver.kill();
        self.apiserver = spawn_apiserver(&self.dir, &self.apiserver_command)?;
        self.wait_until_ready().await
    }

    /// The API server stands still: connections to it are made, and nothing is answered.
    pub fn freeze_apiserver(&self) {
        process::freeze(self.apiserver.id());
    }

    /// The API server goes on where it stood still; waits until it is ready.
    pub async fn thaw_apiserver(&mut self) -> Result<()> {
        process::thaw(self.apiserver.id());
        self.wait_until_ready().await
    }

    /// Kills etcd under an API server that lives; what it has stays.
    pub fn kill_etcd(&mut self) {
        self.etcd.kill();
    }

    /// Starts etcd again, on the same ports and the same data, and waits until the API server is ready with it.
    pub async fn restart_etcd(&mut self) -> Result<()> {
        self.etcd.kill();
        self.etcd = spawn_etcd(&self.dir, &self.etcd_command)?;
        self.wait_until_ready().await
    }

    /// Ends both, copies what etcd has to `to`, and starts both again.
    pub async fn save(&mut self, to: &Path) -> Result<()> {
        self.kill();
        folder::copy(&self.dir.join(DATA), to)?;
        self.start_again().await
    }

    /// Ends both and starts them on what was saved: whatever happened since never did.
    pub async fn restore(&mut self, from: &Path) -> Result<()> {
        self.kill();
        let data = self.dir.join(DATA);
        std::fs::remove_dir_all(&data).map_err(file(&data))?;
        folder::copy(from, &data)?;
        self.start_again().await
    }

    fn kill(&mut self) {
        self.apiserver.kill();
        self.etcd.kill();
    }

    async fn start_again(&mut self) -> Result<()> {
        self.etcd = spawn_etcd(&self.dir, &self.etcd_command)?;
        self.restart_apiserver().await
    }

    /// The API server's own address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the API server listens.
    pub fn address(&self) -> Result<SocketAddr> {
        let address = self.url.trim_start_matches("https://").parse();
        address.map_err(|error| Error::Other(format!("{}: {error}", self.url)))
    }

    /// Of the API server.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Pods that start from now on dial this in the API server's place. What answers must have its certificate, or one of its name and
    /// authority.
    pub fn reach_pods_through(&mut self, url: &str) {
        url.clone_into(&mut self.pods_url);
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// A new client with the administrator's rights.
    pub async fn client(&self) -> Result<kube::Client> {
        crate::client::from_kubeconfig(&self.kubeconfig()).await
    }

    /// A kubeconfig for a process that reads its token from `token`, as a Pod does.
    pub fn write_kubeconfig(&self, to: &Path, token: &Path) -> Result<()> {
        write_kubeconfig(to, &self.pods_url, &self.certificates, &Credential::TokenFile(token))
    }

    /// `kubectl` with the administrator's kubeconfig.
    pub fn kubectl(&self) -> Result<Command> {
        let mut command = Command::new(assets::kubectl()?);
        command.arg("--kubeconfig").arg(self.kubeconfig());
        Ok(command)
    }

    /// `helm` with the administrator's kubeconfig and a home of its own.
    pub fn helm(&self) -> Result<Command> {
        let mut command = Command::new(assets::helm()?);
        command.arg("--kubeconfig").arg(self.kubeconfig());
        for (key, folder) in [
            ("HELM_CACHE_HOME", "cache"),
            ("HELM_CONFIG_HOME", "config"),
            ("HELM_DATA_HOME", "data"),
        ] {
            command.env(key, self.dir.join("helm").join(folder));
        }
        Ok(command)
    }
}

/// Empties the folder of an earlier plane, and refuses to empty anything else.
pub fn clear(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let holds_something = std::fs::read_dir(dir).map_err(file(dir))?.next().is_some();
    if holds_something && !dir.join(MARKER).exists() {
        return Err(Error::Other(format!(
            "{} holds files of something else; name an empty folder or a new one",
            dir.display()
        )));
    }
    std::fs::remove_dir_all(dir).map_err(file(dir))
}

fn spawn_etcd(dir: &Path, command: &Command) -> Result<Process> {
    Process::spawn("etcd", command, &dir.join("etcd.log"))
}

fn etcd_command(dir: &Path, client_port: u16, peer_port: u16) -> Result<Command> {
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let mut command = Command::new(assets::etcd()?);
    command
        .arg("--data-dir")
        .arg(dir.join(DATA))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        // The data dies with the plane, so nothing is gained by waiting for the disk.
        .args(["--unsafe-no-fsync=true", "--log-level", "warn"]);
    Ok(command)
}

fn spawn_apiserver(dir: &Path, command: &Command) -> Result<Process> {
    Process::spawn("kube-apiserver", command, &dir.join("kube-apiserver.log"))
}

fn apiserver_command(dir: &Path, certificates: &Certificates, etcd_port: u16, port: u16) -> Result<Command> {
    let users = dir.join("users.csv");
    std::fs::write(
        &users,
        format!("{ADMIN_TOKEN},local-admin,local-admin,system:masters\n"),
    )
    .map_err(file(&users))?;
    let issuer = "https://kubernetes.default.svc";
    let mut command = Command::new(assets::kube_apiserver()?);
    command
        .args(["--etcd-servers", &format!("http://127.0.0.1:{etcd_port}")])
        .args(["--bind-address", "127.0.0.1", "--secure-port", &port.to_string()])
        .arg("--tls-cert-file")
        .arg(&certificates.server)
        .arg("--tls-private-key-file")
        .arg(&certificates.server_key)
        .args(["--service-cluster-ip-range", "10.0.0.0/24"])
        .args(["--service-account-issuer", issuer])
        .arg("--service-account-key-file")
        .arg(&certificates.token_public_key)
        .arg("--service-account-signing-key-file")
        .arg(&certificates.token_key)
        .args(["--api-audiences", &format!("{issuer},{ENROL_AUDIENCE}")])
        .args(["--authorization-mode", "Node,RBAC"])
        .arg("--token-auth-file")
        .arg(&users)
        // No controller-manager runs that would fill in what this plug-in waits for.
        .args(["--disable-admission-plugins", "ServiceAccount"])
        .args(["--endpoint-reconciler-type", "none"]);
    Ok(command)
}

enum Credential<'a> {
    Token(&'a str),
    TokenFile(&'a Path),
}

fn write_kubeconfig(to: &Path, url: &str, certificates: &Certificates, credential: &Credential<'_>) -> Result<()> {
    let authority = std::fs::read(&certificates.authority).map_err(file(&certificates.authority))?;
    let user = match credential {
        Credential::Token(token) => serde_json::json!({ "token": token }),
        Credential::TokenFile(path) => serde_json::json!({ "tokenFile": path }),
    };
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "local",
        "clusters": [{ "name": "local", "cluster": {
            "server": url, "certificate-authority-data": BASE64.encode(authority), "tls-server-name": SERVER_NAME,
        } }],
        "users": [{ "name": "local", "user": user }],
        "contexts": [{ "name": "local", "context": { "cluster": "local", "user": "local" } }],
    });
    // JSON is YAML.
    std::fs::write(to, format!("{config:#}\n")).map_err(file(to))
}
