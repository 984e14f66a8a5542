//! Reads of applied state by everyone else: the API, the feed, reconcilers. A read sees some
//! prefix of what was applied; a [`StateSnapshot`] sees one prefix for as long as it is held.
//! While a large snapshot is being installed in pieces a group's keys are incomplete: see
//! [`StateSnapshot::check_complete`].

use std::sync::Arc;

use maia_common::{GroupId, Position};
use rocksdb::{DB, Direction, IteratorMode, ReadOptions};

use super::super::db::{StateCf, family};
use super::super::keys::{APPLIED_MARK, INSTALLING_MARK, group_key, group_range};
use super::super::types::position_of;
use super::applier::{Rows, StateError, StateView};
use super::db::decode_applied;
use crate::core::history::{self, Standing};

/// A handle to applied state. Cheap to clone.
#[derive(Clone)]
pub struct StateReader {
    db: Arc<DB>,
}

impl StateReader {
    pub(crate) fn new(db: Arc<DB>) -> Self {
        Self { db }
    }

    /// A view that does not change while it is held. Hold it briefly: it keeps old versions alive.
    #[must_use]
    pub fn snapshot(&self) -> StateSnapshot<'_> {
        StateSnapshot {
            db: &self.db,
            snapshot: self.db.snapshot(),
        }
    }
}

impl StateView for StateReader {
    fn get(&self, cf: StateCf, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        get(&self.db, cf, key)
    }

    fn scan(
        &self,
        cf: StateCf,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, StateError> {
        scan(&self.db, cf, prefix, after, limit)
    }
}

/// Applied state at one moment.
pub struct StateSnapshot<'a> {
    db: &'a DB,
    snapshot: rocksdb::Snapshot<'a>,
}

impl StateSnapshot<'_> {
    /// Whether all of the group's keys are here: not so in the middle of a large snapshot's
    /// installation.
    ///
    /// # Errors
    /// [`StateError`] that says so, or that the database failed.
    pub fn check_complete(&self, group: GroupId) -> Result<(), StateError> {
        let mark = group_key(group, INSTALLING_MARK);
        match self.get(StateCf::Marks, &mark)? {
            None => Ok(()),
            Some(_) => Err(StateError {
                reason: format!("the state of group {group} is just being replaced by a newer one"),
            }),
        }
    }
}

impl StateSnapshot<'_> {
    /// What the group's history says of a position; `NotYet` where the state is not whole just now.
    ///
    /// # Errors
    /// [`StateError`] when the database fails or has rotted.
    pub fn standing(&self, group: GroupId, position: Position) -> Result<Standing, StateError> {
        if self.check_complete(group).is_err() {
            return Ok(Standing::NotYet);
        }
        match self.applied(group)? {
            None => Ok(Standing::NotYet),
            Some(applied) => history::standing(group, position, applied, self),
        }
    }

    /// All rows of the group in a family, in key order, past the block cache, until one fails.
    pub(super) fn each_row(
        &self,
        cf: StateCf,
        group: GroupId,
        mut row: impl FnMut(&[u8], &[u8]) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let (start, end) = group_range(group);
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options.set_iterate_upper_bound(end);
        options.fill_cache(false);
        let mode = IteratorMode::From(&start, Direction::Forward);
        for item in self
            .db
            .iterator_cf_opt(family(self.db, cf.name()), options, mode)
        {
            let (key, value) = item.map_err(state_error)?;
            row(&key, &value)?;
        }
        Ok(())
    }

    /// Up to where the group is applied in this view.
    ///
    /// # Errors
    /// [`StateError`] when the database fails or has rotted.
    pub fn applied(&self, group: GroupId) -> Result<Option<Position>, StateError> {
        let mark = self.get(StateCf::Marks, &group_key(group, APPLIED_MARK))?;
        let Some(bytes) = mark else { return Ok(None) };
        let (last, _) = decode_applied(group, bytes.into()).map_err(|error| StateError {
            reason: error.to_string(),
        })?;
        Ok(last.as_ref().map(position_of))
    }
}

impl StateView for StateSnapshot<'_> {
    fn get(&self, cf: StateCf, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.snapshot
            .get_cf(family(self.db, cf.name()), key)
            .map_err(state_error)
    }

    fn scan(
        &self,
        cf: StateCf,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, StateError> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        scan_with(self.db, options, cf, prefix, after, limit)
    }
}

pub(crate) fn get(db: &DB, cf: StateCf, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
    db.get_cf(family(db, cf.name()), key).map_err(state_error)
}

pub(crate) fn scan(
    db: &DB,
    cf: StateCf,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Rows, StateError> {
    scan_with(db, ReadOptions::default(), cf, prefix, after, limit)
}

fn scan_with(
    db: &DB,
    mut options: ReadOptions,
    cf: StateCf,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Rows, StateError> {
    if let Some(end) = prefix_end(prefix) {
        options.set_iterate_upper_bound(end);
    }
    let from = after.filter(|after| *after >= prefix).unwrap_or(prefix);
    let mode = IteratorMode::From(from, Direction::Forward);
    let mut rows = Rows::new();
    for item in db.iterator_cf_opt(family(db, cf.name()), options, mode) {
        let (key, value) = item.map_err(state_error)?;
        if rows.len() >= limit || !key.starts_with(prefix) {
            break;
        }
        if after != Some(&*key) {
            rows.push((key.into_vec(), value.into_vec()));
        }
    }
    Ok(rows)
}

/// The least key above all keys with this prefix; none when there is none above.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

pub(crate) fn state_error(error: rocksdb::Error) -> StateError {
    StateError {
        reason: error.into_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(prefix_end(&[255]), None);
        assert_eq!(prefix_end(b""), None);
    }
}
