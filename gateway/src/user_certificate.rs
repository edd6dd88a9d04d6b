//! The certificate that users meet, where the administrator gives one: read at the start, and again whenever its files have changed.

use std::path::Path;
use std::time::{Duration, SystemTime};

use identity::seconds_until;
use identity::tls::GivenCertificate;

use crate::args::UserCertificate;

/// How soon changed files count. Cheap: they are read whole, as mounted files change by a swapped link.
const REREAD_INTERVAL: Duration = Duration::from_secs(2);
/// Bytes of a certificate or key file.
const MAX_PEM_BYTES: usize = 256 * 1024;

/// Reads it.
///
/// # Errors
/// When a file cannot be read, or the two are no pair; the flags are named.
pub fn load(files: &UserCertificate) -> Result<GivenCertificate, String> {
    let (chain, key) = read(files)?;
    GivenCertificate::new(&chain, &key).map_err(|error| about(&error))
}

/// Takes a renewed one into use, for ever; `seen` is told at each look how many seconds are left of it. Files that cannot be used
/// change nothing, and are told of once.
pub async fn follow(files: &UserCertificate, certificate: &GivenCertificate, seen: impl Fn(i64)) {
    let mut failing = false;
    loop {
        if let Some(end) = certificate.not_after() {
            seen(seconds_until(end, SystemTime::now()));
        }
        tokio::time::sleep(REREAD_INTERVAL).await;
        let replaced = renew(files, certificate);
        match &replaced {
            Ok(true) => tracing::info!("the certificate for users was renewed"),
            Ok(false) => {}
            Err(error) if !failing => {
                tracing::warn!(%error, "the certificate for users is not renewed; the last one stays");
            }
            Err(_) => {}
        }
        failing = replaced.is_err();
    }
}

fn renew(files: &UserCertificate, certificate: &GivenCertificate) -> Result<bool, String> {
    let (chain, key) = read(files)?;
    certificate.replace(&chain, &key).map_err(|error| about(&error))
}

fn read(files: &UserCertificate) -> Result<(String, String), String> {
    let text = |path: &Path| identity::store::read_text(path, MAX_PEM_BYTES).map_err(|error| about(&error));
    Ok((text(&files.chain)?, text(&files.key)?))
}

fn about(error: &dyn std::fmt::Display) -> String {
    format!("--tls-cert, --tls-key: {error}")
}
