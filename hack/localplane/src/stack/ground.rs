//! Where the parts run: all of them on loopback, or every node on a host of its own, behind links that can be made worse.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use linkemu::network::{HERE, Network};

use crate::plane::Plane;
use crate::service::Service;
use crate::{Error, Result};

/// See the module. What runs on it must have ended before it is dropped.
pub(super) enum Ground {
    Loopback,
    Apart {
        network: Network,
        /// In front of the API server, which listens on loopback alone.
        _api: Service,
    },
}

impl Ground {
    /// A host for each of the nodes; control plane, operators and gateways stay on this one. Pods reach the API server over their links.
    pub(super) fn apart(plane: &mut Plane, nodes: &[&str], seed: u64) -> Result<Self> {
        let network = Network::new(nodes, seed)?;
        let here = network.address(HERE).unwrap_or(Ipv4Addr::LOCALHOST);
        let api = Service::start(here.into(), vec![plane.address()?])?;
        plane.reach_pods_through(&format!("https://{here}:{}", api.port()));
        Ok(Self::Apart { network, _api: api })
    }

    pub(super) fn network(&self) -> Option<&Network> {
        match self {
            Self::Loopback => None,
            Self::Apart { network, .. } => Some(network),
        }
    }

    /// Where nodes find operators.
    pub(super) fn here(&self) -> IpAddr {
        self.address(HERE)
    }

    /// Where others find what runs on a node.
    pub(super) fn address(&self, node: &str) -> IpAddr {
        let address = self.network().and_then(|network| network.address(node));
        address.unwrap_or(Ipv4Addr::LOCALHOST).into()
    }

    /// A port on an address that others reach, `host:port`.
    pub(super) fn endpoint(&self, port: u16) -> String {
        SocketAddr::new(self.here(), port).to_string()
    }

    /// A command that runs `program` on a node.
    pub(super) fn command(&self, node: &str, program: &Path) -> Command {
        let Some(namespace) = self.network().and_then(|network| network.namespace(node)) else {
            return Command::new(program);
        };
        // It becomes the program: the process id is the program's.
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", namespace.path().display()))
            .arg("--")
            .arg(program);
        command
    }
}

impl From<linkemu::Error> for Error {
    fn from(error: linkemu::Error) -> Self {
        Self::Other(error.to_string())
    }
}
