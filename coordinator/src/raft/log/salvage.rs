//! What can still be read of a log that is damaged: for a node that leaves the group, so that one rotted
//! row does not take along all that is not known to be committed (I3). Called by `GroupLog::leave`
//! alone: a log that is to go on is never read past a hole.

use bytes::Bytes;
use maia_common::GroupId;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions};

use super::super::codec;
use super::super::db::{CF_LOG, family};
use super::super::keys::{group_range, index_of_log_key, log_key};
use super::super::types::RaftEntry;

/// A part of a log.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// What could be read, in order.
    pub(super) entries: Vec<RaftEntry>,
    /// Where to go on; none: that was the end.
    pub(super) next: Option<u64>,
    /// Rows, or pieces of the file, that could not be read.
    pub(super) lost: u64,
}

/// Reads from this index on, up to about `max_bytes`, past what can't be read. Where the file itself
/// fails, the rows next to it are skipped, ever more of them: the end comes in some 60 steps.
pub(super) fn read_on(db: &DB, group: GroupId, from: u64, max_bytes: usize) -> Part {
    let (mut part, mut index, mut stride, mut bytes) = (Part::default(), from, 1u64, 0);
    'file: loop {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(group_range(group).1);
        let first = log_key(group, index);
        let mode = IteratorMode::From(&first, Direction::Forward);
        for row in db.iterator_cf_opt(family(db, CF_LOG), options, mode) {
            let (key, value) = match row {
                Ok(row) => row,
                Err(error) => {
                    tracing::error!(%group, index, %error, "a part of the log can't be read");
                    part.lost += 1;
                    let Some(beyond) = index.checked_add(stride) else {
                        return part;
                    };
                    (index, stride) = (beyond, stride.saturating_mul(2));
                    continue 'file;
                }
            };
            let Some(at) = index_of_log_key(&key) else {
                continue;
            };
            index = at.saturating_add(1);
            stride = 1;
            bytes += value.len();
            match codec::decode_entry(Bytes::from(value)) {
                Ok(entry) if entry.log_id.index() == at => part.entries.push(entry),
                Ok(entry) => {
                    let is = entry.log_id.index();
                    tracing::error!(%group, index = at, is, "a log record is of another index");
                    part.lost += 1;
                }
                Err(error) => {
                    tracing::error!(%group, index = at, %error, "a log record can't be read");
                    part.lost += 1;
                }
            }
            if bytes >= max_bytes {
                part.next = Some(index);
                return part;
            }
        }
        return part;
    }
}
