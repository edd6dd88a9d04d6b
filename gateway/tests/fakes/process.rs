//! The gateway's own executable.

use std::cell::RefCell;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use gateway::args::{Args, IdentitySource};
use gateway::run::Addresses;
use rustix::process::{Pid, Signal, kill_process};

use super::until;

/// How it is started as `args` say.
pub fn command(args: &Args) -> Command {
    let IdentitySource::Directory(identity) = &args.identity else {
        panic!("a world's gateway does not enrol")
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardwright-gateway"));
    command.env_remove("SHARDWRIGHT_LOG");
    command.args(["--pod-name", "gateway-0", "--operator-control", &args.operator_control]);
    command.arg("--identity-dir").arg(identity);
    command.arg("--api-keys").arg(&args.api_keys);
    command.arg("--tokenizer").arg(&args.tokenizer);
    command.arg("--state-dir").arg(&args.state_dir);
    command.args(["--listen", &args.listen.to_string()]);
    command.args(["--admin-listen", &args.admin_listen.to_string()]);
    if let Some(certificate) = &args.user_certificate {
        command.arg("--tls-cert").arg(&certificate.chain);
        command.arg("--tls-key").arg(&certificate.key);
    }
    command
}

/// One that runs.
pub struct GatewayProcess {
    child: Child,
    log: PathBuf,
}

impl GatewayProcess {
    pub fn start(args: &Args, log: &Path) -> Self {
        let child = command(args).stderr(File::create(log).unwrap()).spawn().unwrap();
        Self {
            child,
            log: log.to_owned(),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Where it serves, once it does.
    pub async fn addresses(&self) -> Addresses {
        until("a gateway that serves", || async { serving(&self.log()).is_some() }).await;
        serving(&self.log()).expect("it serves")
    }

    /// Tells it to end, and waits until it has.
    pub async fn terminated(mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let child = RefCell::new(&mut self.child);
        until("the gateway's end", || async {
            child.borrow_mut().try_wait().unwrap().is_some()
        })
        .await;
        self.child.wait().unwrap()
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From the line that tells them.
fn serving(log: &str) -> Option<Addresses> {
    let line = log.lines().find(|line| line.contains("Addresses {"))?;
    let address = |port: &str| -> Option<SocketAddr> {
        let (_, address) = line.split_once(port)?;
        address.split([',', ' ']).next()?.parse().ok()
    };
    Some(Addresses {
        user: address("user: ")?,
        admin: address("admin: ")?,
    })
}
