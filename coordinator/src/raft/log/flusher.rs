//! The one thread that writes `raft/`: gathers what all groups have queued, writes it as one batch
//! with one sync, then tells everybody. Group commit: the busier the node, the more each sync
//! carries. Whoever queues decides nothing about durability; this thread alone does.
//!
//! A failed write is reported to all whose work was in it and the thread goes on: openraft stops
//! the groups concerned, never the process. After a failed piece all later pieces of its group fail
//! too, until the group is opened anew: openraft has more appends under way by then, and one that
//! is acknowledged behind one that failed is a hole in the log (I2). For the same reason a piece of
//! an instance that was replaced is not written: the new one has read the end of the log by then.
//!
//! ```text
//! instance 1: append 79 ✗  append 80 ✗ (failed before)   append 81 ✗ (replaced)
//! instance 2:                          open ▷ all before is written or refused ▷ reads the log
//! ```

use std::collections::HashMap;
#[cfg(test)]
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use maia_common::GroupId;
use rocksdb::{DB, WriteBatch, WriteOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::super::counters::Counters;
use super::super::db::{CF_HARD_STATE, CF_LOG, CF_QUARANTINE, family};
use super::super::keys::{HardState, group_range, hard_key, log_key};
use super::work::{InstanceId, Piece, QuarantineRow, Work};

/// Bytes that may wait for the flusher; appends wait for room, so memory stays bounded (I12).
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Work gathered into one batch at most: bounds the time until the first callback.
const MAX_BATCH_BYTES: usize = 16 << 20;

/// The instance of a group that may write.
struct Writer {
    instance: InstanceId,
    /// Why a piece of it was not written: no later one is.
    failed: Option<String>,
}

#[derive(Default)]
struct Queue {
    work: Vec<Piece>,
    /// Per group the instance that may write; a group that was never opened may not.
    writers: HashMap<GroupId, Writer>,
    instances: u64,
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
    faults: Faults,
}

/// Bugs and troubles planted by tests.
#[cfg(test)]
#[derive(Default)]
struct Faults {
    lies: std::sync::atomic::AtomicBool,
    fails: std::sync::atomic::AtomicBool,
    stalls: std::sync::atomic::AtomicBool,
}

#[cfg(test)]
impl Faults {
    fn strike(&self) -> Result<(), String> {
        while self.stalls.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        if self.fails.swap(false, Ordering::Relaxed) {
            return Err("a test lets this write fail".to_owned());
        }
        Ok(())
    }
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
            faults: Faults::default(),
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
        let faults = &self.shared.faults;
        faults.lies.store(true, Ordering::Relaxed);
    }

    /// The next batch fails, and only that one; of one that lies, all are lost.
    #[cfg(test)]
    pub(crate) fn fail_next(&self) {
        let faults = &self.shared.faults;
        faults.fails.store(true, Ordering::Relaxed);
    }

    /// Batches wait, with what they have gathered, until this is taken back.
    #[cfg(test)]
    pub(crate) fn stall(&self, stalls: bool) {
        let faults = &self.shared.faults;
        faults.stalls.store(stalls, Ordering::Relaxed);
    }

    /// Waits until this many bytes may be queued.
    pub(crate) async fn room(&self, bytes: usize) -> std::io::Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.clamp(1, MAX_QUEUED_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.room)
            .acquire_many_owned(permits)
            .await
            .map_err(std::io::Error::other)
    }

    /// Opens a group for a new instance. When this returns, nothing of an earlier one is or will be
    /// written any more: now the group's log may be read.
    pub(crate) async fn open(&self, group: GroupId) -> std::io::Result<InstanceId> {
        let (done, passed) = oneshot::channel();
        let instance = {
            let mut queue = self.shared.lock();
            queue.instances += 1;
            let instance = InstanceId::new(queue.instances);
            let failed = None;
            queue.writers.insert(group, Writer { instance, failed });
            queue.committed.remove(&group);
            instance
        };
        let work = Work::Open { done };
        self.push(Piece {
            group,
            instance,
            work,
        });
        match passed.await {
            Ok(opened) => opened.map(|()| instance).map_err(std::io::Error::other),
            Err(_) => Err(std::io::Error::other("the log store is shut down")),
        }
    }

    /// Queues work; its reply says when it is durable. After shutdown the work is dropped and its
    /// reply with it.
    pub(crate) fn push(&self, piece: Piece) {
        let mut queue = self.shared.lock();
        if queue.state == QueueState::Open {
            queue.work.push(piece);
            self.shared.wake.notify_one();
        }
    }

    /// Notes a committed id, to be written with the next batch; nothing waits for it.
    pub(crate) fn note_committed(&self, group: GroupId, instance: InstanceId, committed: Bytes) {
        let mut queue = self.shared.lock();
        if queue.refusal(group, instance).is_none() {
            queue.committed.insert(group, committed);
        }
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

impl Queue {
    /// Why this instance of the group may not write, if it may not.
    fn refusal(&self, group: GroupId, instance: InstanceId) -> Option<String> {
        match self.writers.get(&group) {
            Some(writer) if writer.instance == instance => writer
                .failed
                .as_ref()
                .map(|reason| format!("an earlier write of the group failed: {reason}")),
            _ => Some("the group was opened anew".to_owned()),
        }
    }

    /// After this no piece of the instance is written any more.
    fn fail(&mut self, group: GroupId, instance: InstanceId, reason: &str) {
        if let Some(writer) = self.writers.get_mut(&group)
            && writer.instance == instance
        {
            writer.failed = Some(reason.to_owned());
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
    fn next(&self) -> Option<(Vec<Piece>, HashMap<GroupId, Bytes>)> {
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
    fn write(&self, work: Vec<Piece>, committed: HashMap<GroupId, Bytes>) {
        let (work, refused) = self.admit(work);
        for (work, reason) in refused {
            work.into_reply().send(&Err(reason));
        }
        let mut batch = WriteBatch::default();
        let mut replies = Vec::with_capacity(work.len());
        let mut writers = Vec::with_capacity(work.len());
        let mut room = Vec::with_capacity(work.len());
        for piece in work {
            if !matches!(piece.work, Work::Open { .. }) {
                writers.push((piece.group, piece.instance));
            }
            self.add(&mut batch, piece.group, &piece.work);
            let (reply, permit) = piece.work.into_parts();
            replies.push(reply);
            room.extend(permit);
        }
        let hard_state = family(&self.db, CF_HARD_STATE);
        for (group, bytes) in committed {
            batch.put_cf(hard_state, hard_key(group, HardState::Committed), bytes);
        }
        #[cfg(test)]
        if self.faults.lies.load(Ordering::Relaxed) {
            replies.drain(..).for_each(|reply| reply.send(&Ok(())));
            std::thread::sleep(std::time::Duration::from_millis(30));
            let loses = self.faults.fails.load(Ordering::Relaxed);
            if loses || self.lock().state == QueueState::Aborted {
                return;
            }
        }
        let result = self.put(batch);
        if let Err(reason) = &result {
            tracing::error!(%reason, "writing the raft log failed");
            self.counters.write_failed();
            // Before anybody hears of it: who opens a group anew does so after this.
            let mut queue = self.lock();
            for (group, instance) in writers {
                queue.fail(group, instance, reason);
            }
        }
        for reply in replies {
            reply.send(&result);
        }
    }

    /// Parts what may be written from what may not, and why not.
    fn admit(&self, work: Vec<Piece>) -> (Vec<Piece>, Vec<(Work, String)>) {
        let queue = self.lock();
        let (mut admitted, mut refused) = (Vec::with_capacity(work.len()), Vec::new());
        for piece in work {
            match queue.refusal(piece.group, piece.instance) {
                None => admitted.push(piece),
                Some(reason) => refused.push((piece.work, reason)),
            }
        }
        (admitted, refused)
    }

    /// Writes and syncs; a batch with nothing in it needs neither.
    fn put(&self, batch: WriteBatch) -> Result<(), String> {
        #[cfg(test)]
        self.faults.strike()?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let started = Instant::now();
        let result = self.db.write_opt(batch, &options);
        self.counters.fsync(started.elapsed());
        result.map_err(rocksdb::Error::into_string)
    }

    fn add(&self, batch: &mut WriteBatch, group: GroupId, work: &Work) {
        let log = family(&self.db, CF_LOG);
        let hard_state = family(&self.db, CF_HARD_STATE);
        let (start, end) = group_range(group);
        match work {
            Work::Append { entries, .. } => {
                for entry in entries {
                    batch.put_cf(log, log_key(group, entry.index), &entry.bytes);
                    self.counters.appended(entry.bytes.len());
                }
            }
            Work::Vote { vote, .. } => {
                batch.put_cf(hard_state, hard_key(group, HardState::Vote), vote);
            }
            Work::Truncate { from, rows, .. } => {
                self.keep(batch, rows);
                batch.delete_range_cf(log, log_key(group, *from).as_slice(), end.as_slice());
            }
            Work::Purge {
                upto, purged, rows, ..
            } => {
                self.keep(batch, rows);
                batch.put_cf(hard_state, hard_key(group, HardState::Purged), purged);
                let end = log_key(group, upto.saturating_add(1));
                batch.delete_range_cf(log, start.as_slice(), end.as_slice());
            }
            Work::Quarantine { rows, .. } => self.keep(batch, rows),
            Work::Leave { rows, .. } => {
                self.keep(batch, rows);
                batch.delete_range_cf(log, start.as_slice(), end.as_slice());
                batch.delete_range_cf(hard_state, start.as_slice(), end.as_slice());
                batch.put_cf(hard_state, hard_key(group, HardState::Left), [1]);
            }
            Work::Open { .. } => {}
        }
    }

    fn keep(&self, batch: &mut WriteBatch, rows: &[QuarantineRow]) {
        let quarantine = family(&self.db, CF_QUARANTINE);
        for (key, value) in rows {
            batch.put_cf(quarantine, key, value);
        }
        self.counters.quarantined(rows.len());
    }
}

/// The first pieces of the queue, up to about [`MAX_BATCH_BYTES`].
fn take_batch(work: &mut Vec<Piece>) -> Vec<Piece> {
    let mut bytes = 0;
    let mut count = 0;
    for piece in work.iter() {
        if let Work::Append { entries, .. } = &piece.work {
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
