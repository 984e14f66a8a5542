//! A group's witness, as the data members' instances deal with it: the leader keeps it on a leash. One
//! task per group looks at how far follower and witness are and decides by `core/witness`; whoever sends
//! to the witness asks the leash up to where it may, and waits where it may not.
//!
//! ```text
//!  openraft's metrics ──▶ look ──▶ run, limit ◀── grant ── entries, snapshots for the witness
//!                          ▲                        │
//!                          └──────── sent ◀─────────┘
//! ```
//! What is granted counts as sent before it is sent: so the leash never closes over something that is
//! on its way. Invariants: I2 (the witness can elect the follower), I7 (payloads are taken off in
//! `transport/network`, and refused by the witness in `transport/inbound`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use maia_common::placement::GroupRecord;
use maia_common::{GroupId, Index, NodeId};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftMetrics;
use openraft::{EntryPayload, Instant as _, ServerState};
use tokio::sync::watch;

use super::engine::Engine;
use super::group::Group;
use super::types::{RaftEntry, RaftVote, TypeConfig, node_of};
use crate::core::witness::{FollowerFacts, Patience, WitnessRun};

/// What an instance is started as. A group's first members never change, so this does not either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSetup {
    /// The group.
    pub group: GroupId,
    /// Its voter without data, if it began with one; this node, where it is that.
    pub witness: Option<NodeId>,
}

impl From<GroupId> for GroupSetup {
    fn from(group: GroupId) -> Self {
        let witness = None;
        Self { group, witness }
    }
}

impl From<&GroupRecord> for GroupSetup {
    fn from(record: &GroupRecord) -> Self {
        Self {
            group: record.id,
            witness: record.witness(),
        }
    }
}

/// An entry as a witness stores it: where it stands and, since votes hang on them, members.
pub(crate) fn without_payload(entry: RaftEntry) -> RaftEntry {
    let payload = match entry.payload {
        EntryPayload::Normal(_) | EntryPayload::Blank => EntryPayload::Blank,
        EntryPayload::Membership(members) => EntryPayload::Membership(members),
    };
    RaftEntry { payload, ..entry }
}

/// Whether the entry says more than a witness may know.
pub(crate) fn has_payload(entry: &RaftEntry) -> bool {
    matches!(entry.payload, EntryPayload::Normal(_))
}

impl Engine {
    /// For a new instance of a group with this witness.
    pub(super) fn leash(&self, witness: NodeId) -> Arc<Leash> {
        let leash = Leash::new(witness, self.config.patience());
        #[cfg(test)]
        let leash = match self.config.sabotage {
            Some(super::config::Sabotage::WitnessAhead) => leash.off(),
            _ => leash,
        };
        Arc::new(leash)
    }
}

/// Keeps the witness of one group behind the data follower, while this node leads.
pub(crate) struct Leash {
    witness: NodeId,
    patience: Patience,
    hold: Mutex<Hold>,
    /// Counts the looks that changed what may be sent.
    changed: watch::Sender<u64>,
    /// A bug planted by a test: everything may be sent.
    #[cfg(test)]
    is_off: bool,
}

/// What the leash knows in one term of this node's leadership.
#[derive(Default)]
struct Hold {
    /// The vote of that term; none: this node does not lead.
    vote: Option<RaftVote>,
    since: Option<Instant>,
    run: WitnessRun,
    /// The last record that may be sent.
    limit: Option<Index>,
    /// The last record that was granted.
    sent: Option<Index>,
    /// What the follower had flushed when it last took something or had all, and when that was.
    took: Option<(Option<Index>, Instant)>,
}

impl Leash {
    pub(crate) fn new(witness: NodeId, patience: Patience) -> Self {
        Self {
            witness,
            patience,
            hold: Mutex::default(),
            changed: watch::Sender::new(0),
            #[cfg(test)]
            is_off: false,
        }
    }

    /// From now on grants everything.
    #[cfg(test)]
    pub(crate) fn off(mut self) -> Self {
        self.is_off = true;
        self
    }

