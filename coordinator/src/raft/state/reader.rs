//! Reads of applied state by everyone else: the API, the feed, reconcilers. A read sees some
//! prefix of what was applied; a [`StateSnapshot`] sees one prefix for as long as it is held.
//! While a large snapshot is being installed in pieces a group's keys are incomplete: see
//! [`StateSnapshot::check_complete`].

use std::sync::Arc;

use maia_common::GroupId;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions};

use super::super::db::{StateCf, family};
use super::super::keys::{INSTALLING_MARK, group_key};
use super::applier::{Rows, StateError, StateView};

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
