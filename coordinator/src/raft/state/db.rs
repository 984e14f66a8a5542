//! The `state/` database with what the engine itself keeps in it: a group's applied position and
//! membership, and what entries did (traces), in the same batch as the data that they describe. Nothing here is synced by a
//! write; [`StateDb::sync`] is called before a log is purged.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use maia_common::GroupId;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions, WriteBatch};

use super::super::codec;
use super::super::db::{StateCf, family, io_error};
use super::super::keys::{
    APPLIED_MARK, INSTALLED_MARK, INSTALLING_MARK, group_key, group_range, index_of_trace_key,
    trace_key,
};
use super::super::types::{RaftLogId, RaftStoredMembership};
use super::incarnation::{Incarnation, Incarnations};

/// The `state/` database.
pub(crate) struct StateDb {
    pub(crate) db: Arc<DB>,
    incarnations: Incarnations,
}

impl StateDb {
    pub(crate) fn new(db: Arc<DB>) -> Self {
        Self {
            db,
            incarnations: Incarnations::default(),
        }
    }

    /// From now on nobody else writes the group's state; blocks while an older one writes a batch.
    pub(crate) fn begin(&self, group: GroupId) -> Incarnation {
        self.incarnations.begin(group)
    }

    /// Deletes the group's state. Whatever an instance of it has under way writes nothing any more.
    pub(crate) fn forget_group(&self, group: GroupId) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        self.delete_group(&mut batch, group);
        self.incarnations.end(group, &self.db, batch)
    }

    /// Makes all that was written so far survive a power cut.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let db = Arc::clone(&self.db);
        tokio::task::spawn_blocking(move || db.flush_wal(true).map_err(io_error))
            .await
            .map_err(io::Error::other)?
    }

    /// Up to where the group is applied, and the membership as of there.
    pub(crate) fn applied(
        &self,
        group: GroupId,
    ) -> io::Result<(Option<RaftLogId>, RaftStoredMembership)> {
        match self.mark(group, APPLIED_MARK)? {
            None => Ok((None, RaftStoredMembership::default())),
            Some(bytes) => decode_applied(group, bytes),
        }
    }

    /// Adds the applied position to a batch.
    pub(crate) fn put_applied(
        &self,
        batch: &mut WriteBatch,
        group: GroupId,
        last: Option<&RaftLogId>,
        membership: &RaftStoredMembership,
    ) {
        let value = codec::encode_applied(last, membership);
        batch.put_cf(self.marks(), group_key(group, APPLIED_MARK), value);
    }

    /// Whether an install in pieces was begun and not ended.
    pub(crate) fn is_installing(&self, group: GroupId) -> io::Result<bool> {
        Ok(self.mark(group, INSTALLING_MARK)?.is_some())
    }

    /// Adds or removes the sign of an install in pieces.
    pub(crate) fn put_installing(&self, batch: &mut WriteBatch, group: GroupId, installing: bool) {
        let key = group_key(group, INSTALLING_MARK);
        if installing {
            batch.put_cf(self.marks(), key, [1]);
        } else {
            batch.delete_cf(self.marks(), key);
        }
    }

    /// Adds the deletion of all keys of the group in every family.
    pub(crate) fn delete_group(&self, batch: &mut WriteBatch, group: GroupId) {
        let (start, end) = group_range(group);
        for cf in StateCf::ALL {
            let cf = family(&self.db, cf.name());
            batch.delete_range_cf(cf, start.as_slice(), end.as_slice());
        }
    }

    /// Adds what entries did, by index, to the batch that applies them.
    pub(crate) fn put_traces(
        &self,
        batch: &mut WriteBatch,
        group: GroupId,
        traces: &[(u64, Bytes)],
    ) {
        for (index, trace) in traces {
            batch.put_cf(self.marks(), trace_key(group, *index), trace);
        }
    }

    /// What the entries `[start, end)` did, by index, up to about `max_bytes` but at least one.
    pub(crate) fn traces(
        &self,
        group: GroupId,
        (start, end): (u64, u64),
        max_bytes: usize,
    ) -> io::Result<BTreeMap<u64, Bytes>> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(trace_key(group, end));
        let first = trace_key(group, start);
        let mode = IteratorMode::From(&first, Direction::Forward);
        let (mut traces, mut bytes) = (BTreeMap::new(), 0);
        for row in self.db.iterator_cf_opt(self.marks(), options, mode) {
            let (key, value) = row.map_err(io_error)?;
            bytes += value.len();
            traces.extend(index_of_trace_key(&key).map(|index| (index, Bytes::from(value))));
            if bytes >= max_bytes {
                break;
            }
        }
        Ok(traces)
    }

    /// Forgets what the entries up to this one did: they leave the log.
    pub(crate) fn drop_traces(&self, group: GroupId, upto: u64) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        let (start, end) = (
            trace_key(group, 0),
            trace_key(group, upto.saturating_add(1)),
        );
        batch.delete_range_cf(self.marks(), start, end);
        self.write(batch)
    }

    /// Up to where the group's state came with a snapshot: what the log still has up to there was not
    /// applied here, and need not be part of the history.
    pub(crate) fn installed(&self, group: GroupId) -> io::Result<Option<RaftLogId>> {
        let bytes = self.mark(group, INSTALLED_MARK)?;
        let decoded = bytes.filter(|bytes| !bytes.is_empty());
        let decoded = decoded.map(codec::decode_log_id).transpose();
        decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    }

    /// Adds that the state up to this position came with a snapshot.
    pub(crate) fn put_installed(
        &self,
        batch: &mut WriteBatch,
        group: GroupId,
        last: Option<&RaftLogId>,
    ) {
        if let Some(last) = last {
            let key = group_key(group, INSTALLED_MARK);
            batch.put_cf(self.marks(), key, codec::encode_log_id(last));
        }
    }

    /// Before anything is applied: what an earlier version applied left no traces, so it counts as if it
    /// had come with a snapshot. The mark without a position says that nothing did.
    pub(crate) fn begin_traces(&self, incarnation: &Incarnation) -> io::Result<()> {
        let group = incarnation.group();
        if self.mark(group, INSTALLED_MARK)?.is_some() {
            return Ok(());
        }
        let (applied, _) = self.applied(group)?;
        let value = applied.as_ref().map(codec::encode_log_id);
        let mut batch = WriteBatch::default();
        let key = group_key(group, INSTALLED_MARK);
        batch.put_cf(self.marks(), key, value.unwrap_or_default());
        incarnation.write(&self.db, batch)
    }

    /// What the traces of the entries `[start, end)` weigh on disk, about.
    pub(crate) fn trace_bytes(&self, group: GroupId, (start, end): (u64, u64)) -> u64 {
        let keys = (trace_key(group, start), trace_key(group, end));
        let range = rocksdb::Range::new(&keys.0, &keys.1);
        let sizes = self.db.get_approximate_sizes_cf(self.marks(), &[range]);
        sizes.first().copied().unwrap_or(0)
    }

    /// What a snapshot of the group may weigh at most, about: the files are compressed, and what is in
    /// memory is not told apart by groups.
    pub(crate) fn snapshot_bytes(&self, group: GroupId) -> u64 {
        const INFLATED: u64 = 4;
        let (start, end) = group_range(group);
        let of_family = |cf: StateCf| {
            let cf = family(&self.db, cf.name());
            let range = rocksdb::Range::new(&start, &end);
            let sizes = self.db.get_approximate_sizes_cf(cf, &[range]);
            let in_files = sizes.first().copied().unwrap_or(u64::MAX);
            let name = rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES;
            let in_memory = self.db.property_int_value_cf(cf, name).ok().flatten();
            let in_files = in_files.saturating_mul(INFLATED);
            in_files.saturating_add(in_memory.unwrap_or(u64::MAX))
        };
        let sizes = StateCf::ALL.into_iter().map(of_family);
        sizes.fold(0, u64::saturating_add)
    }

    /// For what is no part of a group's state: that is written by its [`Incarnation`] alone.
    pub(crate) fn write(&self, batch: WriteBatch) -> io::Result<()> {
        self.db.write(batch).map_err(io_error)
    }

    fn marks(&self) -> &rocksdb::ColumnFamily {
        family(&self.db, StateCf::Marks.name())
    }

    fn mark(&self, group: GroupId, suffix: &[u8]) -> io::Result<Option<Bytes>> {
        let value = self
            .db
            .get_cf(self.marks(), group_key(group, suffix))
            .map_err(io_error)?;
        Ok(value.map(Bytes::from))
    }
}

/// Decodes an applied mark.
pub(crate) fn decode_applied(
    group: GroupId,
    bytes: Bytes,
) -> io::Result<(Option<RaftLogId>, RaftStoredMembership)> {
    codec::decode_applied(bytes).map_err(|error| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the applied mark of group {group} is damaged: {error}. This group stops; remove \
                 this node from the group and add a new node"
            ),
        )
    })
}
