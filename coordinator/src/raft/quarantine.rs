//! The records in quarantine on this node: what left a log store before it was known to be committed.
//! Put there by the log store in the batch that removes them from the log; looked at, marked and
//! removed by the resolver and the operator (`shell/quarantine`), one at a time. Entries outlive their
//! group's presence on this node. Writes here are synced.

use std::io;
use std::sync::Arc;

use rocksdb::{DB, Direction, IteratorMode, WriteBatch, WriteOptions};

use super::db::{CF_QUARANTINE, family, io_error};
use crate::core::custody;
use crate::core::quarantine::{Entry, EntryError, EntryId};

/// The quarantine of this node. Cheap to clone.
#[derive(Clone)]
pub struct Quarantine {
    db: Arc<DB>,
}

/// An entry as it was found.
#[derive(Debug)]
pub struct Found {
    /// Where its record stood.
    pub id: EntryId,
    /// What it takes on disk, before compression.
    pub size_bytes: u64,
    /// It may have rotted.
    pub entry: Result<Entry, EntryError>,
}

/// A part of the entries.
#[derive(Debug, Default)]
pub struct Page {
    /// Those that were wanted.
    pub found: Vec<Found>,
    /// After which one to read on; none: there is nothing behind.
    pub next: Option<EntryId>,
}

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
        let page = self.search(after, (limit, max_bytes), |_| true)?;
        Ok(page.found)
    }

    /// The same of those that are wanted; reads about so many bytes of all.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn search(
        &self,
        after: Option<EntryId>,
        (limit, max_bytes): (usize, usize),
        wanted: impl Fn(&Found) -> bool,
    ) -> io::Result<Page> {
        let start = after.map(EntryId::key);
        let mode = match &start {
            Some(key) => IteratorMode::From(key, Direction::Forward),
            None => IteratorMode::Start,
        };
        let (mut page, mut bytes, mut last) = (Page::default(), 0, after);
        for row in self.db.iterator_cf(self.family(), mode) {
            if page.found.len() >= limit || bytes >= max_bytes {
                page.next = last;
                break;
            }
            let (key, value) = row.map_err(io_error)?;
            let Some(id) = EntryId::from_key(&key).filter(|id| Some(*id) > after) else {
                continue;
            };
            bytes += value.len();
            last = Some(id);
            let found = Found {
                id,
                size_bytes: value.len() as u64,
                entry: Entry::decode(value.into_vec().into()),
            };
            if wanted(&found) {
                page.found.push(found);
            }
        }
        Ok(page)
    }

    /// Whether there is an entry with this id, rotted or not.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn has(&self, id: EntryId) -> io::Result<bool> {
        let found = self.db.get_pinned_cf(self.family(), id.key());
        Ok(found.map_err(io_error)?.is_some())
    }

    /// Stores an entry that another node had, durably, beside one that may be here ([`custody::met`]).
    /// Returns its size in bytes. None: another record stands here under its id, and nothing was changed; the
    /// other node keeps its own.
    ///
    /// # Errors
    /// When the disk fails, or what stands here has rotted: then nothing is changed.
    pub fn adopt(&self, entry: Entry, is_trusted: bool) -> io::Result<Option<u64>> {
        let entry = match self.get(entry.id)? {
            None => entry,
            Some(known) => match custody::met(known, entry, is_trusted) {
                Some(entry) => entry,
                None => return Ok(None),
            },
        };
        let (mut batch, encoded) = (WriteBatch::default(), entry.encode());
        batch.put_cf(self.family(), entry.id.key(), &encoded);
        self.write(batch)?;
        Ok(Some(encoded.len() as u64))
    }

    /// Takes what was removed off the files.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn compact(&self) -> io::Result<()> {
        let family = self.family();
        self.db.flush_cf(family).map_err(io_error)?;
        let all = (None::<&[u8]>, None::<&[u8]>);
        self.db.compact_range_cf(family, all.0, all.1);
        Ok(())
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
        self.write(batch)
    }

    fn write(&self, batch: WriteBatch) -> io::Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(io_error)
    }

    fn family(&self) -> &rocksdb::ColumnFamily {
        family(&self.db, CF_QUARANTINE)
    }
}
