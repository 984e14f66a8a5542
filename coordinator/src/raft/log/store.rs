//! One group's log store, as openraft asks for it: a thin shell over the group's tail in memory and
//! the shared flusher. Called by the group's core only.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use maia_common::GroupId;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use rocksdb::DB;
use tokio::sync::oneshot;

use super::super::codec;
use super::super::state::db::StateDb;
use super::super::types::{RaftEntry, RaftLogId, RaftVote, TypeConfig, next_index};
use super::flusher::Flusher;
use super::reader::LogReader;
use super::tail::Tail;
use super::work::{InstanceId, Piece, Work};
use crate::core::quarantine::Why;

/// A group's tail, shared by its core, its readers and the flusher.
#[derive(Clone)]
pub(crate) struct SharedTail(Arc<Mutex<Tail>>);

impl SharedTail {
    pub(crate) fn new(tail: Tail) -> Self {
        Self(Arc::new(Mutex::new(tail)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Tail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log store of one instance of a group.
#[derive(Clone)]
pub(crate) struct GroupLog {
    pub(crate) group: GroupId,
    pub(crate) instance: InstanceId,
    pub(crate) tail: SharedTail,
    pub(crate) db: Arc<DB>,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) state: Arc<StateDb>,
}

impl GroupLog {
    /// Queues work that has a reply, and waits until it is durable.
    pub(super) async fn durable(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Work,
    ) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        self.push(work(done));
        match written.await {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the log store is shut down")),
        }
    }

    fn push(&self, work: Work) {
        let (group, instance) = (self.group, self.instance);
        self.flusher.push(Piece {
            group,
            instance,
            work,
        });
    }

    /// Stores the group's tombstone and deletes its log. Records that are not known to be committed go
    /// to quarantine; what can't be read any more can't, and does not keep the node in the group.
    ///
    /// # Errors
    /// When the disk takes nothing: to be asked again.
    pub(crate) async fn leave(&self, known: Option<RaftLogId>) -> io::Result<()> {
        let from = next_index(known.as_ref());
        let is_damaged = self.tail.lock().damaged;
        let whole = if is_damaged {
            Err(io::Error::from(io::ErrorKind::InvalidData))
        } else {
            self.leaving(from, u64::MAX, Why::Left).await
        };
        let rows = match whole {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(group = %self.group, %error, "leaving without all records");
                self.salvage(from).await?;
                Vec::new()
            }
        };
        self.durable(|done| Work::Leave { rows, done }).await
    }
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<RaftEntry>, io::Error>
    where
        RB: std::ops::RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        LogReader::new(self).try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.tail.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.tail.lock();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader::new(self)
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let vote_bytes = codec::encode_vote(vote);
        self.durable(|done| Work::Vote {
            vote: vote_bytes,
            done,
        })
        .await?;
        self.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.tail.lock().commit(committed);
        if let Some(committed) = committed {
            self.flusher.note_committed(
                self.group,
                self.instance,
                codec::encode_log_id(&committed),
            );
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        Ok(self.tail.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (entries, append) = self.tail.lock().append(entries.into_iter());
        let bytes = entries.iter().map(|e| e.bytes.len()).sum();
        let room = self.flusher.room(bytes).await?;
        self.push(Work::Append {
            entries,
            tail: self.tail.clone(),
            append,
            callback,
            room,
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        let from = next_index(last.as_ref());
        let rows = self.leaving(from, u64::MAX, Why::Truncated).await?;
        self.tail.lock().truncate(from, last);
        self.durable(|done| Work::Truncate { from, rows, done })
            .await
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        // What apply made of the purged entries must not be lost with the power.
        self.state.sync().await?;
        let known = next_index(self.tail.lock().committed.as_ref());
        let end = upto.index() + 1;
        let rows = self.leaving(known, end, Why::UnderSnapshot).await?;
        self.tail.lock().purge(upto);
        let purged = codec::encode_log_id(&upto);
        self.durable(|done| Work::Purge {
            upto: upto.index(),
            purged,
            rows,
            done,
        })
        .await
    }
}
