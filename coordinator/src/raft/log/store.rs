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
use super::flusher::{Flusher, Work};
use super::reader::LogReader;
use super::tail::Tail;

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

/// The log store of one group.
#[derive(Clone)]
pub(crate) struct GroupLog {
    pub(crate) group: GroupId,
    pub(crate) tail: SharedTail,
    pub(crate) db: Arc<DB>,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) state: Arc<StateDb>,
}

impl GroupLog {
    /// Queues work that has a reply, and waits until it is durable.
    async fn durable(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Work,
    ) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        self.flusher.push(work(done));
        match written.await {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the log store is shut down")),
        }
    }

    /// Stores the group's tombstone and deletes its log.
    pub(crate) async fn leave(&self) -> io::Result<()> {
        let group = self.group;
        self.durable(|done| Work::Leave { group, done }).await
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
        let (group, bytes) = (self.group, codec::encode_vote(vote));
        self.durable(|done| Work::Vote {
            group,
            vote: bytes,
            done,
        })
        .await?;
        self.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.tail.lock().committed = committed;
        if let Some(committed) = committed {
            self.flusher
                .note_committed(self.group, codec::encode_log_id(&committed));
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
        self.flusher.push(Work::Append {
            group: self.group,
            entries,
            tail: self.tail.clone(),
            append,
            callback,
            room,
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        let (group, from) = (self.group, next_index(last.as_ref()));
        self.tail.lock().truncate(from, last);
        self.durable(|done| Work::Truncate { group, from, done })
            .await
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        // What apply made of the purged entries must not be lost with the power.
        self.state.sync().await?;
        self.tail.lock().purge(upto);
        let (group, purged) = (self.group, codec::encode_log_id(&upto));
        self.durable(|done| Work::Purge {
            group,
            upto: upto.index(),
            purged,
            done,
        })
        .await
    }
}
