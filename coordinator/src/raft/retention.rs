//! Drops what logs no longer need to have, and takes the snapshots that this needs: one loop looks at
//! each group now and then and does what `core/retention` says. It is the only one that drops
//! anything of a log, but for an installed snapshot; the log store syncs the state first.
//!
//! A dropped entry's bytes are free once its file is compacted, and without writes nothing is: on a disk with
//! little room the loop has it done. The same goes for values that were written over, and for the write-ahead
//! logs of what is still in memory: with too much of either no snapshot would fit, and without one no log could
//! be dropped.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rocksdb::DB;

use super::db::{CF_LOG, RAFT_FAMILIES, StateCf, family};
use super::disk::{DiskGuard, DiskRoom};
use super::group::{Group, GroupStatus, Role};
use super::groups::Groups;
use super::snapshot::SnapshotStore;
use crate::core::retention::{LogFacts, Retention, Step, next_step, share, steady};

/// How often each log is looked at: it grows by some 100 MB meanwhile at most.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// All logs of the node together have so much of the disk at most: the rest is for the states, for a
/// snapshot of each, and for what the databases have not compacted yet.
const LOGS_PART_OF_DISK: u64 = 4;

/// Less in memory, or written over, is not worth a flush or a compaction.
const FLUSH_BYTES: u64 = 8 << 20;
/// How often the state is compacted at most while the disk has little room.
const COMPACT_STATE_EVERY: Duration = Duration::from_secs(10);

/// What the loop works on.
pub(super) struct Keeper {
    pub(super) groups: Arc<Groups>,
    pub(super) snapshots: Arc<SnapshotStore>,
    pub(super) disk: Arc<DiskGuard>,
    pub(super) raft_db: Arc<DB>,
    pub(super) state_db: Arc<DB>,
    pub(super) kept: Retention,
    /// A follower that was silent for longer is not waited for.
    pub(super) silence: Duration,
}

/// What is the same for all groups at one look.
struct Look {
    kept: Retention,
    now_ms: u64,
    is_tight: bool,
}