    /// The group's witness.
    pub(crate) fn witness(&self) -> NodeId {
        self.witness
    }

    /// While this node leads: whether records may stand on it and the witness alone.
    pub(crate) fn is_free(&self) -> bool {
        let hold = self.hold();
        hold.vote.is_some() && hold.run.is_free()
    }

    /// Looks whenever something has changed, and after `at_least`, while the instance lives.
    pub(crate) async fn watch(self: Arc<Self>, group: Arc<Group>, at_least: Duration) {
        let mut metrics = group.raft.metrics();
        loop {
            {
                let seen = metrics.borrow_and_update();
                self.look(&seen, Instant::now());
            }
            let changed = tokio::time::timeout(at_least, metrics.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return;
            }
        }
    }

    /// Decides anew by what the leader sees now.
    fn look(&self, seen: &RaftMetrics<TypeConfig>, now: Instant) {
        let leads = seen.state == ServerState::Leader
            && seen.vote.committed
            && node_of(&seen.vote).get() == seen.id;
        let mut hold = self.hold();
        if hold.vote != Some(seen.vote).filter(|_| leads) {
            *hold = Hold {
                vote: Some(seen.vote).filter(|_| leads),
                since: Some(now),
                ..Hold::default()
            };
        }
        if leads {
            let facts = hold.facts(self.witness, seen, now);
            let run = hold.run.next(facts, self.patience);
            if run != hold.run {
                tracing::warn!(
                    group_term = seen.current_term,
                    witness = %self.witness,
                    ?run,
                    "the witness runs otherwise"
                );
            }
            hold.run = run;
            hold.limit = run.limit(facts);
        }
        drop(hold);
        self.changed
            .send_modify(|looks| *looks = looks.wrapping_add(1));
    }

    /// How many of the records from `first` to `last` the leader with this vote may send to the
    /// witness; waits up to `patience` for the first of them.
    pub(crate) async fn grant(
        &self,
        vote: &RaftVote,
        (first, last): (u64, u64),
        patience: Duration,
    ) -> u64 {
        let mut changed = self.changed.subscribe();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            changed.borrow_and_update();
            let granted = self.grant_now(vote, first, last);
            if granted > 0 {
                return granted;
            }
            let waited = tokio::time::timeout_at(deadline, changed.changed()).await;
            if !matches!(waited, Ok(Ok(()))) {
                return 0;
            }
        }
    }

    fn grant_now(&self, vote: &RaftVote, first: u64, last: u64) -> u64 {
        #[cfg(test)]
        if self.is_off {
            return last + 1 - first;
        }
        let mut hold = self.hold();
        if hold.vote.as_ref() != Some(vote) {
            return 0;
        }
        let end = hold.limit.map_or(0, |upto| last.min(upto.get()) + 1);
        let granted = end.saturating_sub(first);
        if granted > 0 {
            hold.sent = hold.sent.max(Some(Index::new(end - 1)));
        }
        granted
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    fn facts(
        &mut self,
        witness: NodeId,
        seen: &RaftMetrics<TypeConfig>,
        now: Instant,
    ) -> FollowerFacts {
        let mut voters = seen.membership_config.voter_ids();
        let follower = voters.find(|id| *id != seen.id && *id != witness.get());
        let matched = |node: u64| {
            let found = seen.replication.as_ref()?.get(&node)?.as_ref()?;
            Some(Index::new(found.index()))
        };
        let answered = |node: u64| *seen.heartbeat.as_ref()?.get(&node)?;
        let flushed = follower.and_then(matched);
        let is_level = flushed == seen.last_log_index.map(Index::new);
        let took = self
            .took
            .filter(|(before, _)| !is_level && *before == flushed);
        let took = took.unwrap_or((flushed, now));
        self.took = Some(took);
        FollowerFacts {
            flushed,
            silent: follower.and_then(answered).map(|at| at.elapsed()),
            stuck: now.saturating_duration_since(took.1),
            own: matched(seen.id),
            sent: self.sent.max(matched(witness.get())),
            led: self
                .since
                .map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
        }
    }
}
