//! Whom this gateway trusts, told to the operator that it follows, and whom it shall trust, heard from it.

use std::time::Duration;

use identity::{Credentials, Held, Wanted, Wishes};
use lifecycle::backoff::{Backoff, Policy};
use proto::control::v1::TrustHeld;
use proto::control::v1::trust_client::TrustClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Pauses between attempts over a connection that stands.
const RETRY: Policy = Policy {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(30),
};
/// Words under way: each replaces the one before.
const OUTBOUND_MAX: usize = 1;

/// Says and hears for as long as it is polled; it never ends by itself.
pub(super) async fn follow(channel: &Channel, credentials: &Credentials, wishes: &Wishes) {
    let mut backoff = Backoff::new(RETRY);
    loop {
        match converse(channel, credentials, wishes).await {
            // An older operator, for which what is mounted says whom to trust.
            Err(status) if status.code() == Code::Unimplemented => std::future::pending().await,
            ended => {
                let cause = ended
                    .err()
                    .map_or_else(String::new, |status| status.message().to_owned());
                tracing::debug!(cause, "the operator is not told whom this gateway trusts; trying again");
            }
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

async fn converse(channel: &Channel, credentials: &Credentials, wishes: &Wishes) -> Result<(), Status> {
    let mut renewals = wishes.renewals();
    let (said, words) = mpsc::channel(OUTBOUND_MAX);
    say(&said, credentials).await?;
    let mut client = TrustClient::new(channel.clone());
    let mut wanted = client.follow(ReceiverStream::new(words)).await?.into_inner();
    loop {
        tokio::select! {
            told = wanted.message() => match told? {
                Some(told) => wishes.tell(Wanted::read(&told)),
                None => return Ok(()),
            },
            Ok(()) = renewals.changed() => say(&said, credentials).await?,
        }
    }
}

/// An identity that cannot be read trusts nobody.
async fn say(said: &mpsc::Sender<TrustHeld>, credentials: &Credentials) -> Result<(), Status> {
    let held = Held::of(&credentials.identity()).unwrap_or_default();
    let sent = said.send(TrustHeld::from(&held)).await;
    sent.map_err(|_| Status::unavailable("the stream to the operator has ended"))
}
