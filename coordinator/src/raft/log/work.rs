//! What the instances of groups give the flusher to write, and what it tells them afterwards.

use bytes::Bytes;
use maia_common::GroupId;
use openraft::storage::IOFlushed;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::super::types::TypeConfig;
use super::store::SharedTail;
use super::tail::EncodedEntry;

/// Key and value of an entry of the quarantine.
pub(crate) type QuarantineRow = (Bytes, Bytes);

type WriteReply = oneshot::Sender<Result<(), String>>;

/// One piece of work of an instance; pieces of a group are written in the order in which they were
/// queued.
pub(crate) struct Piece {
    pub(crate) group: GroupId,
    pub(crate) instance: InstanceId,
    pub(crate) work: Work,
}

/// Which opening of a group work belongs to; counts from the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InstanceId(u64);

impl InstanceId {
    pub(super) fn new(id: u64) -> Self {
        Self(id)
    }
}

/// What is to be written.
pub(crate) enum Work {
    Append {
        entries: Vec<EncodedEntry>,
        tail: SharedTail,
        append: u64,
        callback: IOFlushed<TypeConfig>,
        room: OwnedSemaphorePermit,
    },
    Vote {
        vote: Bytes,
        done: WriteReply,
    },
    /// Deletes entries `[from, end)`, of which these are kept.
    Truncate {
        from: u64,
        rows: Vec<QuarantineRow>,
        done: WriteReply,
    },
    /// Stores the last purged id and deletes entries up to it, of which these are kept.
    Purge {
        upto: u64,
        purged: Bytes,
        rows: Vec<QuarantineRow>,
        done: WriteReply,
    },
    /// Stores a tombstone and deletes all else of the group, of which these are kept.
    Leave {
        rows: Vec<QuarantineRow>,
        done: WriteReply,
    },
    /// Keeps entries whose deletion follows.
    Quarantine {
        rows: Vec<QuarantineRow>,
        done: WriteReply,
    },
    /// Writes nothing: all that was queued before has been written or refused when it answers.
    Open {
        done: WriteReply,
    },
}

/// What to tell when a batch is on disk, or is not.
pub(super) enum Reply {
    Appended {
        tail: SharedTail,
        append: u64,
        callback: IOFlushed<TypeConfig>,
    },
    Written(WriteReply),
    Opened(WriteReply),
}

impl Work {
    /// Whom to tell, and the room that is free again once it is written.
    pub(super) fn into_parts(self) -> (Reply, Option<OwnedSemaphorePermit>) {
        match self {
            Work::Append {
                tail,
                append,
                callback,
                room,
                ..
            } => {
                let reply = Reply::Appended {
                    tail,
                    append,
                    callback,
                };
                (reply, Some(room))
            }
            Work::Vote { done, .. }
            | Work::Truncate { done, .. }
            | Work::Purge { done, .. }
            | Work::Quarantine { done, .. }
            | Work::Leave { done, .. } => (Reply::Written(done), None),
            Work::Open { done } => (Reply::Opened(done), None),
        }
    }

    pub(super) fn into_reply(self) -> Reply {
        self.into_parts().0
    }
}

impl Reply {
    pub(super) fn send(self, result: &Result<(), String>) {
        match self {
            Reply::Appended {
                tail,
                append,
                callback,
            } => {
                if result.is_ok() {
                    tail.lock().mark_flushed(append);
                }
                callback.io_completed(result.clone().map_err(std::io::Error::other));
            }
            Reply::Written(done) => {
                // The waiter may be gone: its group was shut down.
                let _ = done.send(result.clone());
            }
            Reply::Opened(done) => {
                // Nothing of it was to be written: what failed beside it is no matter of its own.
                let _ = done.send(Ok(()));
            }
        }
    }
}
