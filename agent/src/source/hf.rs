//! The Hugging Face hub: a file's address at the commit that its revision means now.

use super::address::Hub;
use super::error::SourceError;
use super::http::Client;
use super::{Access, Setting};
use reqwest::Url;
use serde::Deserialize;

/// The hub's description of a revision, files included.
const DESCRIPTION_BYTES_MAX: usize = 8 << 20;
/// A commit in hexadecimal.
const COMMIT_DIGITS: usize = 40;

#[derive(Deserialize)]
struct Description {
    sha: String,
}

/// A client for the hub, and the address of the file at a commit: a branch that moves on meanwhile does not mix two models.
pub(super) async fn resolve(setting: &Setting, access: &Access, hub: &Hub) -> Result<(Client, Url), SourceError> {
    let base = setting.hf_endpoint.trim_end_matches('/');
    let Hub {
        repository,
        file,
        revision,
    } = hub;
    let address = |path: String| {
        let url = Url::parse(&format!("{base}/{path}")).ok();
        url.filter(|url| url.scheme() == "https" && url.has_host())
            .ok_or_else(|| SourceError::bad(base, "the hub's endpoint is no https:// address"))
    };
    let mut url = address(format!("{repository}/resolve/{revision}/{file}"))?;
    let client = Client::new(setting, access, &url)?;
    if !is_commit(revision) {
        let about = address(format!("api/models/{repository}/revision/{revision}"))?;
        let (_, _, body) = client
            .get_small(&about, "application/json", DESCRIPTION_BYTES_MAX, &[])
            .await?;
        let commit = serde_json::from_slice::<Description>(&body).ok().map(|found| found.sha);
        let commit = commit
            .filter(|commit| is_commit(commit))
            .ok_or_else(|| SourceError::malformed(&super::address::show(&about), "no commit for the revision"))?;
        url = address(format!("{repository}/resolve/{commit}/{file}"))?;
    }
    Ok((client, url))
}

fn is_commit(revision: &str) -> bool {
    revision.len() == COMMIT_DIGITS
        && revision
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
