//! How the rows of one step are shared: a decode row for each sequence of the step's group, the rest to prompts: half to the one that
//! is nearest its end, half to all in equal parts.
//!
//! With equal parts alone, prompts that come at once are all done at the end; a pipeline that takes over what a lost one had under way
//! has nothing but those. Shortest remaining first is the least wait on average (Schrage, Operations Research 16, 1968), and starves long
//! prompts; with half of the rows in equal parts nobody waits more than twice as long as with all of them.
//!
//! Beside decodes, prompts have a part of the rows of a step: the fewer there are, the sooner those that decode have their next token.
//! Where an answer that was interrupted is among the prompts, its client has waited for its next token for longer already: then they
//! have as many as if nobody decoded, until all interrupted ones go on.
//!
//! Each sequence decodes in one step at a time. With several steps under way the decoding sequences are spread over them, so that
//! every stage has rows to compute; whoever was served longest ago comes first.

use super::chunk;
use super::draft::RoundTrip;
use super::flight::Part;
use super::request::{Limits, Tuning};
use super::sequence::{Sequence, Slot};
use crate::step::Row;

/// So many rows of the sequence in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    slot: usize,
    rows: u32,
}

/// Who gets how many rows. A suspect runs alone, and before all others.
pub(super) fn shares(slots: &[Slot], limits: &Limits, tuning: &Tuning, measured: Option<RoundTrip>) -> Vec<Share> {
    let started: Vec<(usize, &Sequence)> = slots
        .iter()
        .enumerate()
        .filter_map(|(slot, held)| Some((slot, held.sequence()?)))
        .filter(|(_, sequence)| sequence.started)
        .collect();
    let decoding = started.iter().filter(|(_, sequence)| sequence.decodes()).count();
    let mut due: Vec<(usize, &Sequence)> = started.into_iter().filter(|(_, sequence)| sequence.due() > 0).collect();
    due.sort_by_key(|(_, sequence)| (sequence.served, sequence.order));
    if let Some((slot, suspect)) = due.iter().find(|(_, sequence)| sequence.suspect) {
        return vec![Share {
            slot: *slot,
            rows: suspect.due().min(limits.max_step_rows),
        }];
    }
    let (decodes, prompts): (Vec<_>, Vec<_>) = due.into_iter().partition(|(_, sequence)| sequence.decodes());
    // However many sequences decode, prompts go on too.
    let wanted = prompts
        .iter()
        .fold(0, |sum: u32, (_, sequence)| sum.saturating_add(sequence.due()));
    let interrupted = prompts.iter().any(|(_, sequence)| sequence.request.resumed);
    let for_prompts_at_most = match decoding {
        0 => chunk::rows(limits, tuning, measured, wanted),
        _ if interrupted => tuning.prompt_rows_alone,
        _ => tuning.prompt_rows_beside_decodes,
    };
    let for_prompts = wanted.min(for_prompts_at_most).min(limits.max_step_rows / 2);
    let group = decoding
        .div_ceil(tuning.depth)
        .min((limits.max_step_rows - for_prompts) as usize);
    let mut shares: Vec<Share> = decodes
        .iter()
        .take(group)
        .map(|(slot, _)| Share { slot: *slot, rows: 1 })
        .collect();
    let mut left = limits.max_step_rows - shares.len() as u32;
    left = left.min(for_prompts_at_most);
    let mut prompts: Vec<(usize, u32)> = prompts
        .into_iter()
        .map(|(slot, sequence)| (slot, sequence.due()))
        .collect();
    // Stable: among equals, the one whose turn it is.
    let nearest = prompts.iter().copied().min_by_key(|(_, due)| *due);
    // One row alone goes round: no prompt starves.
    let first = nearest.filter(|_| left > 1).map(|(slot, due)| Share {
        slot,
        rows: due.min(left / 2),
    });
    if let Some(first) = first {
        left -= first.rows;
        for (_, due) in prompts.iter_mut().filter(|(slot, _)| *slot == first.slot) {
            *due -= first.rows;
        }
        prompts.retain(|(_, due)| *due > 0);
    }
    // With more prompts than rows, those that were served longest ago take their turn.
    prompts.truncate(left as usize);
    let mut parts = equal_parts(prompts, left);
    if let Some(first) = first {
        match parts.iter_mut().find(|share| share.slot == first.slot) {
            Some(share) => share.rows += first.rows,
            None => parts.insert(0, first),
        }
    }
    shares.extend(parts);
    shares
}

/// Shares rows among prompts: equal parts, and what a short prompt leaves goes to the longer ones.
fn equal_parts(mut prompts: Vec<(usize, u32)>, mut rows: u32) -> Vec<Share> {
    // Stable: among equals, the one whose turn it is gets the odd row.
    prompts.sort_by_key(|(_, due)| *due);
    let mut left = prompts.len() as u32;
    let mut shares = Vec::with_capacity(prompts.len());
    for (slot, due) in prompts {
        let part = due.min(rows.div_ceil(left));
        rows -= part;
        left -= 1;
        if part > 0 {
            shares.push(Share { slot, rows: part });
        }
    }
    shares
}

/// Appends the rows of a share, as the turn of its sequence. The last known position of a sequence is the one that samples.
pub(super) fn rows(slots: &mut [Slot], share: &Share, turn: u64, rows: &mut Vec<Row>) -> Option<Part> {
    let sequence = slots[share.slot].sequence_mut()?;
    let from = sequence.composed;
    let end = from + share.rows;
    let samples = end == sequence.known();
    let tokens = &sequence.tokens()[from as usize..end as usize];
    for (position, token) in (from..end).zip(tokens) {
        rows.push(Row {
            sequence: share.slot as u32,
            position,
            token: *token,
            sample: (samples && position + 1 == end).then_some(sequence.request.sampling),
        });
    }
    (sequence.composed, sequence.served) = (end, turn);
    Some(Part {
        slot: share.slot,
        id: sequence.request.id,
        from,
        samples: samples.then_some(end),
        draft: false,
        idle: false,
    })
}

/// Appends the row of a draft, behind all that is under way of the sequence in a slot.
pub(super) fn draft_row(slots: &mut [Slot], slot: usize, token: i32, turn: u64, rows: &mut Vec<Row>) -> Option<Part> {
    let sequence = slots[slot].sequence_mut()?;
    let position = sequence.filled();
    rows.push(Row {
        sequence: slot as u32,
        position,
        token,
        sample: Some(sequence.request.sampling),
    });
    sequence.drafts.push(token);
    sequence.served = turn;
    Some(Part {
        slot,
        id: sequence.request.id,
        from: position,
        samples: Some(position + 1),
        draft: true,
        idle: false,
    })
}
