//! Reads a group's hard state and the ends of its log when the group starts.

use std::io;

use bytes::Bytes;
use maia_common::GroupId;
use rocksdb::{DB, Direction, IteratorMode};

use super::super::codec::{self, CodecError};
use super::super::db::{CF_HARD_STATE, CF_LOG, family, io_error};
use super::super::keys::{HardState, group_range, hard_key, index_of_log_key, log_key};
use super::super::types::next_index;
use super::tail::Tail;

/// Whether this node has left the group.
pub(crate) fn has_left(db: &DB, group: GroupId) -> io::Result<bool> {
    Ok(read_hard(db, group, HardState::Left)?.is_some())
}

/// The group's tail as the disk has it: nothing in memory yet.
pub(crate) fn load_tail(db: &DB, group: GroupId, cap_bytes: usize) -> io::Result<Tail> {
    let damaged = |what: &str, error: &CodecError| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the {what} of group {group} is damaged: {error} (in {}). This group does not \
                 start; remove this node from the group and add a new node",
                db.path().display()
            ),
        )
    };
    let mut tail = Tail::new(cap_bytes);
    if let Some(bytes) = read_hard(db, group, HardState::Vote)? {
        tail.vote = Some(codec::decode_vote(bytes).map_err(|e| damaged("vote", &e))?);
    }
    if let Some(bytes) = read_hard(db, group, HardState::Purged)? {
        tail.purged = Some(codec::decode_log_id(bytes).map_err(|e| damaged("purged id", &e))?);
    }
    if let Some(bytes) = read_hard(db, group, HardState::Committed)? {
        let committed = codec::decode_log_id(bytes).map_err(|e| damaged("committed id", &e))?;
        tail.committed = Some(committed);
    }
    tail.last = tail.purged;
    tail.first = next_index(tail.purged.as_ref());
    if let Some((index, bytes)) = last_entry(db, group)? {
        let entry = codec::decode_entry(bytes)
            .map_err(|e| damaged(&format!("last log record (index {index})"), &e))?;
        tail.last = Some(entry.log_id).max(tail.last);
    }
    if tail.last > tail.purged && !has_entry(db, group, tail.first)? {
        let missing = CodecError::Missing("record after the purged ones");
        return Err(damaged(
            &format!("log record at index {}", tail.first),
            &missing,
        ));
    }
    // The committed id is written without sync of its own: it never leads the log.
    tail.committed = tail.committed.min(tail.last);
    Ok(tail)
}

fn read_hard(db: &DB, group: GroupId, kind: HardState) -> io::Result<Option<Bytes>> {
    let value = db
        .get_cf(family(db, CF_HARD_STATE), hard_key(group, kind))
        .map_err(io_error)?;
    Ok(value.map(Bytes::from))
}

fn has_entry(db: &DB, group: GroupId, index: u64) -> io::Result<bool> {
    let value = db
        .get_pinned_cf(family(db, CF_LOG), log_key(group, index))
        .map_err(io_error)?;
    Ok(value.is_some())
}

fn last_entry(db: &DB, group: GroupId) -> io::Result<Option<(u64, Bytes)>> {
    let (start, _) = group_range(group);
    let newest = log_key(group, u64::MAX);
    let mode = IteratorMode::From(&newest, Direction::Reverse);
    let Some(item) = db.iterator_cf(family(db, CF_LOG), mode).next() else {
        return Ok(None);
    };
    let (key, value) = item.map_err(io_error)?;
    if !key.starts_with(&start) {
        return Ok(None);
    }
    Ok(index_of_log_key(&key).map(|index| (index, Bytes::from(value))))
}
