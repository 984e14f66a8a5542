//! The digest of a group's applied state at a position, by which replicas prove that theirs is the same
//! (I13). Computed over one RocksDB view, row by row: nothing is added to the way of a write, and what
//! has rotted or was lost on disk is noticed, too, which a sum that is kept along with the writes would
//! not. The price is a read of all of the group's rows, so one is computed at a time, and seldom.
//!
//! Replicas of a group under load are never in one position by chance. So a digest can be asked for at an index
//! that is yet to be applied: the state machine ends its batch there, and goes on when the view is taken.
//!
//! ```text
//!  at(N) ─▶ waits ──▶ N is applied ─▶ view taken ─▶ rows are read, one digest at a time
//!  apply … ─▶ N ──────────┴─ waits ───────┘─▶ N+1 …
//! ```
//! Nothing depends on the wait but what the view has in it: whoever compares looks at the position, which is of the
//! view itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use maia_common::{GroupId, Index, Position};
use tokio::sync::oneshot;

use super::super::db::StateCf;
use super::super::engine::Engine;
use super::super::keys::{ENGINE_MARK, GROUP_PREFIX_BYTES};
use super::applier::StateError;
use super::reader::StateSnapshot;

/// Digests that may be waited for at once, over all groups: each holds a view, and so old rows on disk.
const MAX_MEETINGS: usize = 8;
/// How long apply waits for a view to be taken: that takes a millisecond, but for busy processors. Heartbeats
/// don't wait for it.
const VIEW_PATIENCE: Duration = Duration::from_millis(250);

/// The digest of a group's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateDigest {
    /// As of where; none: nothing is applied.
    pub position: Option<Position>,
    /// BLAKE3 of all rows in order, but for the engine's own marks.
    pub digest: [u8; 32],
    /// How many rows there are.
    pub rows: u64,
}

/// Told to whoever waits that apply has come to the index; apply goes on when what it is given is dropped.
type Reached = oneshot::Sender<oneshot::Sender<()>>;

/// The digests of one node: who waits for which index, and whose turn it is to read.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    turn: Arc<tokio::sync::Mutex<()>>,
    waiting: Mutex<BTreeMap<(GroupId, u64), Reached>>,
    /// How many wait, so that apply need not ask while nobody does.
    count: AtomicUsize,
    /// How often replicas were compared.
    compared: AtomicU64,
}

impl Digests {
    /// Whether somebody waits for this index of the group. Asked for every entry that is applied.
    pub(crate) fn is_wanted(&self, group: GroupId, index: u64) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.waiting().contains_key(&(group, index))
    }

    /// Apply has come to the index: ends when the view is taken, or soon.
    pub(crate) async fn reached(&self, group: GroupId, index: u64) {
        let Some(reached) = self.leave(group, index) else {
            return;
        };
        let (taken, is_taken) = oneshot::channel();
        if reached.send(taken).is_ok() {
            let _ = tokio::time::timeout(VIEW_PATIENCE, is_taken).await;
        }
    }

    fn wait_for(
        &self,
        group: GroupId,
        index: u64,
    ) -> Option<oneshot::Receiver<oneshot::Sender<()>>> {
        let mut waiting = self.waiting();
        waiting.retain(|_, reached| !reached.is_closed());
        if waiting.len() >= MAX_MEETINGS || waiting.contains_key(&(group, index)) {
            return None;
        }
        let (reached, is_reached) = oneshot::channel();
        waiting.insert((group, index), reached);
        self.count.store(waiting.len(), Ordering::Release);
        Some(is_reached)
    }

    fn leave(&self, group: GroupId, index: u64) -> Option<Reached> {
        let mut waiting = self.waiting();
        let left = waiting.remove(&(group, index));
        self.count.store(waiting.len(), Ordering::Release);
        left
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, BTreeMap<(GroupId, u64), Reached>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(reason: impl Into<String>) -> StateError {
    let reason = reason.into();
    StateError { reason }
}

impl Engine {
    /// The digest of the group's state as applied here; waits while another one is computed. Dropped,
    /// it stops reading.
    ///
    /// # Errors
    /// [`StateError`]: the database failed, the state is just being replaced, or this node is the
    /// group's witness and has none.
    pub async fn digest(&self, group: GroupId) -> Result<StateDigest, StateError> {
        self.has_state(group)?;
        let turn = Arc::clone(&self.digests.turn).lock_owned().await;
        self.compute(group, move || turn, None).await
    }

    /// The same as of an index that is yet to be applied here: of that index, unless apply was there before.
    ///
    /// # Errors
    /// As [`Engine::digest`]; and when the index is applied already, is not applied by `until`, or too many
    /// others are waited for.
    pub async fn digest_at(
        &self,
        group: GroupId,
        index: Index,
        until: Instant,
    ) -> Result<StateDigest, StateError> {
        self.has_state(group)?;
        let waits = self.digests.wait_for(group, index.get());
        let waits = waits.ok_or_else(|| failed("too many digests are waited for"))?;
        // Looked at behind the registration: what is not applied now will be seen.
        let applied = self.state.applied(group);
        let (applied, _) = applied.map_err(|error| failed(error.to_string()))?;
        let taken = if applied.is_some_and(|at| at.index() >= index.get()) {
            Err(failed(format!("index {index} is applied already")))
        } else {
            let reached = tokio::time::timeout_at(until.into(), waits).await;
            let reached =
                reached.map_err(|_| failed(format!("index {index} was not applied in time")));
            reached.and_then(|reached| reached.map_err(|_| failed("the group has ended here")))
        };
        self.digests.leave(group, index.get());
        let turns = Arc::clone(&self.digests.turn);
        self.compute(group, move || turns.blocking_lock_owned(), Some(taken?))
            .await
    }

    /// Counts that the states of two replicas were compared.
    pub fn note_compared(&self) {
        self.digests.compared.fetch_add(1, Ordering::Relaxed);
    }

    /// How often they were, by this node.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.digests.compared.load(Ordering::Relaxed)
    }

    fn has_state(&self, group: GroupId) -> Result<(), StateError> {
        let running = self.groups.running(group);
        if running.is_some_and(|group| group.is_witness()) {
            return Err(failed("a witness keeps no state"));
        }
        Ok(())
    }

    /// Takes a view, then reads it when it is its `turn`. `taken` is dropped in between.
    async fn compute<T>(
        &self,
        group: GroupId,
        turn: impl FnOnce() -> T + Send + 'static,
        taken: Option<oneshot::Sender<()>>,
    ) -> Result<StateDigest, StateError> {
        let state = self.state();
        // Whoever asks may be gone before the thread is done: it must neither go on nor be one of many.
        let asking = Arc::new(());
        let asker = Arc::downgrade(&asking);
        let computed = tokio::task::spawn_blocking(move || {
            let view = state.snapshot();
            drop(taken);
            let _turn = turn();
            compute(&view, group, || asker.strong_count() > 0)
        });
        let computed = computed.await;
        drop(asking);
        computed.map_err(|error| failed(error.to_string()))?
    }
}

