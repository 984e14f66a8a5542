//! Who may write a group's state on this node: the newest incarnation of the group, and no other. openraft
//! waits for its core when an instance ends, not for what its state machine has under way: an apply or an
//! install of the old instance may go on in its thread while the group has begun again. Its next write
//! fails here; so nothing is applied twice, and no half of one install is called whole by the end of another.
//!
//! Made by the state machine's opening before it reads anything; asked by every batch of an apply and every
//! step of an install; ended when the group is left. Invariant: a write is checked and done under the
//! group's lock, under which the next incarnation begins; so it is wholly before that one's first read, or not at all.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use maia_common::GroupId;
use rocksdb::{DB, WriteBatch};

use super::super::db::io_error;

/// Counts the incarnations of one group in this process.
type Count = Arc<Mutex<u64>>;

/// The newest incarnation of each group that was begun here and not left.
#[derive(Default)]
pub(super) struct Incarnations {
    counts: Mutex<HashMap<GroupId, Count>>,
}

/// The right to write one group's state, until the next one begins.
#[derive(Clone)]
pub(crate) struct Incarnation {
    group: GroupId,
    number: u64,
    newest: Count,
}

impl Incarnations {
    /// Waits for the batch that an older one is writing.
    pub(super) fn begin(&self, group: GroupId) -> Incarnation {
        // Held until it is counted: an end that goes on meanwhile must not take away the count it is of.
        let mut counts = lock(&self.counts);
        let newest = Arc::clone(counts.entry(group).or_default());
        let number = {
            let mut newest = lock(&newest);
            *newest += 1;
            *newest
        };
        Incarnation {
            group,
            number,
            newest,
        }
    }

    /// Ends the group's incarnations and writes the batch, behind which no write of theirs comes.
    pub(super) fn end(&self, group: GroupId, db: &DB, batch: WriteBatch) -> io::Result<()> {
        let newest = Arc::clone(lock(&self.counts).entry(group).or_default());
        let ended = {
            let mut newest = lock(&newest);
            *newest += 1;
            db.write(batch).map_err(io_error)?;
            *newest
        };
        let mut counts = lock(&self.counts);
        // Those that there were keep this count, which none of them is at; unless one has begun since.
        if *lock(&newest) == ended {
            counts.remove(&group);
        }
        Ok(())
    }
}

impl Incarnation {
    /// Whose state it may write.
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// Writes the batch, not synced.
    ///
    /// # Errors
    /// When a newer incarnation has begun, or the group was left: nothing is written. When the database fails.
    pub(crate) fn write(&self, db: &DB, batch: WriteBatch) -> io::Result<()> {
        let newest = lock(&self.newest);
        if *newest != self.number {
            let group = self.group;
            let text = format!("a newer instance of group {group} has its state");
            return Err(io::Error::other(text));
        }
        db.write(batch).map_err(io_error)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
