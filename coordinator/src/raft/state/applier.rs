//! What the engine asks of whoever decides what records do. Implemented by the pure cores
//! (`core/metastore`, `core/data`); called by the groups' state machines, for one group never by
//! two threads at once.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use maia_common::{GroupId, Position};

use super::super::db::StateCf;
use crate::core::record::{Hlc, Outcome, Record};

/// Something to tell after a record is applied, such as what to wake watchers with. Opaque to the
/// engine: the applier downcasts it in [`Applier::applied`].
pub type Effect = Arc<dyn Any + Send + Sync>;

/// Why state could not be read: the disk, or rot. Stops the group.
#[derive(Debug, Clone, thiserror::Error)]
#[error("reading state failed: {reason}")]
pub struct StateError {
    /// What the database says.
    pub reason: String,
}

/// Keys and values of a scan, in key order.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// State as apply sees it: the database and all that earlier records of the same batch changed.
/// Keys are whole keys: [`group_key`](super::super::keys::group_key) makes them.
pub trait StateView {
    /// The value under the key.
    ///
    /// # Errors
    /// [`StateError`] when the database fails.
    fn get(&self, cf: StateCf, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// Up to `limit` rows whose keys begin with `prefix`, in key order, after the key `after`
    /// (exclusive) when one is given.
    ///
    /// # Errors
    /// [`StateError`] when the database fails.
    fn scan(
        &self,
        cf: StateCf,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, StateError>;
}

/// What one record changes, and whom to tell. Applied in the order in which it was pushed, as one
/// with the group's applied position. Keys must begin with the group's id.
#[derive(Default)]
pub struct Mutations {
    pub(crate) writes: Vec<Write>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) trace: Option<Bytes>,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) cf: StateCf,
    pub(crate) key: Vec<u8>,
    /// None deletes.
    pub(crate) value: Option<Vec<u8>>,
}

impl Mutations {
    /// Sets the value under the key.
    pub fn put(&mut self, cf: StateCf, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.push(Write {
            cf,
            key: key.into(),
            value: Some(value.into()),
        });
    }

    /// Removes the key.
    pub fn delete(&mut self, cf: StateCf, key: impl Into<Vec<u8>>) {
        self.writes.push(Write {
            cf,
            key: key.into(),
            value: None,
        });
    }

    /// Something to be given to [`Applier::applied`] once the change is visible.
    pub fn effect<E: Any + Send + Sync>(&mut self, effect: E) {
        self.effects.push(Arc::new(effect));
    }

    /// What the record did, where the record alone does not tell: kept beside the log on this node, for as
    /// long as the entry is. No part of the state.
    pub fn trace(&mut self, trace: Bytes) {
        self.trace = Some(trace);
    }

    /// Takes over what another record part changed, behind what is here.
    pub fn append(&mut self, mut other: Mutations) {
        self.writes.append(&mut other.writes);
        self.effects.append(&mut other.effects);
    }

    /// All changes of keys, in order; a value of none deletes. For states that are not databases.
    pub fn into_writes(self) -> impl Iterator<Item = (StateCf, Vec<u8>, Option<Vec<u8>>)> {
        self.writes
            .into_iter()
            .map(|write| (write.cf, write.key, write.value))
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Where a state that was not applied comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The database, as an earlier instance left it, or as the start mended it: even one of this process
    /// may have ended between writing and telling.
    Disk,
    /// Another node: it replaced the group's whole state.
    Snapshot,
}

/// Decides what a committed record does. Deterministic: the same records on the same state give
/// the same writes and outcomes on every node (I13).
pub trait Applier: Send + Sync + 'static {
    /// Reads `view`, which includes the writes of earlier records of the batch, and pushes what
    /// the record changes to `out`.
    ///
    /// # Errors
    /// Only when `view` failed: it stops the group. A record that is refused is an [`Outcome`].
    fn apply(
        &self,
        group: GroupId,
        position: Position,
        record: &Record,
        view: &dyn StateView,
        out: &mut Mutations,
    ) -> Result<Outcome, StateError>;

    /// A group's state is there that was not applied here and now, and nothing was applied to it yet; it
    /// may be newer than what was told of the group before, so watchers must resync. `greatest`: the
    /// greatest reading of the records that made it.
    ///
    /// # Errors
    /// When the database failed: the group stops, and its next start calls this again. Who swallowed it would
    /// leave watchers with the old state for as long as nothing is applied.
    fn restored(&self, group: GroupId, greatest: Hlc, source: Source) -> Result<(), StateError>;

    /// After the batch up to `last` is visible in the database: for watches. Must return soon.
    fn applied(&self, group: GroupId, last: Position, effects: Vec<Effect>);
}
