//! The metastore: a small linearizable store of everything about the cluster, with two backends
//! and one conformance suite: `raft` (group 0, replicated) and `memory` (tests). Reads are local;
//! [`Metastore::catch_up`] first makes them linearizable. Watching is reading the history: a
//! watcher holds only its revision, so a slow one costs nothing (I12).

pub mod memory;
pub mod raft;
pub mod watch;

#[cfg(test)]
mod conformance;

use std::time::Instant;

use futures::future::BoxFuture;
use maia_common::position::Revision;
use serde::de::DeserializeOwned;
use tokio::sync::watch as notify;

use crate::core::metastore::{self as core, Transaction};
use crate::raft::{StateCf, StateError, StateView};

pub use raft::RaftMetastore;
pub use watch::{Watch, WatchError};

/// What a transaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect as this revision, visible here by now.
    Committed(Revision),
    /// The precondition with this number (from 0) did not hold; nothing happened.
    Conflict(u32),
}

/// Why the metastore can't say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetastoreError {
    /// No leader until the deadline; the transaction did not take effect.
    #[error("the metastore has no leader now")]
    Leaderless,
    /// Proposed, but not answered: it may or may not take effect.
    #[error("the metastore did not answer in time: the change may or may not take effect")]
    OutcomeUnknown,
    /// No room, or too busy: it did not take effect.
    #[error("{0}")]
    Refused(maia_common::ErrorCode, String),
    /// The transaction is illegal: a bug of the caller.
    #[error("illegal transaction: {0}")]
    Illegal(String),
    /// The local state can't be read.
    #[error("{0}")]
    State(String),
}

impl From<StateError> for MetastoreError {
    fn from(error: StateError) -> Self {
        MetastoreError::State(error.reason)
    }
}

/// A value and the revision that last changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// For [`core::Precondition::At`].
    pub revision: Revision,
    /// The revision that created the key.
    pub created: Revision,
}

/// A backend. Transactions are atomic and linearizable; an answer that was lost is safe to ask for
/// again with the same transaction, within the history's length.
pub trait Metastore: Send + Sync + 'static {
    /// Runs the transaction. Durable on a majority, and visible in local reads, when it returns.
    ///
    /// # Errors
    /// [`MetastoreError`]; only `OutcomeUnknown` leaves open whether it took effect.
    fn transact(
        &self,
        transaction: Transaction,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Outcome, MetastoreError>>;

    /// Returns when local reads see all that was committed before this call.
    ///
    /// # Errors
    /// [`MetastoreError::Leaderless`] when that can't be known by the deadline.
    fn catch_up(&self, deadline: Instant) -> BoxFuture<'_, Result<(), MetastoreError>>;

    /// Gives the local state, at one moment, to `read`.
    ///
    /// # Errors
    /// What `read` returns.
    fn read(
        &self,
        read: &mut dyn FnMut(&dyn StateView) -> Result<(), StateError>,
    ) -> Result<(), StateError>;

    /// Tells the newest revision that is visible here.
    fn revisions(&self) -> notify::Receiver<Revision>;
}

/// One value, read as JSON.
///
/// # Errors
/// [`MetastoreError::State`] when the state can't be read, or the value is not JSON of its kind.
pub fn get<T: DeserializeOwned>(
    store: &dyn Metastore,
    key: &str,
) -> Result<Option<Versioned<T>>, MetastoreError> {
    let mut found = None;
    store.read(&mut |view| {
        found = get_at(view, key)?;
        Ok(())
    })?;
    Ok(found)
}

/// One value of a view, read as JSON.
///
/// # Errors
/// [`StateError`] when the view fails, or the value is not JSON of its kind.
pub fn get_at<T: DeserializeOwned>(
    view: &dyn StateView,
    key: &str,
) -> Result<Option<Versioned<T>>, StateError> {
    let Some(bytes) = view.get(StateCf::Meta, &core::meta_key(key))? else {
        return Ok(None);
    };
    let stored = core::decode_value(bytes)?;
    let value = serde_json::from_slice(&stored.value).map_err(|error| StateError {
        reason: format!("the value of `{key}`: {error}"),
    })?;
    Ok(Some(Versioned {
        value,
        revision: Revision::new(stored.revision),
        created: Revision::new(stored.create_revision),
    }))
}

/// One row of a range: the key, its value and the revision that last changed it.
pub type Row = (String, Versioned<bytes::Bytes>);

/// Up to `limit` keys that begin with `prefix`, in order, after the key `after`.
///
/// # Errors
/// [`StateError`] when the view fails.
pub fn range(
    view: &dyn StateView,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Row>, StateError> {
    let after = after.map(core::meta_key);
    let rows = view.scan(
        StateCf::Meta,
        &core::meta_key(prefix),
        after.as_deref(),
        limit,
    )?;
    rows.into_iter()
        .map(|(key, bytes)| {
            let key = core::suffix_of(&key)
                .ok_or_else(|| StateError {
                    reason: "a key that is not UTF-8".into(),
                })?
                .to_owned();
            let stored = core::decode_value(bytes)?;
            let (revision, created) = (
                Revision::new(stored.revision),
                Revision::new(stored.create_revision),
            );
            Ok((
                key,
                Versioned {
                    value: stored.value,
                    revision,
                    created,
                },
            ))
        })
        .collect()
}
