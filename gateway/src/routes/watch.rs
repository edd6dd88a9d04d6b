//! The stream of route tables from the operator that leads, reopened for as long as the gateway runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use identity::{ConnectOptions, Credentials, Expected, PlacementVerifier, Wishes};
use proto::control::v1::routes_client::RoutesClient;
use proto::control::v1::{NOT_THE_LEADER, RouteTable, WatchRequest};
use tokio::sync::watch;
use tonic::transport::Channel;

use super::disk;
use super::trust;
use super::{MAX_MODELS, Table};
use lifecycle::backoff::{Backoff, Policy};

/// Pauses between attempts: a table may be out of date for so long after an operator came back.
const RECONNECT: Policy = Policy {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(5),
};
/// After a replica that does not lead: the next connection reaches another, and one of them leads within seconds.
const NEXT_REPLICA: Policy = Policy {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(1),
};
/// Longest wait for an operator to begin its answer; one that does not lead refuses at once.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Where the operator is and how its words are judged.
#[derive(Debug)]
pub struct Control {
    /// `host:port` of the operator's control port.
    pub endpoint: String,
    /// Who we are.
    pub credentials: Credentials,
    /// The keys that sign placements; renewed with the identity.
    pub verifier: Arc<ArcSwap<PlacementVerifier>>,
    /// Whom the operator wants us to trust; told as long as it is followed.
    pub wishes: Wishes,
    /// Where the last table is kept.
    pub state_dir: PathBuf,
    /// The connection to the operator that leads, while there is one.
    pub channel: ArcSwapOption<Channel>,
}

impl Control {
    /// The table that the last run left.
    pub async fn restore(&self) -> Option<Table> {
        match disk::load(&self.state_dir).await {
            Ok(table) => {
                let table = table?;
                tracing::info!(models = table.models.len(), "route table restored");
                Some(self.verified(table, &Table::default()))
            }
            Err(error) => {
                let path = disk::path(&self.state_dir);
                tracing::warn!(path = %path.display(), %error, "stored route table is unusable; waiting for the operator's");
                None
            }
        }
    }

    /// Publishes every table that comes, for ever. A lost stream changes nothing in the table published last.
    pub async fn follow(&self, tables: &watch::Sender<Option<Arc<Table>>>, connected: impl Fn(bool)) {
        let (mut backoff, mut turns) = (Backoff::new(RECONNECT), Backoff::new(NEXT_REPLICA));
        loop {
            let mut received = 0_u64;
            let lost = self.follow_once(tables, &connected, &mut received).await;
            self.channel.store(None);
            self.wishes.tell(None);
            connected(false);
            if received > 0 {
                backoff.succeeded();
                turns.succeeded();
            }
            let cause = lost.err().unwrap_or_else(|| "the operator ended the stream".to_owned());
            tracing::warn!(endpoint = %self.endpoint, %cause, "operator lost; serving with the routes known last");
            // As `describe` words it.
            let elsewhere = cause.ends_with(NOT_THE_LEADER);
            tokio::time::sleep(if elsewhere { turns.failed() } else { backoff.failed() }).await;
        }
    }

    async fn follow_once(
        &self,
        tables: &watch::Sender<Option<Arc<Table>>>,
        connected: &impl Fn(bool),
        received: &mut u64,
    ) -> Result<(), String> {
        // A new connection each time: behind one name there may be several operators, of which one leads.
        let config = identity::tls::client_config(&self.credentials);
        let channel = identity::connect(&self.endpoint, config, Expected::Operator, ConnectOptions::default())
            .await
            .map_err(|error| error.to_string())?;
        let mut client = RoutesClient::new(channel.clone()).max_decoding_message_size(disk::MAX_TABLE_BYTES);
        let opened = tokio::time::timeout(OPEN_LIMIT, client.watch(WatchRequest {})).await;
        let opened = opened.map_err(|_| format!("no answer within {} s", OPEN_LIMIT.as_secs()))?;
        let mut stream = opened.map_err(|status| describe(&status))?.into_inner();
        let trusting = trust::follow(&channel, &self.credentials, &self.wishes);
        let following = async {
            while let Some(table) = stream.message().await.map_err(|status| describe(&status))? {
                if *received == 0 {
                    self.channel.store(Some(Arc::new(channel.clone())));
                    connected(true);
                    tracing::info!(endpoint = %self.endpoint, models = table.models.len(), "following the operator");
                }
                *received += 1;
                self.publish(table, tables).await;
            }
            Ok::<(), String>(())
        };
        tokio::select! {
            followed = following => followed,
            () = trusting => Ok(()),
        }
    }

    async fn publish(&self, table: RouteTable, tables: &watch::Sender<Option<Arc<Table>>>) {
        if table.models.len() > MAX_MODELS {
            tracing::warn!(
                models = table.models.len(),
                served = MAX_MODELS,
                "the operator has more models than a gateway serves"
            );
        }
        if let Err(error) = disk::store(&self.state_dir, &table).await {
            tracing::warn!(path = %disk::path(&self.state_dir).display(), %error, "route table cannot be kept");
        }
        let previous = tables.borrow().clone().unwrap_or_default();
        let next = Arc::new(self.verified(table, &previous));
        tables.send_if_modified(|present| {
            let changed = present.as_ref() != Some(&next);
            *present = Some(next);
            changed
        });
    }

    fn verified(&self, table: RouteTable, previous: &Table) -> Table {
        Table::verified(
            table,
            previous,
            &self.verifier.load(),
            &self.credentials.spiffe_id().trust_domain,
        )
    }
}

fn describe(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
