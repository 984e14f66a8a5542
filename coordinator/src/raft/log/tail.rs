//! The end of one group's log in memory: what replication and apply read again right after it was
//! appended, and what the disk does not have yet. Bounded, but entries that are not yet flushed
//! always stay, for they can be read from nowhere else.

use std::collections::VecDeque;

use super::super::catch_up::weight_of;
use super::super::codec::{self, CodecError};
use super::super::types::{RaftEntry, RaftLogId, RaftVote, next_index};
use super::early::Early;
use super::ledger::Ledger;
use bytes::Bytes;
use maia_common::Position;
use openraft::EntryPayload;

/// What is kept in memory of one entry.
#[derive(Debug, Clone)]
struct Kept {
    entry: RaftEntry,
    size_bytes: usize,
    /// The append that brought it; the flusher says up to which append all is on disk.
    append: u64,
}

/// One group's log as its core sees it: ends, vote, and the entries kept in memory.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) vote: Option<RaftVote>,
    pub(crate) committed: Option<RaftLogId>,
    pub(crate) purged: Option<RaftLogId>,
    pub(crate) last: Option<RaftLogId>,
    /// The index of the log's first entry, or where the next one will stand when it has none.
    pub(crate) first: u64,
    /// Whether the disk gave back something else than what was written, or the leader denies what is committed here: a
    /// restart is of no use.
    pub(crate) damaged: bool,
    /// Why the group has stopped, where its leader denies what is committed here.
    pub(crate) denied: Option<String>,
    /// What the log's parts weigh, and how old they are.
    pub(crate) ledger: Ledger,
    /// What is answered before its commit, or might be.
    pub(crate) early: Early,
    /// What all that was ever appended counts for (`core/pace`).
    pub(crate) weight: u64,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    cap_bytes: usize,
    appended: u64,
    flushed: u64,
}

/// An entry as the flusher writes it.
#[derive(Debug, Clone)]
pub(crate) struct EncodedEntry {
    pub(crate) index: u64,
    pub(crate) bytes: Bytes,
}

impl Tail {
    pub(crate) fn new(cap_bytes: usize) -> Self {
        Self {
            vote: None,
            committed: None,
            purged: None,
            last: None,
            first: 0,
            damaged: false,
            denied: None,
            ledger: Ledger::default(),
            early: Early::default(),
            weight: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
            cap_bytes,
            appended: 0,
            flushed: 0,
        }
    }

    /// Of a log of which nothing is known but that it is damaged.
    pub(crate) fn damaged() -> Self {
        Self {
            damaged: true,
            ..Self::new(0)
        }
    }

    /// Notes what is committed.
    pub(crate) fn commit(&mut self, committed: Option<RaftLogId>) {
        self.committed = committed;
        self.early.commit(next_index(committed.as_ref()));
    }

    /// Notes, before a client is told, that it is told that the record is safe, before its commit.
    /// False: it must not be told so. A later vote may be followed by the record's removal at any
    /// moment, and removal must find all that were told.
    pub(crate) fn acknowledge(&mut self, position: Position) -> bool {
        let voted = self.vote.as_ref().map(|vote| vote.leader_id.term);
        if voted != Some(position.term.get()) {
            return false;
        }
        let is_committed = position.index.get() < next_index(self.committed.as_ref());
        is_committed || self.early.acknowledge(position)
    }

    /// Takes entries in; returns them encoded, and the number of this append.
    pub(crate) fn append(
        &mut self,
        entries: impl Iterator<Item = RaftEntry>,
    ) -> (Vec<EncodedEntry>, u64) {
        self.appended += 1;
        let mut encoded = Vec::new();
        for entry in entries {
            self.early.appended(&entry, self.appended);
            self.weight = self.weight.saturating_add(weight_of(&entry));
            let bytes = codec::encode_entry(&entry);
            if next_index(self.last.as_ref()) <= self.first {
                self.first = entry.log_id.index();
            }
            self.last = Some(entry.log_id);
            self.kept_bytes += bytes.len();
            self.ledger
                .add(entry.log_id.index(), bytes.len() as u64, written_ms(&entry));
            encoded.push(EncodedEntry {
                index: entry.log_id.index(),
                bytes: bytes.clone(),
            });
            let size_bytes = bytes.len();
            self.kept.push_back(Kept {
                entry,
                size_bytes,
                append: self.appended,
            });
        }
        (encoded, self.appended)
    }

    /// All appends up to this one are on disk: what exceeds the cap may go.
    pub(crate) fn mark_flushed(&mut self, append: u64) {
        self.flushed = self.flushed.max(append);
        self.early.flushed(self.flushed);
        while self.kept_bytes > self.cap_bytes {
            match self.kept.front() {
                Some(front) if front.append <= self.flushed => self.drop_front(),
                _ => return,
            }
        }
    }