impl Keeper {
    /// Until its task is stopped.
    pub(super) async fn run(self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut known_ms, mut known_at) = (clock_ms(), Instant::now());
        let (mut has_dropped, mut compacted_at) = (false, None);
        loop {
            tick.tick().await;
            let elapsed_ms = u64::try_from(known_at.elapsed().as_millis()).unwrap_or(u64::MAX);
            known_ms = steady(known_ms, clock_ms(), elapsed_ms);
            known_at = Instant::now();
            let groups = self.groups.ids().into_iter();
            let groups: Vec<_> = groups.filter_map(|id| self.groups.running(id)).collect();
            let sizes: Vec<u64> = groups
                .iter()
                .map(|group| group.tail.lock().ledger.bytes())
                .collect();
            let look = self.look(&sizes, known_ms);
            if look.is_tight {
                self.flush().await;
                self.compact_state(&mut compacted_at).await;
                let logs_bytes = sizes
                    .iter()
                    .fold(0, |sum: u64, log| sum.saturating_add(*log));
                // What it compacts is in memory in part, and flushed first.
                let needed_bytes = logs_bytes.saturating_add(self.in_memory_bytes());
                if has_dropped && self.disk.holds(needed_bytes) {
                    self.compact_logs().await;
                    has_dropped = false;
                }
            }
            for group in groups {
                has_dropped |= self.look_at(&group, &look).await;
            }
        }
    }

    fn look(&self, sizes: &[u64], now_ms: u64) -> Look {
        let budget = self.disk.total_bytes() / LOGS_PART_OF_DISK;
        Look {
            kept: Retention {
                bytes: self.kept.bytes.min(share(sizes.to_vec(), budget)),
                ..self.kept
            },
            now_ms,
            is_tight: self.disk.room() <= DiskRoom::Tight,
        }
    }

    /// Whether something is dropped.
    async fn look_at(&self, group: &Group, look: &Look) -> bool {
        let status = group.status();
        let parts = group.tail.lock().ledger.parts();
        let snapshot = self.snapshots.current(group.id);
        let facts = LogFacts {
            parts: &parts,
            applied: status.applied.map(|at| at.index.get()),
            snapshot: snapshot.and_then(|s| Some(s.meta.last_log_id?.index())),
            least_matched: self.least_matched(&status),
            now_ms: look.now_ms,
            is_tight: look.is_tight,
        };
        let step = next_step(&facts, look.kept);
        let done = match step {
            Step::Keep => return false,
            Step::Snapshot => group.raft.trigger().snapshot().await,
            Step::Purge(upto) => group.raft.trigger().purge_log(upto).await,
        };
        match done {
            Ok(()) => tracing::debug!(group = %group.id, ?step, "the log is kept short"),
            // It has stopped, and said so itself.
            Err(error) => tracing::debug!(group = %group.id, %error, "a log is left as it is"),
        }
        matches!(step, Step::Purge(_))
    }

    fn least_matched(&self, status: &GroupStatus) -> Option<u64> {
        if status.role != Role::Leader {
            return None;
        }
        let answers =
            |ms: Option<u64>| ms.is_some_and(|ms| Duration::from_millis(ms) < self.silence);
        let followers = status.followers.iter();
        let answering = followers.filter(|follower| answers(follower.millis_since_ack));
        answering
            .map(|follower| follower.matched.map_or(0, maia_common::Index::get))
            .min()
    }

    /// What a flush of all that is in memory writes.
    fn in_memory_bytes(&self) -> u64 {
        let name = rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES;
        let sizes = self.flushed().into_iter().flat_map(|(db, names)| {
            let sizes = names.into_iter().map(move |cf| number(db, cf, name));
            sizes.collect::<Vec<_>>()
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// What is flushed together.
    fn flushed(&self) -> [(&Arc<DB>, Vec<&'static str>); 2] {
        [
            (&self.raft_db, RAFT_FAMILIES.to_vec()),
            (&self.state_db, StateCf::ALL.map(StateCf::name).to_vec()),
        ]
    }

    /// Frees the write-ahead logs of what is in memory, which are at least as large.
    async fn flush(&self) {
        let bytes = self.in_memory_bytes();
        if bytes < FLUSH_BYTES || !self.disk.holds(bytes) {
            return;
        }
        let all = self.flushed().map(|(db, names)| (Arc::clone(db), names));
        let flush = move || all.iter().try_for_each(|(db, names)| flush(db, names));
        match tokio::task::spawn_blocking(flush).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "what is in memory can't be written"),
            Err(error) => tracing::error!(%error, "what is in memory was not written"),
        }
    }

    /// Frees values that were written over, where they take more than what is there. Not again soon: what
    /// an open snapshot holds stays.
    async fn compact_state(&self, compacted_at: &mut Option<Instant>) {
        let (db, name) = (&self.state_db, StateCf::Data.name());
        let live = number(db, name, rocksdb::properties::ESTIMATE_LIVE_DATA_SIZE);
        let found = number(db, name, rocksdb::properties::TOTAL_SST_FILES_SIZE);
        let is_worth_it = found > live.saturating_mul(2).saturating_add(FLUSH_BYTES);
        let is_soon = compacted_at.is_some_and(|at: Instant| at.elapsed() < COMPACT_STATE_EVERY);
        if is_worth_it && !is_soon && self.disk.holds(live) {
            *compacted_at = Some(Instant::now());
            self.compact(vec![(Arc::clone(db), name)]).await;
        }
    }

    /// Frees what was dropped of logs and traces.
    async fn compact_logs(&self) {
        let log = (Arc::clone(&self.raft_db), CF_LOG);
        let traces = (Arc::clone(&self.state_db), StateCf::Marks.name());
        self.compact(vec![log, traces]).await;
    }

    /// Blocks flushes for no longer than a compaction of its own accord would.
    async fn compact(&self, families: Vec<(Arc<DB>, &'static str)>) {
        let names: Vec<&str> = families.iter().map(|(_, name)| *name).collect();
        let done = tokio::task::spawn_blocking(move || {
            for (db, name) in families {
                db.compact_range_cf(family(&db, name), None::<&[u8]>, None::<&[u8]>);
            }
        });
        match done.await {
            Ok(()) => {
                self.disk.look();
                let free_bytes = self.disk.free_bytes();
                tracing::info!(?names, free_bytes, "compacted for want of room");
            }
            Err(error) => tracing::error!(%error, "databases could not be compacted"),
        }
    }
}

fn flush(db: &DB, names: &[&str]) -> Result<(), rocksdb::Error> {
    let families: Vec<_> = names.iter().map(|name| family(db, name)).collect();
    db.flush_cfs_opt(&families, &rocksdb::FlushOptions::default())
}

fn number(db: &DB, name: &str, property: &rocksdb::properties::PropName) -> u64 {
    let number = db.property_int_value_cf(family(db, name), property);
    number.ok().flatten().unwrap_or(0)
}

/// Milliseconds since 1970.
fn clock_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::config::DbOptions;
    use super::super::db::{open_raft, open_state};
    use super::*;

    /// Of every family: one left out may be what fills the disk.
    #[test]
    fn all_that_a_flush_writes_is_counted_before() {
        const BYTES: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let (options, cache) = (DbOptions::default(), rocksdb::Cache::new_lru_cache(1 << 20));
        let keeper = Keeper {
            groups: Arc::default(),
            snapshots: Arc::new(SnapshotStore::open(dir.path()).unwrap()),
            disk: Arc::new(DiskGuard::new(dir.path(), 0)),
            raft_db: open_raft(dir.path(), &options, &cache).unwrap(),
            state_db: open_state(dir.path(), &options, &cache).unwrap(),
            kept: Retention {
                bytes: 0,
                age_ms: 0,
            },
            silence: Duration::ZERO,
        };
        let raft = RAFT_FAMILIES.map(|name| (&keeper.raft_db, name));
        let state = StateCf::ALL.map(|cf| (&keeper.state_db, cf.name()));
        let value = vec![7; usize::try_from(BYTES).unwrap()];
        for (db, name) in raft.into_iter().chain(state) {
            let before = keeper.in_memory_bytes();
            db.put_cf(family(db, name), b"key", &value).unwrap();
            let more = keeper.in_memory_bytes() - before;
            assert!(more >= BYTES, "{name}: {more}");
        }
    }
}
