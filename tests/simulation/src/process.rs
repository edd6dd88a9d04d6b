//! An operator as a process: started, killed, frozen, told to stop.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Polled, Poll};
use std::time::Duration;

use apimodel::{ApiServer, Connection};
use futures::Stream;
use identity::SubjectName;
use kube::Api;
use operator::agents::ControlService;
use operator::clock::Wall;
use operator::context::{ClientHandle, Context, Names};
use operator::lease::Elector;
use operator::metrics::Metrics;
use operator::model::gain::Threshold;
use operator::model::quarantine::Limit;
use operator::replica::{self, Replica};
use operator::reservation::{self, Count};
use proto::control::v1::{AgentMessage, OperatorMessage};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::clocks;
use crate::objects::INSTALLATION;

/// Of the leader's lease.
pub const LEASE: Duration = Duration::from_secs(15);

/// One life of an operator.
#[derive(Debug)]
pub struct Process {
    /// Name of its pod.
    pub name: String,
    /// Its way to the API server.
    pub connection: Connection,
    /// Whether it stands still.
    pub frozen: watch::Sender<bool>,
    leading: watch::Receiver<bool>,
    service: Arc<Mutex<Option<ControlService>>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Process {
    /// Starts it on the machine of a place.
    #[must_use]
    pub fn start(name: &str, place: usize, api: &ApiServer) -> Self {
        let (client, connection) = api.connect(name);
        let (frozen, thaws) = watch::channel(false);
        let (leading, led) = watch::channel(false);
        let service = Arc::default();
        let stop = CancellationToken::new();
        let life = live(
            (name.to_owned(), clocks::wall(place)),
            client,
            (leading, led.clone()),
            Arc::clone(&service),
            stop.clone(),
        );
        let ends = connection.clone();
        let task = tokio::spawn(Frozen {
            inner: Box::pin(async move {
                Box::pin(life).await;
                // A process that ends takes its connections with it.
                ends.kill();
            }),
            thaws: Box::pin(follow(thaws.clone())),
            frozen: thaws,
        });
        Self {
            name: name.to_owned(),
            connection,
            frozen,
            leading: led,
            service,
            stop,
            task,
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.connection.kill();
        self.task.abort();
        // Its streams end with it.
        self.stop.cancel();
        *lock(&self.service) = None;
    }

    /// Tells it to end, and waits until it has.
    pub async fn terminate(&mut self) {
        self.stop.cancel();
        *lock(&self.service) = None;
        tokio::select! {
            // A task that was aborted has ended as well.
            _ = &mut self.task => {}
            () = self.connection.killed() => {}
        }
        self.kill();
    }

    /// Whether it leads, as it thinks.
    #[must_use]
    pub fn leads(&self) -> bool {
        *self.leading.borrow() && !self.connection.is_dead()
    }

    /// Lets it stand still, or go on.
    pub fn freeze(&self, frozen: bool) {
        self.connection.freeze(frozen);
        self.frozen.send_replace(frozen);
    }

    /// An agent's stream.
    ///
    /// # Errors
    /// It is not there, or does not lead.
    pub fn attach(
        &self,
        node: &str,
        inbound: impl Stream<Item = Result<AgentMessage, Status>> + Send + 'static,
    ) -> Result<ReceiverStream<Result<OperatorMessage, Status>>, Status> {
        if *self.frozen.borrow() {
            return Err(Status::deadline_exceeded("no answer"));
        }
        match &*lock(&self.service) {
            Some(service) => service.attached(node.to_owned(), identity::Heard::default(), inbound),
            None => Err(Status::unavailable("connection refused")),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `operator::run` does, without its ports.
async fn live(
    (name, wall): (String, Wall),
    client: kube::Client,
    (leading, led): (watch::Sender<bool>, watch::Receiver<bool>),
    service: Arc<Mutex<Option<ControlService>>>,
    stop: CancellationToken,
) {
    let local = vec![SubjectName::Dns("localhost".into())];
    let names = Arc::new(Names {
        namespace: INSTALLATION.into(),
        pod_name: name.clone(),
        trust_domain: "shardwright".into(),
        server_names: local.clone(),
        gateway_names: local,
    });
    let metrics = Metrics::new();
    let Ok(Some(keys)) = replica::keys(&client, &names, &metrics, &stop).await else {
        return;
    };
    let context = Context {
        names,
        client: ClientHandle(client.clone()),
        keys,
        holders: Arc::default(),
        threshold: Threshold::default(),
        quarantine: Limit::default(),
        metrics,
        wall,
    };
    let reservation = reservation::Settings {
        enabled: true,
        count: Count::All,
        namespace: INSTALLATION.into(),
        image: "pause:1".into(),
        priority_class: String::new(),
        deployment: "shardwright-operator".into(),
    };
    let replica = Replica::new(context, reservation, led, stop.clone());
    *lock(&service) = Some(replica.control_service());
    let leases = Api::namespaced(client, INSTALLATION);
    let mut elector = Elector::new(leases, name, LEASE, wall);
    tokio::select! {
        () = elector.run(&leading, &stop) => {}
        () = replica.control() => {}
    }
    leading.send_replace(false);
    // One that is told to end while the API server is away leaves the lease to lapse.
    let _ = elector.release().await;
}

async fn follow(mut frozen: watch::Receiver<bool>) {
    while frozen.changed().await.is_ok() {}
    std::future::pending().await
}

/// A future that is polled only while it is not frozen.
struct Frozen {
    inner: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Wakes the task when that changes.
    thaws: Pin<Box<dyn Future<Output = ()> + Send>>,
    frozen: watch::Receiver<bool>,
}

impl Future for Frozen {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Polled<'_>) -> Poll<()> {
        // Never ready; registers the waker.
        let _ = self.thaws.as_mut().poll(context);
        if *self.frozen.borrow() {
            return Poll::Pending;
        }
        self.inner.as_mut().poll(context)
    }
}
