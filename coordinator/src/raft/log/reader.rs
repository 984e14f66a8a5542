//! Reads a group's log: from the tail in memory where it can (replication and apply nearly always),
//! else from disk, off the runtime's threads. A record that has rotted, or a hole, stops the group
//! with an error that says where and what to do; never the process.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use maia_common::GroupId;
use openraft::{OptionalSend, RaftLogReader};
use rocksdb::{DB, Direction, IteratorMode, ReadOptions};

use super::super::codec;
use super::super::db::{CF_LOG, family, io_error};
use super::super::keys::{index_of_log_key, log_key};
use super::super::types::{RaftEntry, RaftVote, TypeConfig};
use super::store::{GroupLog, SharedTail};
use super::tail::EntryReadError;

/// Bytes of entries in one append message, about: keeps messages below the gRPC limit and lets
/// other groups' messages in between.
const MAX_READ_BYTES: usize = 4 << 20;

/// A reader of one group's log.
#[derive(Clone)]
pub(crate) struct LogReader {
    group: GroupId,
    tail: SharedTail,
    db: Arc<DB>,
    /// Whether Raft itself reads: then what can't be read ends the group, else only the reader's work.
    is_rafts: bool,
}

impl LogReader {
    pub(crate) fn new(log: &GroupLog) -> Self {
        Self {
            group: log.group,
            tail: log.tail.clone(),
            db: Arc::clone(&log.db),
            is_rafts: true,
        }
    }

    /// A reader of a running group's log for others than Raft.
    pub(crate) fn over(group: GroupId, tail: SharedTail, db: Arc<DB>) -> Self {
        Self {
            group,
            tail,
            db,
            is_rafts: false,
        }
    }

    /// Entries `[start, end)` as far as the log has them, up to about `max_bytes`.
    pub(crate) async fn read(
        &self,
        start: u64,
        end: u64,
        max_bytes: usize,
    ) -> io::Result<Vec<RaftEntry>> {
        let mut out = Vec::new();
        let on_disk_until = {
            let tail = self.tail.lock();
            let (start, end) = tail.clip(start, end);
            if start >= end {
                return Ok(out);
            }
            let kept = tail.first_kept();
            if start >= kept {
                tail.read(start, end, max_bytes, &mut out);
                return Ok(out);
            }
            end.min(kept)
        };
        let (start, _) = self.tail.lock().clip(start, end);
        let (out, bytes) = self.read_disk(start, on_disk_until, max_bytes).await?;
        self.then_memory(out, bytes, on_disk_until, end, max_bytes)
            .await
    }

    async fn then_memory(
        &self,
        mut out: Vec<RaftEntry>,
        bytes: usize,
        from: u64,
        end: u64,
        max_bytes: usize,
    ) -> io::Result<Vec<RaftEntry>> {
        let reached = out.last().is_some_and(|e| e.log_id.index() + 1 == from);
        if !reached || bytes >= max_bytes || from >= end {
            return Ok(out);
        }
        // More may have left memory meanwhile: then that part is on disk as well.
        let kept = self.tail.lock().first_kept().min(end);
        let mut memory_from = from;
        if kept > from {
            let (more, _) = self.read_disk(from, kept, max_bytes - bytes).await?;
            out.extend(more);
            memory_from = out.last().map_or(from, |e| e.log_id.index() + 1);
            if memory_from < kept {
                return Ok(out);
            }
        }
        let tail = self.tail.lock();
        let (_, end) = tail.clip(memory_from, end);
        if memory_from >= tail.first_kept() && memory_from < end {
            tail.read(memory_from, end, max_bytes - bytes, &mut out);
        }
        Ok(out)
    }

    async fn read_disk(
        &self,
        start: u64,
        end: u64,
        max_bytes: usize,
    ) -> io::Result<(Vec<RaftEntry>, usize)> {
        let (db, group) = (Arc::clone(&self.db), self.group);
        let read =
            tokio::task::spawn_blocking(move || read_range(&db, group, start, end, max_bytes));
        match read.await.map_err(io::Error::other)? {
            Ok(found) => Ok(found),
            // Purged meanwhile: those entries are no longer part of the log.
            Err((index, _)) if index < self.tail.lock().clip(index, end).0 => Ok((Vec::new(), 0)),
            Err((index, error)) => Err(self.failed(index, error)),
        }
    }

    fn failed(&self, index: u64, error: EntryReadError) -> io::Error {
        if let EntryReadError::Db(error) = &error
            && error.kind() != rocksdb::ErrorKind::Corruption
        {
            return io_error(error.clone());
        }
        self.tail.lock().damaged |= self.is_rafts;
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the log of group {} is damaged at index {index}: {error} (family `log` of {}). \
                 This group stops here; others go on. Its other members have the record: check \
                 this disk, then remove this node from the group and add a new node",
                self.group,
                self.db.path().display(),
            ),
        )
    }
}

/// Entries `[start, end)` from disk, without holes; at least one, then up to `max_bytes`.
fn read_range(
    db: &DB,
    group: GroupId,
    start: u64,
    end: u64,
    max_bytes: usize,
) -> Result<(Vec<RaftEntry>, usize), (u64, EntryReadError)> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(log_key(group, end).to_vec());
    let first = log_key(group, start);
    let mode = IteratorMode::From(&first, Direction::Forward);
    let mut iterator = db.iterator_cf_opt(family(db, CF_LOG), options, mode);
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for index in start..end {
        let (key, value) = match iterator.next() {
            None => return Err((index, EntryReadError::Missing)),
            Some(item) => item.map_err(|e| (index, e.into()))?,
        };
        if index_of_log_key(&key) != Some(index) {
            return Err((index, EntryReadError::Missing));
        }
        bytes += value.len();
        let entry = codec::decode_entry(Bytes::from(value)).map_err(|e| (index, e.into()))?;
        if entry.log_id.index() != index {
            return Err((index, EntryReadError::WrongIndex(entry.log_id.index())));
        }
        entries.push(entry);
        if bytes >= max_bytes {
            break;
        }
    }
    Ok((entries, bytes))
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<RaftEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        self.read(start, end, MAX_READ_BYTES).await
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.tail.lock().vote)
    }
}
