//! The one thread that writes `raft/`: gathers what all groups have queued, writes it as one batch
//! with one sync, then tells everybody. Group commit: the busier the node, the more each sync
//! carries. Whoever queues decides nothing about durability; this thread alone does.
//!
//! A failed write is reported to all whose work was in it and the thread goes on: openraft stops
//! the groups concerned, never the process.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use maia_common::GroupId;
use openraft::storage::IOFlushed;
use rocksdb::{DB, WriteBatch, WriteOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::super::counters::Counters;
use super::super::db::{CF_HARD_STATE, CF_LOG, family, io_error};
use super::super::keys::{HardState, group_range, hard_key, log_key};
use super::super::types::TypeConfig;
use super::store::SharedTail;
use super::tail::EncodedEntry;

/// Bytes that may wait for the flusher; appends wait for room, so memory stays bounded (I12).
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Work gathered into one batch at most: bounds the time until the first callback.
const MAX_BATCH_BYTES: usize = 16 << 20;

type WriteReply = oneshot::Sender<Result<(), String>>;

/// One piece of work; pieces of a group are written in the order in which they were queued.
pub(crate) enum Work {
    Append {
        group: GroupId,
        entries: Vec<EncodedEntry>,
        tail: SharedTail,
        append: u64,
        callback: IOFlushed<TypeConfig>,
        room: OwnedSemaphorePermit,
    },
    Vote {
        group: GroupId,
        vote: Bytes,
        done: WriteReply,
    },
    /// Deletes entries `[from, end)`.
    Truncate {
        group: GroupId,
        from: u64,
        done: WriteReply,
    },
    /// Stores the last purged id and deletes entries up to it.
    Purge {
        group: GroupId,
        upto: u64,
        purged: Bytes,
        done: WriteReply,
    },
    /// Stores a tombstone and deletes all else of the group.
    Leave { group: GroupId, done: WriteReply },
}

/// What to tell when a batch is on disk, or is not.
enum Reply {
    Appended {
        tail: SharedTail,
        append: u64,
        callback: IOFlushed<TypeConfig>,
    },
    Written(WriteReply),
}

#[derive(Default)]
struct Queue {
    work: Vec<Work>,
    /// The newest committed id of each group; written along with the next batch.
    committed: HashMap<GroupId, Bytes>,
    state: QueueState,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum QueueState {
    #[default]
    Open,
    /// Write what is queued, then end.
    Draining,
    /// End at once and lose what is queued: a power cut in a test.
    Aborted,
}

/// Handle to the flusher thread.
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    room: Arc<Semaphore>,
}

struct Shared {
    db: Arc<DB>,
    counters: Arc<Counters>,
    queue: Mutex<Queue>,
    wake: Condvar,
    #[cfg(test)]
    lies: std::sync::atomic::AtomicBool,
}

impl Flusher {
    /// Starts the thread.
    pub(crate) fn start(db: Arc<DB>, counters: Arc<Counters>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            db,
            counters,
            queue: Mutex::default(),
            wake: Condvar::new(),
            #[cfg(test)]
            lies: std::sync::atomic::AtomicBool::new(false),
        });
        let mine = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("raft-flusher".to_owned())
            .spawn(move || mine.run())?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
            room: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)),
        })
    }

    /// From now on answers before it writes: a bug planted by a test.
    #[cfg(test)]
    pub(crate) fn lie(&self) {
        self.shared
            .lies
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Waits until this many bytes may be queued.
    pub(crate) async fn room(&self, bytes: usize) -> std::io::Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.clamp(1, MAX_QUEUED_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.room)
            .acquire_many_owned(permits)
            .await
            .map_err(std::io::Error::other)
    }

    /// Queues work; its reply says when it is durable. After shutdown the work is dropped and its
    /// reply with it.
    pub(crate) fn push(&self, work: Work) {
        let mut queue = self.shared.lock();
        if queue.state == QueueState::Open {
            queue.work.push(work);
            self.shared.wake.notify_one();
        }
    }

    /// Notes a committed id, to be written with the next batch; nothing waits for it.
    pub(crate) fn note_committed(&self, group: GroupId, committed: Bytes) {
        self.shared.lock().committed.insert(group, committed);
    }

    /// Writes what is queued and ends the thread. Blocks.
    pub(crate) fn drain_and_join(&self) {
        self.end(QueueState::Draining);
    }

    /// Ends the thread and loses what is queued, as a power cut would. Blocks.
    pub(crate) fn abort(&self) {
        self.end(QueueState::Aborted);
    }

    fn end(&self, state: QueueState) {
        {
            let mut queue = self.shared.lock();
            if queue.state == QueueState::Open {
                queue.state = state;
            }
            self.shared.wake.notify_all();
        }
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the flusher thread panicked");
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.drain_and_join();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some((work, committed)) = self.next() {
            self.write(work, committed);
        }
    }

    /// Waits for work; none when the thread is to end.
    fn next(&self) -> Option<(Vec<Work>, HashMap<GroupId, Bytes>)> {
        let mut queue = self.lock();
        loop {
            match queue.state {
                QueueState::Aborted => return None,
                QueueState::Draining if queue.work.is_empty() && queue.committed.is_empty() => {
                    return None;
                }
                QueueState::Open if queue.work.is_empty() => {
                    queue = self
                        .wake
                        .wait(queue)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                QueueState::Open | QueueState::Draining => {
                    let committed = std::mem::take(&mut queue.committed);
                    return Some((take_batch(&mut queue.work), committed));
                }
            }
        }
    }

    /// Writes the work as one batch and tells everybody in it.
    fn write(&self, work: Vec<Work>, committed: HashMap<GroupId, Bytes>) {
        let mut batch = WriteBatch::default();
        let mut replies = Vec::with_capacity(work.len());
        let mut room = Vec::with_capacity(work.len());
        for piece in work {
            replies.push(self.add(&mut batch, piece, &mut room));
        }
        let hard_state = family(&self.db, CF_HARD_STATE);
        for (group, bytes) in committed {
            batch.put_cf(hard_state, hard_key(group, HardState::Committed), bytes);
        }
        #[cfg(test)]
        if self.lies.load(std::sync::atomic::Ordering::Relaxed) {
            replies.drain(..).for_each(|reply| reply.send(&Ok(())));
            std::thread::sleep(std::time::Duration::from_millis(30));
            if self.lock().state == QueueState::Aborted {
                return;
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let started = Instant::now();
        let result = self.db.write_opt(batch, &options);
        self.counters.fsync(started.elapsed());
        if let Err(error) = &result {
            tracing::error!(%error, "writing the raft log failed");
            self.counters.write_failed();
        }
        for reply in replies {
            reply.send(&result);
        }
    }

    fn add(
        &self,
        batch: &mut WriteBatch,
        piece: Work,
        room: &mut Vec<OwnedSemaphorePermit>,
    ) -> Reply {
        let log = family(&self.db, CF_LOG);
        let hard_state = family(&self.db, CF_HARD_STATE);
        match piece {
            Work::Append {
                group,
                entries,
                tail,
                append,
                callback,
                room: permit,
            } => {
                for entry in &entries {
                    batch.put_cf(log, log_key(group, entry.index), &entry.bytes);
                    self.counters.appended(entry.bytes.len());
                }
                room.push(permit);
                Reply::Appended {
                    tail,
                    append,
                    callback,
                }
            }
            Work::Vote { group, vote, done } => {
                batch.put_cf(hard_state, hard_key(group, HardState::Vote), vote);
                Reply::Written(done)
            }
            Work::Truncate { group, from, done } => {
                let (_, end) = group_range(group);
                batch.delete_range_cf(log, log_key(group, from).as_slice(), end.as_slice());
                Reply::Written(done)
            }
            Work::Purge {
                group,
                upto,
                purged,
                done,
            } => {
                batch.put_cf(hard_state, hard_key(group, HardState::Purged), purged);
                let (start, end) = (log_key(group, 0), log_key(group, upto.saturating_add(1)));
                batch.delete_range_cf(log, start.as_slice(), end.as_slice());
                Reply::Written(done)
            }
            Work::Leave { group, done } => {
                let (start, end) = group_range(group);
                batch.delete_range_cf(log, start.as_slice(), end.as_slice());
                batch.delete_range_cf(hard_state, start.as_slice(), end.as_slice());
                batch.put_cf(hard_state, hard_key(group, HardState::Left), [1]);
                Reply::Written(done)
            }
        }
    }
}

/// The first pieces of the queue, up to about [`MAX_BATCH_BYTES`].
fn take_batch(work: &mut Vec<Work>) -> Vec<Work> {
    let mut bytes = 0;
    let mut count = 0;
    for piece in work.iter() {
        if let Work::Append { entries, .. } = piece {
            bytes += entries.iter().map(|e| e.bytes.len()).sum::<usize>();
        }
        if count > 0 && bytes > MAX_BATCH_BYTES {
            break;
        }
        count += 1;
    }
    let rest = work.split_off(count);
    std::mem::replace(work, rest)
}

impl Reply {
    fn send(self, result: &Result<(), rocksdb::Error>) {
        match self {
            Reply::Appended {
                tail,
                append,
                callback,
            } => {
                if result.is_ok() {
                    tail.lock().mark_flushed(append);
                }
                callback.io_completed(result.clone().map_err(io_error));
            }
            Reply::Written(done) => {
                // The waiter may be gone: its group was shut down.
                let _ = done.send(result.clone().map_err(rocksdb::Error::into_string));
            }
        }
    }
}
