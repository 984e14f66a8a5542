//! Drops what logs no longer need to have, and takes the snapshots that this needs: one loop looks at
//! each group now and then and does what `core/retention` says. It is the only one that drops
//! anything of a log, but for an installed snapshot; the log store syncs the state first.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::group::{Group, GroupStatus, Role};
use super::groups::Groups;
use super::snapshot::SnapshotStore;
use crate::core::retention::{LogFacts, Retention, Step, next_step};

/// How often each log is looked at: it grows by some 100 MB meanwhile at most.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The loop.
pub(super) struct Keeper {
    pub(super) groups: Arc<Groups>,
    pub(super) snapshots: Arc<SnapshotStore>,
    pub(super) kept: Retention,
    /// A follower that was silent for longer is not waited for.
    pub(super) silence: Duration,
}

impl Keeper {
    /// Until its task is stopped.
    pub(super) async fn run(self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for id in self.groups.ids() {
                if let Some(group) = self.groups.running(id) {
                    self.look_at(&group).await;
                }
            }
        }
    }

    async fn look_at(&self, group: &Group) {
        let status = group.status();
        let parts = group.tail.lock().ledger.parts();
        let snapshot = self.snapshots.current(group.id);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let facts = LogFacts {
            parts: &parts,
            applied: status.applied.map(|at| at.index.get()),
            snapshot: snapshot.and_then(|s| Some(s.meta.last_log_id?.index())),
            least_matched: self.least_matched(&status),
            now_ms: now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)),
        };
        let step = next_step(&facts, self.kept);
        let done = match step {
            Step::Keep => return,
            Step::Snapshot => group.raft.trigger().snapshot().await,
            Step::Purge(upto) => group.raft.trigger().purge_log(upto).await,
        };
        match done {
            Ok(()) => tracing::info!(group = %group.id, ?step, "the log is kept short"),
            // It has stopped, and said so itself.
            Err(error) => tracing::debug!(group = %group.id, %error, "a log is left as it is"),
        }
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
}
