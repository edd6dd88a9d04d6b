//! Connections to the heads: one channel each, shared by all requests, and how many requests each one has.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use identity::connect::ConnectError;
use identity::{ConnectOptions, Credentials, Expected};
use proto::shard::v1::head_client::HeadClient;
use tonic::transport::Channel;

use crate::routes::{Head, Table};

/// Bytes of one event: a token and its position.
const MAX_EVENT_BYTES: usize = 64 * 1024;

/// All heads that were asked and may be asked again.
#[derive(Debug)]
pub struct Heads {
    credentials: Credentials,
    connections: Mutex<HashMap<Head, Connection>>,
}

#[derive(Debug, Clone)]
struct Connection {
    channel: Channel,
    in_flight: Arc<AtomicUsize>,
}

/// Counts a request at a head for as long as it is held.
#[derive(Debug)]
pub(super) struct Lease(Arc<AtomicUsize>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Heads {
    /// Nothing is dialled yet.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            connections: Mutex::default(),
        }
    }

    /// Lets go of connections to heads that `table` does not name any more; requests in progress keep theirs.
    pub fn follow(&self, table: &Table) {
        let serving = table.heads();
        self.lock().retain(|head, _| serving.contains(head));
    }

    /// The head with the fewest requests of this gateway, the first among equals, leaving out `excluded`.
    pub(super) fn least_busy<'a>(&self, heads: &'a [Head], excluded: &HashSet<Head>) -> Option<&'a Head> {
        let connections = self.lock();
        let in_flight = |head: &Head| {
            connections
                .get(head)
                .map_or(0, |connection| connection.in_flight.load(Ordering::Relaxed))
        };
        heads
            .iter()
            .filter(|head| !excluded.contains(*head))
            .min_by_key(|head| in_flight(head))
    }

    /// A client of `head`, dialling when first used and again after a loss.
    pub(super) fn client(&self, head: &Head) -> Result<(HeadClient<Channel>, Lease), ConnectError> {
        let connection = self.connection(head)?;
        connection.in_flight.fetch_add(1, Ordering::Relaxed);
        let client = HeadClient::new(connection.channel).max_decoding_message_size(MAX_EVENT_BYTES);
        Ok((client, Lease(connection.in_flight)))
    }

    fn connection(&self, head: &Head) -> Result<Connection, ConnectError> {
        let mut connections = self.lock();
        if let Some(connection) = connections.get(head) {
            return Ok(connection.clone());
        }
        let config = identity::tls::client_config(&self.credentials);
        let expected = Expected::Exactly(head.worker.clone());
        let channel = identity::connect_lazy(&head.endpoint, config, expected, ConnectOptions::default())?;
        let connection = Connection {
            channel,
            in_flight: Arc::default(),
        };
        connections.insert(head.clone(), connection.clone());
        Ok(connection)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Head, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
