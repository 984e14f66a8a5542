//! Reads a group's hard state and the ends of its log when the group starts, and checks what is
//! between: a hole that nobody notices would be acknowledged (I2).

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io;

use bytes::Bytes;
use maia_common::GroupId;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions};

use super::super::codec;
use super::super::db::{CF_HARD_STATE, CF_LOG, family, io_error};
use super::super::keys::{
    HardState, group_range, hard_key, hard_state_of, index_of_log_key, log_key,
};
use super::super::types::{RaftLogId, next_index, term_of};
use super::ledger::Ledger;
use super::tail::{EntryReadError, Tail, written_ms};
use crate::core::retention::Part;

/// Into so many parts a log that was found is taken: as exactly it is dropped again.
const FOUND_PARTS: u64 = 32;

/// Whether this node has left the group.
pub(crate) fn has_left(db: &DB, group: GroupId) -> io::Result<bool> {
    Ok(read_hard(db, group, HardState::Left)?.is_some())
}

/// The groups that have a hard state, and no mark that they were left.
pub(crate) fn not_left(db: &DB) -> io::Result<BTreeSet<GroupId>> {
    let (mut had, mut left) = (BTreeSet::new(), BTreeSet::new());
    for row in db.iterator_cf(family(db, CF_HARD_STATE), IteratorMode::Start) {
        let (key, _) = row.map_err(io_error)?;
        if let Some((group, kind)) = hard_state_of(&key) {
            had.insert(group);
            if kind == HardState::Left as u8 {
                left.insert(group);
            }
        }
    }
    Ok(&had - &left)
}

/// The group's tail as the disk has it: nothing in memory yet.
/// What is `applied` is not needed any more to go on; all after it must be there without a hole, and
/// its terms must not fall.
///
/// # Errors
/// Of kind `InvalidData` when what the disk has is not what was written.
pub(crate) fn load_tail(
    db: &DB,
    group: GroupId,
    applied: Option<RaftLogId>,
    cap_bytes: usize,
) -> io::Result<Tail> {
    let damaged = |what: &str, error: &dyn Display| {
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
        let missing = EntryReadError::Missing;
        return Err(damaged(
            &format!("log record at index {}", tail.first),
            &missing,
        ));
    }
    match check(db, group, applied.max(tail.purged)) {
        Ok(()) => {}
        Err((_, EntryReadError::Db(error))) => return Err(io_error(error)),
        Err((index, error)) => {
            return Err(damaged(&format!("log record at index {index}"), &error));
        }
    }
    let last = next_index(tail.last.as_ref());
    tail.ledger = Ledger::found(found_parts(db, group, tail.first, last));
    // The committed id is written without sync of its own: it never leads the log.
    tail.committed = tail.committed.min(tail.last);
    Ok(tail)
}

/// Whether all entries after this one stand there in order; one at a time is in memory.
fn check(db: &DB, group: GroupId, after: Option<RaftLogId>) -> Result<(), (u64, EntryReadError)> {
    let (_, end) = group_range(group);
    let mut index = next_index(after.as_ref());
    let mut before = after.as_ref().map_or(0, term_of);
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(end);
    let first = log_key(group, index);
    let mode = IteratorMode::From(&first, Direction::Forward);
    for item in db.iterator_cf_opt(family(db, CF_LOG), options, mode) {
        let (key, value) = item.map_err(|e| (index, e.into()))?;
        if index_of_log_key(&key) != Some(index) {
            return Err((index, EntryReadError::Missing));
        }
        let entry = codec::decode_entry(Bytes::from(value)).map_err(|e| (index, e.into()))?;
        if entry.log_id.index() != index {
            return Err((index, EntryReadError::WrongIndex(entry.log_id.index())));
        }
        let term = term_of(&entry.log_id);
        if term < before {
            return Err((index, EntryReadError::FallingTerm { term, before }));
        }
        (index, before) = (index + 1, term);
    }
    Ok(())
}

/// What the entries `[start, end)` weigh on disk, about, and when they were written. Those that can't be
/// read count with those after them.
fn found_parts(db: &DB, group: GroupId, start: u64, end: u64) -> Vec<Part> {
    let step = end.saturating_sub(start).div_ceil(FOUND_PARTS).max(1);
    let mut parts = Vec::new();
    let mut from = start;
    while from < end {
        let to = end.min(from + step);
        let keys = (log_key(group, from), log_key(group, to));
        let range = rocksdb::Range::new(&keys.0, &keys.1);
        let bytes = db.get_approximate_sizes_cf(family(db, CF_LOG), &[range]);
        let newest = db.get_cf(family(db, CF_LOG), log_key(group, to - 1));
        let newest = newest.ok().flatten();
        let newest = newest.and_then(|bytes| codec::decode_entry(bytes.into()).ok());
        let before = parts.last().map_or(0, |part: &Part| part.newest_ms);
        parts.push(Part {
            last: to - 1,
            bytes: bytes.first().copied().unwrap_or(0),
            newest_ms: newest.as_ref().and_then(written_ms).unwrap_or(before),
        });
        from = to;
    }
    parts
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
