//! What NVIDIA's event numbers mean for a device: a table, kept as data in `xid/table.tsv`.

use crate::health::Action;
use std::sync::LazyLock;

/// What follows from an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A person should know; the device stays in use.
    Note,
    /// What computed on the device was wrong, or was the only thing hit: it is started again, the device stays in use.
    Application,
    /// The device failed. It returns after a passed verification and a time without faults.
    Fatal,
    /// The device failed in a way that a short verification may miss. It returns after a reset or another boot.
    UntilReset,
}

/// One event number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// NVIDIA's number.
    pub xid: u32,
    /// What follows.
    pub class: Class,
    /// One CamelCase word.
    pub reason: &'static str,
    /// What would mend it.
    pub action: Action,
    /// In words, close to the catalog's.
    pub text: &'static str,
    /// Where this is from.
    pub source: &'static str,
}

static TABLE: LazyLock<Vec<Row>> = LazyLock::new(|| rows(include_str!("xid/table.tsv")));

/// What is known of an event number.
pub fn lookup(xid: u32) -> Option<&'static Row> {
    table().iter().find(|row| row.xid == xid)
}

/// The whole table, by number.
pub fn table() -> &'static [Row] {
    &TABLE
}

/// Lines that start with `#` are comments. A line that cannot be read is left out; a test reads them all.
fn rows(text: &'static str) -> Vec<Row> {
    text.lines().filter_map(row).collect()
}

fn row(line: &'static str) -> Option<Row> {
    let [xid, class, reason, action, text, source] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
    Some(Row {
        xid: xid.parse().ok()?,
        class: match class {
            "note" => Class::Note,
            "application" => Class::Application,
            "fatal" => Class::Fatal,
            "until-reset" => Class::UntilReset,
            _ => return None,
        },
        reason,
        action: match action {
            "None" => Action::None,
            "RestartShard" => Action::RestartShard,
            "ResetDevice" => Action::ResetDevice,
            "RebootNode" => Action::RebootNode,
            "ContactSupport" => Action::ContactSupport,
            _ => return None,
        },
        text,
        source,
    })
}

#[cfg(test)]
mod tests;
