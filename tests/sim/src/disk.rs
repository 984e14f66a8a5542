//! A node's disk: what is written is seen at once and survives a crash only when it is synced. One
//! sync at a time takes all that waits; a crash keeps what is synced and, of the rest, some prefix
//! of whole batches. What must wait for a sync ([`Then`]) is kept with its batch.

use std::collections::VecDeque;
use std::rc::Rc;

use maia_common::position::{Index, Position, Term};
use maia_coordinator::core::quarantine::{self, EntryId};
use maia_coordinator::core::record::Record;
use maia_coordinator::metastore::memory::MemoryState;

use crate::raft::Message;

/// An entry of the log. On a witness, and for the first of each term, without a record.
#[derive(Debug, Clone)]
pub struct Entry {
    pub term: u64,
    /// Tells proposals apart, for the oracle; the product has nothing of the kind.
    pub id: u64,
    pub record: Option<Record>,
}

/// Applied state as of a position, and the log that made it, for the oracle.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub at: Position,
    pub state: MemoryState,
    /// Term and id of every entry applied, from index 1 on.
    pub history: Vec<(u64, u64)>,
}

/// A record that left the log before it was known to be committed.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The proposal, for the oracle.
    pub id: u64,
    pub entry: quarantine::Entry,
}

/// One change of what is stored.
#[derive(Debug, Clone)]
pub enum Op {
    Vote {
        term: u64,
        voted_for: Option<usize>,
    },
    /// Removes the entries from this index on.
    Truncate(u64),
    Append(Vec<Entry>),
    /// The state is as of the snapshot; entries up to it, less some, may go.
    Checkpoint {
        state: Rc<Snapshot>,
        purge_to: u64,
    },
    /// Nothing of the group is left.
    Leave,
    /// The state is as of the snapshot, and no entry is left.
    Replace(Rc<Snapshot>),
    /// Entries of the quarantine, new or as they are from now on.
    Quarantine(Vec<Kept>),
    /// The entry is settled.
    Release(EntryId),
}

/// What follows once a batch is synced.
#[derive(Debug, Clone)]
pub enum Then {
    Send(Message),
    /// The leader's own log is synced up to here, in its term.
    OwnFlush {
        term: u64,
        index: u64,
    },
}

/// What is stored.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub term: u64,
    pub voted_for: Option<usize>,
    /// The last entry that is purged.
    pub base: Position,
    /// Those behind it.
    pub entries: Vec<Entry>,
    pub checkpoint: Rc<Snapshot>,
    pub quarantine: Vec<Kept>,
}

fn position(term: u64, index: u64) -> Position {
    Position::new(Term::new(term), Index::new(index))
}

impl Image {
    pub fn last(&self) -> Position {
        let base = self.base.index.get();
        match self.entries.last() {
            Some(entry) => position(entry.term, base + self.entries.len() as u64),
            None => self.base,
        }
    }

    pub fn last_index(&self) -> u64 {
        self.last().index.get()
    }

    pub fn entry(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.base.index.get() + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// The term at an index; none where there is no entry, or a purged one.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index.get() {
            return Some(self.base.term.get());
        }
        self.entry(index).map(|entry| entry.term)
    }

    /// Whether the entry is here, or was and is purged.
    pub fn holds(&self, index: u64, id: u64) -> bool {
        index <= self.base.index.get() || self.entry(index).is_some_and(|entry| entry.id == id)
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Vote { term, voted_for } => (self.term, self.voted_for) = (*term, *voted_for),
            Op::Truncate(from) => {
                let keep = from.saturating_sub(self.base.index.get() + 1);
                self.entries.truncate(keep as usize);
            }
            Op::Append(entries) => self.entries.extend_from_slice(entries),
            Op::Checkpoint { state, purge_to } => {
                self.checkpoint = Rc::clone(state);
                self.purge(*purge_to);
            }
            Op::Replace(state) => {
                self.base = state.at;
                self.entries.clear();
                self.checkpoint = Rc::clone(state);
            }
            Op::Leave => {
                self.base = self.last();
                self.entries.clear();
                self.checkpoint = Rc::default();
            }
            Op::Quarantine(kept) => {
                for new in kept {
                    self.quarantine.retain(|old| old.entry.id != new.entry.id);
                    self.quarantine.push(new.clone());
                }
            }
            Op::Release(id) => self.quarantine.retain(|kept| kept.entry.id != *id),
        }
    }

    fn purge(&mut self, to: u64) {
        let Some(term) = self.term_at(to) else { return };
        let gone = to - self.base.index.get();
        self.entries.drain(..gone as usize);
        self.base = position(term, to);
    }
}

#[derive(Debug, Clone)]
struct Batch {
    ops: Vec<Op>,
    then: Vec<Then>,
}

/// The disk.
#[derive(Debug, Default)]
pub struct Disk {
    /// With all that was written.
    pub now: Image,
    /// What a power cut leaves for certain.
    pub synced: Image,
    waiting: VecDeque<Batch>,
    /// How many of those that wait are being synced.
    syncing: usize,
}

impl Disk {
    /// Writes a batch: all of it survives a crash, or nothing.
    pub fn write(&mut self, ops: Vec<Op>, then: Vec<Then>) {
        for op in &ops {
            self.now.apply(op);
        }
        self.waiting.push_back(Batch { ops, then });
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Begins a sync of all that waits, unless one is under way.
    pub fn begin_sync(&mut self) -> bool {
        let begins = self.syncing == 0 && !self.waiting.is_empty();
        if begins {
            self.syncing = self.waiting.len();
        }
        begins
    }

    /// Ends the sync; returns what waited for it.
    pub fn end_sync(&mut self) -> Vec<Then> {
        let mut then = Vec::new();
        for batch in self.waiting.drain(..self.syncing) {
            for op in &batch.ops {
                self.synced.apply(op);
            }
            then.extend(batch.then);
        }
        self.syncing = 0;
        then
    }

    /// A crash: of what is not synced, as many batches survive as `survivors` says.
    pub fn crash(&mut self, survivors: usize) {
        for batch in self.waiting.drain(..).take(survivors) {
            for op in &batch.ops {
                self.synced.apply(op);
            }
        }
        self.syncing = 0;
        self.now = self.synced.clone();
    }

    pub fn unsynced(&self) -> usize {
        self.waiting.len()
    }
}
