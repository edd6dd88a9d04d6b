//! When a process in a network of its own listens: its kernel tables say so, without a connection that it would have to serve.

use std::time::Duration;

use localplane::wait::{Seen, until};

use crate::child::Part;
use crate::error::Result;

/// Starting takes less than a second.
const LIMIT: Duration = Duration::from_secs(30);
/// `TCP_LISTEN` in the kernel's table.
const LISTENING: &str = "0A";

/// Returns once `part` listens on `port`.
///
/// # Errors
/// When it ends instead, or does not within half a minute.
pub async fn wait(part: &mut Part, port: u16) -> Result<()> {
    let table = format!("/proc/{}/net/tcp", part.id());
    let found = until("the port is open", LIMIT, || async {
        let table = std::fs::read_to_string(&table).unwrap_or_default();
        Ok(if listens(&table, port) {
            Seen::Done(())
        } else {
            Seen::Not(format!("nobody listens on {port}"))
        })
    });
    match found.await {
        Ok(()) => Ok(()),
        Err(error) => part.check().and(Err(error.into())),
    }
}

/// Whether a table of `/proc/<id>/net/tcp` has a listener on `port`.
fn listens(table: &str, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _remote, state) = (fields.next(), fields.next(), fields.next());
        local.is_some_and(|local| local.ends_with(&wanted)) && state == Some(LISTENING)
    })
}

#[cfg(test)]
mod tests {
    use super::listens;

    #[test]
    fn a_listener_is_told_from_a_connection_on_the_same_port() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     0: 0100007F:C3B4 00000000:0000 0A 00000000:00000000\n\
                     1: 0100007F:1F90 0100007F:A000 01 00000000:00000000\n";
        assert!(listens(table, 0xC3B4));
        assert!(!listens(table, 0x1F90), "a connection");
        assert!(!listens(table, 0xA000), "a remote end");
    }
}