    /// Forgets entries with an index of at least `from`; `last` is the one before them.
    pub(crate) fn truncate(&mut self, from: u64, last: Option<RaftLogId>) {
        self.ledger.truncate(from);
        while self
            .kept
            .back()
            .is_some_and(|kept| kept.entry.log_id.index() >= from)
        {
            if let Some(kept) = self.kept.pop_back() {
                self.kept_bytes -= kept.size_bytes;
            }
        }
        if next_index(self.last.as_ref()) > from {
            self.last = last;
        }
    }

    /// Forgets entries up to `upto`.
    pub(crate) fn purge(&mut self, upto: RaftLogId) {
        self.ledger.purge(upto.index());
        while self
            .kept
            .front()
            .is_some_and(|k| k.entry.log_id.index() <= upto.index())
        {
            self.drop_front();
        }
        self.purged = Some(upto);
        self.first = self.first.max(upto.index() + 1);
        if next_index(self.last.as_ref()) <= upto.index() {
            self.last = Some(upto);
        }
    }

    fn drop_front(&mut self) {
        if let Some(kept) = self.kept.pop_front() {
            self.kept_bytes -= kept.size_bytes;
        }
    }

    /// The part of the wanted range that the log has: `[start, end)`.
    pub(crate) fn clip(&self, start: u64, end: u64) -> (u64, u64) {
        (
            start.max(self.first),
            end.min(next_index(self.last.as_ref())),
        )
    }

    /// The index from which on entries are in memory.
    pub(crate) fn first_kept(&self) -> u64 {
        self.kept
            .front()
            .map_or(next_index(self.last.as_ref()), |k| k.entry.log_id.index())
    }

    /// Entries `[start, end)`, which must be kept, up to about `max_bytes` but at least one.
    pub(crate) fn read(&self, start: u64, end: u64, max_bytes: usize, into: &mut Vec<RaftEntry>) {
        let first = self.first_kept();
        let mut bytes = 0;
        for index in start..end {
            let Some(kept) = usize::try_from(index - first)
                .ok()
                .and_then(|i| self.kept.get(i))
            else {
                return;
            };
            bytes += kept.size_bytes;
            if bytes > max_bytes && !into.is_empty() {
                return;
            }
            into.push(kept.entry.clone());
        }
    }
}

/// When the entry's record was made, if it has one.
pub(super) fn written_ms(entry: &RaftEntry) -> Option<u64> {
    match &entry.payload {
        EntryPayload::Normal(record) => Some(record.hlc.physical_ms()),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}

/// Why an entry could not be read from disk: rot, or a hole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryReadError {
    #[error("{0}")]
    Codec(#[from] CodecError),
    #[error("the entry is not there")]
    Missing,
    #[error("its term {term} is below term {before} of the entry before it")]
    FallingTerm { term: u64, before: u64 },
    #[error("the entry's own index is {0}")]
    WrongIndex(u64),
    #[error("{0}")]
    Db(#[from] rocksdb::Error),
}

#[cfg(test)]
mod tests {
    use super::super::super::types::log_id;
    use super::*;

    fn entries(range: std::ops::Range<u64>) -> impl Iterator<Item = RaftEntry> {
        range.map(|i| RaftEntry {
            log_id: log_id(1, i),
            payload: EntryPayload::Blank,
        })
    }

    fn indexes(tail: &Tail, start: u64, end: u64) -> Vec<u64> {
        let mut out = Vec::new();
        tail.read(start, end, usize::MAX, &mut out);
        out.iter().map(|e| e.log_id.index()).collect()
    }

    #[test]
    fn unflushed_entries_stay_whatever_the_cap() {
        let mut tail = Tail::new(0);
        let (_, first) = tail.append(entries(0..5));
        let (_, _second) = tail.append(entries(5..8));
        tail.mark_flushed(first);
        assert_eq!(tail.first_kept(), 5);
        assert_eq!(indexes(&tail, 5, 8), [5, 6, 7]);
    }

    /// An append that was truncated and written anew is not flushed by the flush of the old one.
    #[test]
    fn a_rewritten_entry_waits_for_its_own_flush() {
        let mut tail = Tail::new(0);
        let (_, old) = tail.append(entries(0..10));
        tail.truncate(5, Some(log_id(1, 4)));
        tail.append(entries(5..7));
        tail.mark_flushed(old);
        assert_eq!(tail.first_kept(), 5);
        assert_eq!(tail.clip(0, 100), (0, 7));
    }

    #[test]
    fn purge_beyond_the_end_moves_the_end() {
        let mut tail = Tail::new(1 << 20);
        tail.append(entries(0..3));
        tail.purge(log_id(4, 20));
        assert_eq!(tail.clip(0, 100), (21, 21));
        assert_eq!(tail.first_kept(), 21);
    }
}