fn compute(
    view: &StateSnapshot<'_>,
    group: GroupId,
    is_wanted: impl Fn() -> bool,
) -> Result<StateDigest, StateError> {
    view.check_complete(group)?;
    let position = view.applied(group)?;
    let (mut hasher, mut rows) = (blake3::Hasher::new(), 0);
    for (number, cf) in (0u8..).zip(StateCf::ALL) {
        view.each_row(cf, group, |key, value| {
            if !is_wanted() {
                return Err(failed("nobody waits for the digest any more"));
            }
            let suffix = &key[GROUP_PREFIX_BYTES..];
            if cf == StateCf::Marks && suffix.first() == Some(&ENGINE_MARK) {
                return Ok(());
            }
            rows += 1;
            hasher.update(&[number]);
            for part in [suffix, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            Ok(())
        })?;
    }
    let digest = *hasher.finalize().as_bytes();
    Ok(StateDigest {
        position,
        digest,
        rows,
    })
}

#[cfg(test)]
mod tests {
    use rocksdb::{Cache, DB, WriteBatch};

    use super::super::super::db::{DbOptions, family, open_state};
    use super::super::super::keys::group_key;
    use super::super::reader::StateReader;
    use super::*;

    const G: GroupId = GroupId::new(3);

    fn filled(db: &DB) {
        let mut batch = WriteBatch::default();
        for n in 0..10u8 {
            let cf = family(db, StateCf::Data.name());
            batch.put_cf(cf, group_key(G, &[b'k', n]), [n]);
        }
        db.write(batch).unwrap();
    }

    #[test]
    fn what_nobody_waits_for_is_not_read_on() {
        let (dir, memory) = (tempfile::tempdir().unwrap(), DbOptions::default());
        let db = open_state(dir.path(), &memory, &Cache::new_lru_cache(1 << 20)).unwrap();
        filled(&db);
        let state = StateReader::new(db);
        assert_eq!(compute(&state.snapshot(), G, || true).unwrap().rows, 10);
        let left = std::cell::Cell::new(4);
        let is_wanted = || left.replace(left.get() - 1) > 0;
        compute(&state.snapshot(), G, is_wanted).unwrap_err();
        assert_eq!(left.get(), -1, "it ended at the first row after");
    }

    #[tokio::test]
    async fn apply_waits_for_whoever_waits_for_its_index_and_for_nobody_else() {
        let digests = Digests::default();
        assert!(!digests.is_wanted(G, 7));
        let reached = digests.wait_for(G, 7).unwrap();
        assert!(digests.is_wanted(G, 7) && !digests.is_wanted(G, 8));
        assert!(digests.wait_for(G, 7).is_none(), "somebody waits for it");
        let view = async {
            let taken = reached.await.unwrap();
            assert!(!digests.is_wanted(G, 7), "it is waited for once");
            drop(taken);
        };
        tokio::join!(digests.reached(G, 7), view);
        // Who has left holds nobody up, and takes no place.
        for index in 0..2 * MAX_MEETINGS as u64 {
            drop(digests.wait_for(G, index).unwrap());
            digests.reached(G, index).await;
        }
        let waits: Vec<_> = (0..MAX_MEETINGS as u64)
            .map(|n| digests.wait_for(G, n))
            .collect();
        assert!(waits.iter().all(Option::is_some));
        assert!(digests.wait_for(G, 99).is_none(), "so many, and no more");
    }
}
