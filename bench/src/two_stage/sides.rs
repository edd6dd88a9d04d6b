//! Everybody who takes part, and what each is asked.

use crate::error::Result;
use crate::netns::{Host, Network};
use crate::session::Session;

use super::balance::Cuts;
use super::contestants::{Arrangement, Contestant, Links, ours, rpc, whole, without_drafts};
use super::work::Work;

/// What the whole model on one core is called.
pub const WHOLE: &str = "whole";
/// What the names of our two stages begin with.
pub const OURS: &str = "two_stages";
/// What the names of the sides without drafts begin with. Where everybody has rows to compute there are no drafts, and nothing to
/// compare.
pub const WITHOUT_DRAFTS: &str = "without_drafts";
/// What our two stages are called with the cut that is a compromise.
pub const ONE_CUT: &str = "one_cut_for_both";
/// What the names of llama.cpp's RPC backend begin with.
pub const RPC: &str = "rpc";

/// A side, and what it is asked.
#[derive(Debug)]
pub struct Asked {
    /// Started, and ends with this.
    pub side: Contestant,
    /// What it is asked.
    pub works: &'static [Work],
}

/// Starts everybody.
///
/// # Errors
/// When a side cannot be started.
pub async fn start(session: &Session, network: &Network, cuts: Cuts) -> Result<Vec<Asked>> {
    const STREAMS: &[Work] = &[Work::Eight, Work::One];
    const PROMPTS: &[Work] = &[Work::Prefill];
    const DELAYED: &[Work] = &[Work::OneDelayed];
    let mut sides = Vec::new();
    let mut add = |side, works| sides.push(Asked { side, works });
    let Cuts { decode, prefill, both } = cuts;
    let (bare, slow) = (Links::Bare, Links::Delayed);
    add(
        whole(session, network, WHOLE, Host::Head).await?,
        &[Work::Eight, Work::Prefill, Work::One],
    );
    for (cut, links, ending, works) in [
        (decode, bare, "", STREAMS),
        (prefill, bare, "_prompts", PROMPTS),
        (decode, slow, "_1ms", DELAYED),
    ] {
        let name = |begin: &str| format!("{begin}{ending}");
        add(ours(session, network, cut, links, &name(OURS)).await?, works);
        for (way, arrangement) in [
            ("rpc_servers", Arrangement::Servers),
            ("rpc_local_head", Arrangement::LocalHead),
        ] {
            let side = rpc(session, network, cut, arrangement, links, &name(way)).await?;
            add(side, works);
        }
    }
    for (links, name, works) in [
        (bare, WITHOUT_DRAFTS, &[Work::One] as &[Work]),
        (slow, "without_drafts_1ms", DELAYED),
    ] {
        add(without_drafts(session, network, decode, links, name).await?, works);
    }
    add(
        ours(session, network, both, bare, ONE_CUT).await?,
        &[Work::Eight, Work::Prefill],
    );
    Ok(sides)
}
