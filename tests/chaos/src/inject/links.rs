//! Faults of links: of all that a node has, or of one direction between two nodes.

use std::time::Duration;

use linkemu::line::Quality;
use linkemu::network::Network;
use localplane::stack::Stack;

use super::{Struck, Undo, holding};
use crate::history::Kind;
use crate::schedule::Planned;

/// Two packets of a hundred are lost, and as many overtake.
const LOSSY: Quality = Quality {
    delay: Duration::from_millis(2),
    lost_per_mille: 20,
    overtaking_per_mille: 20,
    ..Quality::PERFECT
};
/// An old wireless link.
const SLOW: Quality = Quality {
    delay: Duration::from_millis(20),
    bits_per_second: Some(10_000_000),
    ..Quality::PERFECT
};
/// 75 ms, give or take 50.
const JITTERY: Quality = Quality {
    delay: Duration::from_millis(25),
    jitter: Duration::from_millis(100),
    ..Quality::PERFECT
};
/// Strikes nodes that hold a stage; `None` where there are none, or no links.
pub(super) fn strike(stack: &Stack, model: &str, planned: &Planned) -> localplane::Result<Option<Struck>> {
    let Some(network) = stack.network() else {
        return Ok(None);
    };
    let holding = holding(stack, model)?;
    let struck = if planned.kind == Kind::LinkOneWay {
        one_way(network, &holding, planned)?
    } else {
        all_of_a_node(network, &holding, planned)?
    };
    Ok(struck.map(|target| Struck {
        target: format!("{target} for {:.1} s", planned.lasts.as_secs_f64()),
        killed: None,
        undo: Some(Undo::MendLinks),
    }))
}

fn all_of_a_node(network: &Network, nodes: &[String], planned: &Planned) -> localplane::Result<Option<String>> {
    let Some(node) = planned.victim(nodes.len()).and_then(|victim| nodes.get(victim)) else {
        return Ok(None);
    };
    let quality = match planned.kind {
        Kind::LinkLossy => LOSSY,
        Kind::LinkSlow => SLOW,
        Kind::LinkJitter => JITTERY,
        _ => Quality::CUT,
    };
    network.set_all_of(node, quality)?;
    Ok(Some(format!("of {node}")))
}

fn one_way(network: &Network, nodes: &[String], planned: &Planned) -> localplane::Result<Option<String>> {
    let there = nodes.windows(2).map(|pair| (&pair[0], &pair[1]));
    let pairs: Vec<_> = there.flat_map(|(from, to)| [(from, to), (to, from)]).collect();
    let Some((from, to)) = planned.victim(pairs.len()).and_then(|victim| pairs.get(victim)) else {
        return Ok(None);
    };
    network.set(from, to, Quality::CUT)?;
    Ok(Some(format!("from {from} to {to}")))
}
