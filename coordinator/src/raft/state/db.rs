//! The `state/` database with what the engine itself keeps in it: a group's applied position and
//! membership, in the same batch as the data that they describe. Nothing here is synced by a
//! write; [`StateDb::sync`] is called before a log is purged.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use maia_common::GroupId;
use rocksdb::{DB, WriteBatch};

use super::super::codec;
use super::super::db::{StateCf, family, io_error};
use super::super::keys::{APPLIED_MARK, INSTALLING_MARK, group_key, group_range};
use super::super::types::{RaftLogId, RaftStoredMembership};

/// The `state/` database.
pub(crate) struct StateDb {
    pub(crate) db: Arc<DB>,
}

impl StateDb {
    pub(crate) fn new(db: Arc<DB>) -> Self {
        Self { db }
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
