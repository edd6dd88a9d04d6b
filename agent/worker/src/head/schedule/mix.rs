//! How the rows of one step are shared: a decode row for every running sequence, the rest to prompts in equal parts.

use super::Part;
use super::slot::{Sequence, Slot};
use crate::step::Row;

/// So many rows of the sequence in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    slot: usize,
    rows: u32,
}

/// Who gets how many rows. A suspect runs alone, and before all others.
pub(super) fn shares(slots: &[Slot], turn: usize, max_rows: u32) -> Vec<Share> {
    let round = (0..slots.len()).map(|offset| (turn + offset) % slots.len());
    let seated: Vec<(usize, &Sequence)> = round
        .filter_map(|slot| Some((slot, slots[slot].sequence.as_ref()?)))
        .collect();
    if let Some((slot, suspect)) = seated.iter().find(|(_, sequence)| sequence.suspect) {
        return vec![Share {
            slot: *slot,
            rows: suspect.due().min(max_rows),
        }];
    }
    let (decoding, prompts): (Vec<_>, Vec<_>) = seated.into_iter().partition(|(_, sequence)| sequence.decodes());
    // Prompts keep one row at least, however many sequences decode.
    let decode_rows = max_rows - u32::from(!prompts.is_empty()).min(max_rows - 1);
    let mut shares: Vec<Share> = decoding
        .iter()
        .take(decode_rows as usize)
        .map(|(slot, _)| Share { slot: *slot, rows: 1 })
        .collect();
    let left = max_rows - shares.len() as u32;
    let prompts = prompts
        .into_iter()
        .map(|(slot, sequence)| (slot, sequence.due()))
        .collect();
    shares.extend(equal_parts(prompts, left));
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

/// Appends the rows of a share. The last known position of a sequence is the one that samples.
pub(super) fn rows(slots: &[Slot], share: &Share, rows: &mut Vec<Row>) -> Option<Part> {
    let sequence = slots[share.slot].sequence.as_ref()?;
    let end = sequence.computed + share.rows;
    let samples = end == sequence.known();
    for position in sequence.computed..end {
        rows.push(Row {
            sequence: share.slot as u32,
            position,
            token: sequence.token_at(position),
            sample: (samples && position + 1 == end).then_some(sequence.request.sampling),
        });
    }
    let id = sequence.request.id;
    Some(Part {
        slot: share.slot,
        id,
        rows: share.rows,
        samples: samples.then_some(end),
    })
}
