//! Drops what logs no longer need to have, and takes the snapshots that this needs: one loop looks at
//! each group now and then and does what `core/retention` says. It is the only one that drops
//! anything of a log, but for an installed snapshot; the log store syncs the state first.
//!
//! A dropped entry's bytes are free once its file is compacted, and without writes nothing is: on a disk with
//! little room the loop has it done.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rocksdb::DB;

use super::db::{CF_LOG, StateCf, family};
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
        let mut has_dropped = false;
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
            let needed_bytes = sizes
                .iter()
                .sum::<u64>()
                .saturating_add(self.in_memory_bytes());
            if has_dropped && look.is_tight && self.disk.fits(needed_bytes) {
                self.compact().await;
                has_dropped = false;
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

    /// What a compaction writes to disk first.
    fn in_memory_bytes(&self) -> u64 {
        let name = rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES;
        let families = [
            (&self.raft_db, CF_LOG),
            (&self.state_db, StateCf::Marks.name()),
        ];
        let sizes = families.map(|(db, cf)| db.property_int_value_cf(family(db, cf), name));
        let sizes = sizes.into_iter().map(|size| size.ok().flatten());
        sizes.fold(0, |sum, size| sum.saturating_add(size.unwrap_or(0)))
    }

    /// Frees what was dropped of logs and traces. Blocks flushes of neither for longer than a compaction
    /// of its own accord would.
    async fn compact(&self) {
        let dbs = [
            (Arc::clone(&self.raft_db), CF_LOG),
            (Arc::clone(&self.state_db), StateCf::Marks.name()),
        ];
        let done = tokio::task::spawn_blocking(move || {
            for (db, name) in dbs {
                db.compact_range_cf(family(&db, name), None::<&[u8]>, None::<&[u8]>);
            }
        });
        match done.await {
            Ok(()) => tracing::info!(free_bytes = self.disk.free_bytes(), "logs were compacted"),
            Err(error) => tracing::error!(%error, "logs could not be compacted"),
        }
    }
}

/// Milliseconds since 1970.
fn clock_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
