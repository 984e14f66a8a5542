//! What a group's state knows of the log that made it: where each term starts, and the greatest
//! hybrid reading of its records. Kept by the state machine with every entry, whatever it carries,
//! so it is part of the state, of snapshots, and equal on all replicas (I13).
//!
//! With the starts a position (term, index) of long ago can be judged when the record is no longer in the
//! log: it is of this history only if its index lies in its term's stretch. A record that a
//! deposed leader acknowledged early and that was cut off is not (I9).
//!
//! | family | suffix behind the group's id | value |
//! | --- | --- | --- |
//! | `marks` | 1, `t`, term u64 BE | the index of the term's first entry, u64 BE |
//! | `marks` | 1, `h` | last term, greatest reading, how many `t` rows there are: u64 BE each |
//!
//! No other mark begins with 1.
//!
//! Of terms that are long gone the oldest starts are dropped (I12); a position there is not
//! honoured, since it can't be proven.

use maia_common::ids::GroupId;
use maia_common::limits::MAX_TERM_STARTS;
use maia_common::position::{Index, Position};

use super::record::Hlc;
use crate::raft::{Mutations, StateCf, StateError, StateView, group_key};

/// Where a position stands against a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Applied: the state has it in its history.
    Applied,
    /// The state is not so far yet; it may still turn out to be diverged.
    NotYet,
    /// Not in this history, and never will be; or too old to tell.
    Diverged,
}

/// Suffixes of the marks.
const SUMMARY: &[u8] = b"\x01h";
const STARTS: &[u8] = b"\x01t";

/// Row `h`.
#[derive(Debug, Clone, Copy, Default)]
struct Summary {
    term: u64,
    greatest: u64,
    starts: u64,
}

impl Summary {
    fn key(group: GroupId) -> Vec<u8> {
        group_key(group, SUMMARY)
    }

    fn read(group: GroupId, view: &dyn StateView) -> Result<Option<Self>, StateError> {
        let Some(bytes) = view.get(StateCf::Marks, &Self::key(group))? else {
            return Ok(None);
        };
        let bytes = <[u8; 24]>::try_from(bytes).map_err(|_| damaged("the summary"))?;
        let part = |n: usize| number(&bytes[n * 8..(n + 1) * 8]);
        Ok(Some(Self {
            term: part(0)?,
            greatest: part(1)?,
            starts: part(2)?,
        }))
    }

    fn write(self, group: GroupId, out: &mut Mutations) {
        let value = [self.term, self.greatest, self.starts].map(u64::to_be_bytes);
        out.put(StateCf::Marks, Self::key(group), value.concat());
    }
}

fn damaged(what: &str) -> StateError {
    StateError {
        reason: format!("{what} of the group's history is damaged"),
    }
}

fn number(bytes: &[u8]) -> Result<u64, StateError> {
    let bytes = bytes.try_into().map_err(|_| damaged("a number"))?;
    Ok(u64::from_be_bytes(bytes))
}

fn starts_prefix(group: GroupId) -> Vec<u8> {
    group_key(group, STARTS)
}

fn start_key(group: GroupId, term: u64) -> Vec<u8> {
    let mut key = starts_prefix(group);
    key.extend_from_slice(&term.to_be_bytes());
    key
}

/// Notes an entry that is being applied, with the reading of its record if it has one.
///
/// # Errors
/// [`StateError`] when the view fails.
pub fn note(
    group: GroupId,
    position: Position,
    hlc: Option<Hlc>,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<(), StateError> {
    let known = Summary::read(group, view)?;
    let mut summary = known.unwrap_or_default();
    let term = position.term.get();
    let is_new_term = known.is_none_or(|known| known.term != term);
    let greatest = hlc.map_or(0, Hlc::get).max(summary.greatest);
    if !is_new_term && greatest == summary.greatest {
        return Ok(());
    }
    summary.greatest = greatest;
    if is_new_term {
        summary.term = term;
        let start = position.index.get().to_be_bytes();
        out.put(StateCf::Marks, start_key(group, term), start);
        summary.starts += 1;
        if summary.starts > MAX_TERM_STARTS {
            let oldest = view.scan(StateCf::Marks, &starts_prefix(group), None, 1)?;
            for (key, _) in oldest {
                out.delete(StateCf::Marks, key);
                summary.starts -= 1;
            }
        }
    }
    summary.write(group, out);
    Ok(())
}

/// The greatest reading of all records that made the state: a clock starts above it.
///
/// # Errors
/// [`StateError`] when the view fails.
pub fn greatest_reading(group: GroupId, view: &dyn StateView) -> Result<Hlc, StateError> {
    let summary = Summary::read(group, view)?.unwrap_or_default();
    Ok(Hlc::from_raw(summary.greatest))
}

/// Where a position stands against the state, which is applied up to `applied`: both are to be
/// read from one view.
///
/// # Errors
/// [`StateError`] when the view fails.
pub fn standing(
    group: GroupId,
    position: Position,
    applied: Position,
    view: &dyn StateView,
) -> Result<Standing, StateError> {
    if position.index > applied.index {
        // What follows in this log is of this term or later.
        let is_lost = position.term < applied.term;
        return Ok(if is_lost {
            Standing::Diverged
        } else {
            Standing::NotYet
        });
    }
    let key = start_key(group, position.term.get());
    let Some(start) = view.get(StateCf::Marks, &key)? else {
        return Ok(Standing::Diverged);
    };
    let next = view.scan(StateCf::Marks, &starts_prefix(group), Some(&key), 1)?;
    let end = match next.first() {
        Some((_, next)) => Index::new(number(next)?),
        None => Index::new(applied.index.get() + 1),
    };
    let is_within = Index::new(number(&start)?) <= position.index && position.index < end;
    Ok(if is_within {
        Standing::Applied
    } else {
        Standing::Diverged
    })
}

#[cfg(test)]
#[path = "history_test.rs"]
mod tests;
