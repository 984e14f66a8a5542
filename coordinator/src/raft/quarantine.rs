//! The records in quarantine on this node: what left a log store before it was known to be committed.
//! Put there by the log store in the batch that removes them from the log; looked at, marked and
//! removed by the resolver and the operator (`shell/quarantine`), one at a time. Entries outlive their
//! group's presence on this node. Writes here are synced.

use std::io;
use std::sync::Arc;

use rocksdb::{DB, Direction, IteratorMode, WriteBatch, WriteOptions};

use super::db::{CF_QUARANTINE, family, io_error};
use crate::core::quarantine::{Entry, EntryError, EntryId};

/// The quarantine of this node. Cheap to clone.
#[derive(Clone)]
pub struct Quarantine {
    db: Arc<DB>,
}

/// An entry as it was found; it may have rotted.
pub type Found = (EntryId, Result<Entry, EntryError>);

impl Quarantine {
    pub(crate) fn new(db: Arc<DB>) -> Self {
        Self { db }
    }

    /// The entry with this id.
    ///
    /// # Errors
    /// When the disk fails or the entry has rotted.
    pub fn get(&self, id: EntryId) -> io::Result<Option<Entry>> {
        let found = self.db.get_cf(self.family(), id.key()).map_err(io_error)?;
        let rotten = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        found
            .map(|bytes| Entry::decode(bytes.into()).map_err(rotten))
            .transpose()
    }

    /// Entries in the order of group, term and index, after `after`: up to `limit` of them and about
    /// `max_bytes`, but at least one.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn page(
        &self,
        after: Option<EntryId>,
        limit: usize,
        max_bytes: usize,
    ) -> io::Result<Vec<Found>> {
        let start = after.map(EntryId::key);
        let mode = match &start {
            Some(key) => IteratorMode::From(key, Direction::Forward),
            None => IteratorMode::Start,
        };
        let (mut found, mut bytes) = (Vec::new(), 0);
        for row in self.db.iterator_cf(self.family(), mode) {
            if found.len() >= limit || bytes >= max_bytes {
                break;
            }
            let (key, value) = row.map_err(io_error)?;
            let Some(id) = EntryId::from_key(&key).filter(|id| Some(*id) > after) else {
                continue;
            };
            bytes += value.len();
            found.push((id, Entry::decode(value.into_vec().into())));
        }
        Ok(found)
    }

    /// How many entries there are, rotted ones counted.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn count(&self) -> io::Result<u64> {
        let rows = self.db.iterator_cf(self.family(), IteratorMode::Start);
        rows.map(|row| row.map(|_| 1_u64).map_err(io_error)).sum()
    }

    /// Stores entries anew that wait from now on, unless they are gone, and removes others, in one
    /// write that is synced. To remove one that is not there is no error.
    ///
    /// # Errors
    /// When the disk fails: then nothing is changed.
    pub fn change(&self, marked: &[Entry], gone: &[EntryId]) -> io::Result<()> {
        let (mut batch, family) = (WriteBatch::default(), self.family());
        for entry in marked {
            let key = entry.id.key();
            let found = self.db.get_pinned_cf(family, key).map_err(io_error)?;
            if found.is_some() {
                batch.put_cf(family, key, entry.encode());
            }
        }
        for id in gone {
            batch.delete_cf(family, id.key());
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(io_error)
    }

    fn family(&self) -> &rocksdb::ColumnFamily {
        family(&self.db, CF_QUARANTINE)
    }
}
