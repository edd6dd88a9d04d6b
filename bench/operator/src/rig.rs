//! The control plane, the operator and the agents, started.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use crds::names;
use futures::{StreamExt, TryStreamExt};
use identity::{Authority, Credentials, DEFAULT_LEAF_LIFETIME, Identity, KeyPair, Role, SpiffeId};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use localplane::plane::Plane;
use localplane::stack::{NAMESPACE, Part, Shape, Stack};
use localplane::wait::{Seen, until};
use localplane::{Error, Result};

use crate::agents::{Agents, Ground};
use crate::cluster::{self, Size};
use crate::objects::Objects;
use crate::watch::Observer;

/// Requests under way while the cluster is made: the API server is the one that is waited for.
const CONCURRENT: usize = 16;
const ATTACH_LIMIT: Duration = Duration::from_secs(180);

/// All of it. Parts end in this order.
pub struct Rig {
    pub agents: Agents,
    pub observer: Observer,
    pub ground: Arc<Ground>,
    pub stack: Stack,
}

impl Rig {
    /// Starts a control plane in `dir`, makes nodes and devices, starts the operator, and has every agent attach.
    pub async fn start(dir: &Path, size: Size) -> Result<Self> {
        println!("starting etcd, kube-apiserver and the operator");
        let plane = Plane::start(dir).await?;
        let client = plane.client().await?;
        let shape = Shape {
            agents: Vec::new(),
            operators: 1,
            gateways: 0,
            links: None,
        };
        let stack = Stack::start_on(plane, &shape, &mut |_| {}).await?;
        let ground = Arc::new(Ground {
            objects: Objects::new(client.clone()),
            operator: stack.control_endpoint(),
            devices_per_node: size.devices_per_node,
            attached: AtomicUsize::new(0),
            told: AtomicUsize::new(0),
        });
        println!(
            "making {} nodes with {} devices each",
            size.nodes, size.devices_per_node
        );
        let nodes = (0..size.nodes).map(|node| ground.objects.node(node, size.devices_per_node));
        futures::stream::iter(nodes)
            .buffer_unordered(CONCURRENT)
            .try_collect::<Vec<()>>()
            .await?;
        println!("attaching {} agents", size.nodes);
        let identities = identities(&client, size.nodes).await?;
        let agents = Agents::start(&ground, identities);
        let observer = Observer::start(client);
        let mut rig = Self {
            agents,
            observer,
            ground,
            stack,
        };
        rig.attached(size.nodes).await?;
        Ok(rig)
    }

    /// Waits until the streams of so many agents stand.
    pub async fn attached(&mut self, agents: usize) -> Result<()> {
        let Self {
            ground, agents: all, ..
        } = self;
        until(&format!("{agents} agents are attached"), ATTACH_LIMIT, || {
            let checked = all.check();
            let attached = ground.streams();
            async move {
                checked?;
                Ok(if attached >= agents {
                    Seen::Done(())
                } else {
                    Seen::Not(format!("{attached} are"))
                })
            }
        })
        .await
    }

    /// Makes the models.
    pub async fn apply_models(&self, models: usize) -> Result<()> {
        for model in 0..models {
            self.ground.objects.model(model).await?;
        }
        Ok(())
    }

    /// The operator is killed and started again, as a kubelet does.
    pub fn restart_operator(&mut self) -> Result<()> {
        self.stack.kill(&Part::Operator(0))?;
        self.stack.start_again(&Part::Operator(0))
    }
}

/// A leaf for every agent, by the installation's own authority: a thousand enrolments from one address would take its rate limit's
/// four minutes.
async fn identities(client: &kube::Client, nodes: usize) -> Result<Vec<Credentials>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let data = secrets.get(names::AUTHORITY_SECRET).await?.data.unwrap_or_default();
    let text = |key: &str| {
        let bytes = data.get(key).map(|bytes| bytes.0.clone()).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    let other = |error: &dyn std::fmt::Display| Error::Other(format!("leaves for agents: {error}"));
    let authority =
        Authority::from_pem(&text(names::TLS_CERT_KEY), &text(names::TLS_KEY_KEY)).map_err(|error| other(&error))?;
    let issue = |node: usize| {
        let KeyPair { key_pem, csr_der } = KeyPair::generate().map_err(|error| other(&error))?;
        let role = Role::Agent {
            node: cluster::node_name(node),
        };
        let id = SpiffeId::new(names::TRUST_DOMAIN, role).map_err(|error| other(&error))?;
        let leaf = authority
            .issue(&csr_der, &id, &[], DEFAULT_LEAF_LIFETIME, SystemTime::now())
            .map_err(|error| other(&error))?;
        let identity = Identity {
            certificate_chain_pem: leaf.certificate_chain_pem,
            key_pem,
            bundle_pem: leaf.bundle_pem,
        };
        Credentials::new(identity).map_err(|error| other(&error))
    };
    (0..nodes).map(issue).collect()
}
