//! One running group: its openraft instance and what stands around it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use maia_common::runtime::Gate;
use maia_common::{GroupId, Index, NodeId, Term};
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftDataMetrics;
use openraft::{Instant as _, ServerState};

use super::early::Transferring;
use super::groups::Stop;
use super::log::store::SharedTail;
use super::types::{RaftNode, TypeConfig, node_of, position_of, term_of};
use crate::core::lag::Trail;
use maia_common::Position;

/// How long a group's instance may take to end.
const STOP: Duration = Duration::from_secs(5);

/// One running group.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) node: NodeId,
    pub(crate) raft: RaftNode,
    pub(crate) tail: SharedTail,
    /// Bounds the proposals in flight.
    pub(crate) gate: Gate,
    /// When a leader last spoke to this node, in milliseconds since `started`; 0: never.
    pub(crate) heard_ms: AtomicU64,
    /// What leaders said to be committed, for how far this copy is behind.
    pub(crate) trail: Mutex<Trail>,
    /// Whether its leadership is being handed over.
    pub(crate) transferring: Transferring,
    /// When the instance was started.
    pub(crate) started: Instant,
    /// Members that shall not lead the group, as whoever watches the clocks says.
    pub(crate) unfit: Mutex<BTreeSet<NodeId>>,
    /// Until then this node neither votes nor campaigns in this group; none: it had never voted.
    pub(crate) silent_until: Option<Instant>,
}

/// A node's part in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes writes, if its lease lives.
    Leader,
    /// Votes and follows.
    Follower,
    /// Campaigns.
    Candidate,
    /// Follows without a vote, or has no membership yet.
    Learner,
    /// The instance has ended.
    Stopped,
}

/// Another member, as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    /// The member.
    pub node: NodeId,
    /// Up to where its disk agrees with the leader's log; none: nothing known yet.
    pub matched: Option<Index>,
    /// How long ago it last answered; none: never in this term.
    pub millis_since_ack: Option<u64>,
}

/// A group as this node sees it.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    /// This node's part.
    pub role: Role,
    /// The newest term that it knows.
    pub term: Term,
    /// The leader of that term, once a quorum elected it.
    pub leader: Option<NodeId>,
    /// The last record of its log.
    pub last_log: Option<Index>,
    /// The last record known to be committed.
    pub committed: Option<Position>,
    /// The last record applied.
    pub applied: Option<Position>,
    /// The last record no longer in the log.
    pub purged: Option<Position>,
    /// Members with a vote, as of the newest membership in the log.
    pub voters: Vec<NodeId>,
    /// Members without.
    pub learners: Vec<NodeId>,
    /// Whether a change of members is between its two steps: `voters` are those of both.
    pub is_joint: bool,
    /// Whether that membership is applied here, hence committed.
    pub members_settled: bool,
    /// On the leader: each other member as it sees it.
    pub followers: Vec<Follower>,
    /// On the leader: how long ago a quorum last answered. Its lease lives while this is below
    /// `election_max`.
    pub millis_since_quorum_ack: Option<u64>,
    /// On others: how long ago the leader last spoke to this node, or since the start.
    pub millis_since_leader: Option<u64>,
    /// Why the group has stopped here, if it has.
    pub stopped: Option<String>,
    /// Whether it has stopped because its storage is damaged: a restart is of no use.
    pub damaged: bool,
}

impl GroupStatus {
    /// The status of a group that could not be started.
    pub(crate) fn failed(stop: Stop) -> Self {
        Self {
            role: Role::Stopped,
            term: Term::default(),
            leader: None,
            last_log: None,
            committed: None,
            applied: None,
            purged: None,
            voters: Vec::new(),
            learners: Vec::new(),
            is_joint: false,
            members_settled: false,
            followers: Vec::new(),
            millis_since_quorum_ack: None,
            millis_since_leader: None,
            stopped: Some(stop.reason),
            damaged: stop.damaged,
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl GroupStatus {
    /// Whether the node's copy is part of the group's data: it has a vote, or has followed the group
    /// up to where it was made a member. False for an instance that nobody has told of the group yet.
    #[must_use]
    pub fn has_copy(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || (self.learners.contains(&node) && self.members_settled)
    }

    /// Whether nobody can be leading now: no leader is known, or it has been silent for longer than
    /// `patience`, or it is this node and no quorum has answered it for as long.
    #[must_use]
    pub fn is_leaderless(&self, patience: Duration) -> bool {
        let silent = |ms: Option<u64>| ms.is_none_or(|ms| Duration::from_millis(ms) > patience);
        match self.role {
            Role::Leader => self.voters.len() > 1 && silent(self.millis_since_quorum_ack),
            _ => self.leader.is_none() || silent(self.millis_since_leader),
        }
    }

    /// Whether the group has stopped over something that may pass, such as a full disk.
    #[must_use]
    pub fn may_be_revived(&self) -> bool {
        self.stopped.is_some() && !self.damaged
    }

    /// How many records a follower of the group that is led here is behind.
    #[must_use]
    pub fn lag_entries(&self, follower: &Follower) -> u64 {
        let last = self.last_log.map_or(0, Index::get);
        last.saturating_sub(follower.matched.map_or(0, Index::get))
    }
}

impl Group {
    /// Whether this node must not vote yet.
    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        self.silent_until.is_some_and(|until| now < until)
    }

    /// Whether a member shall not lead.
    pub(crate) fn is_unfit(&self, member: NodeId) -> bool {
        let unfit = self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        unfit.contains(&member)
    }

    /// Has openraft campaign by itself, or not, by what is so now.
    pub(crate) fn let_campaign(&self) {
        let may = !self.is_unfit(self.node) && !self.is_silent(Instant::now());
        self.raft.runtime_config().elect(may);
    }

    /// Ends the instance.
    pub(crate) async fn end(&self) {
        let ended = tokio::time::timeout(STOP, self.raft.shutdown()).await;
        if ended.is_err() {
            tracing::error!(group = %self.id, "a group's instance did not end in time");
        }
    }

    /// Why the instance has stopped, if it has.
    pub(crate) fn stopped(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let state = metrics.borrow_watched();
        state.running_state.as_ref().err().map(ToString::to_string)
    }

    /// The leader of the newest term, if a quorum elected it.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let metrics = self.raft.server_metrics();
        let server = metrics.borrow_watched();
        server.vote.committed.then(|| node_of(&server.vote))
    }

    /// The group as this node sees it.
    pub(crate) fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        let role = match m.state {
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        GroupStatus {
            role,
            term: Term::new(m.current_term),
            leader: m.vote.committed.then(|| node_of(&m.vote)),
            last_log: m.last_log_index.map(Index::new),
            committed: m
                .cluster_committed
                .max(m.local_committed)
                .as_ref()
                .map(position_of),
            applied: m.last_applied.as_ref().map(position_of),
            purged: m.purged.as_ref().map(position_of),
            voters: m.membership_config.voter_ids().map(NodeId::new).collect(),
            learners: m
                .membership_config
                .membership()
                .learner_ids()
                .map(NodeId::new)
                .collect(),
            is_joint: m.membership_config.get_joint_config().len() > 1,
            members_settled: *m.membership_config.log_id() <= m.last_applied,
            followers: m
                .replication
                .iter()
                .flatten()
                .filter(|(node, _)| **node != self.node.get())
                .map(|(node, id)| Follower {
                    node: NodeId::new(*node),
                    matched: id.map(|id| Index::new(id.index())),
                    millis_since_ack: m
                        .heartbeat
                        .as_ref()
                        .and_then(|acked| (*acked.get(node)?).map(|at| millis(at.elapsed()))),
                })
                .collect(),
            millis_since_quorum_ack: m.last_quorum_acked.map(|at| millis(at.elapsed())),
            millis_since_leader: (role != Role::Leader).then(|| self.millis_since_leader()),
            stopped: m.running_state.as_ref().err().map(ToString::to_string),
            damaged: m.running_state.is_err() && self.tail.lock().damaged,
        }
    }

    /// A leader has spoken.
    pub(crate) fn hear(&self) {
        self.heard_ms
            .store(millis(self.started.elapsed()), Ordering::Relaxed);
    }

    fn millis_since_leader(&self) -> u64 {
        millis(self.started.elapsed()).saturating_sub(self.heard_ms.load(Ordering::Relaxed))
    }

    /// Who is known to hold the record on disk: this node if its own flush covers it, and each
    /// follower whose matched index does (openraft counts only what a follower has flushed).
    pub(crate) fn durable_on(&self, position: Position) -> Vec<NodeId> {
        let covers = |index: u64| index >= position.index.get();
        let own = self
            .raft
            .watch_log_progress()
            .get()
            .and_then(|flushed| flushed.last_log_id);
        let mut nodes = Vec::new();
        if own.is_some_and(|id| term_of(&id) >= position.term.get() && covers(id.index())) {
            nodes.push(self.node);
        }
        let metrics = self.raft.data_metrics();
        let data = metrics.borrow_watched();
        for (node, matched) in data.replication.iter().flatten() {
            if *node != self.node.get() && matched.is_some_and(|id| covers(id.index())) {
                nodes.push(NodeId::new(*node));
            }
        }
        nodes
    }

    /// What tells of changes of the group's data metrics from now on.
    pub(crate) fn watch_data(&self) -> DataWatch {
        DataWatch(self.raft.data_metrics())
    }
}

/// Changes of a group's data metrics. One is made before a loop: a new one has not seen anything, and
/// would be ready at once.
pub(crate) struct DataWatch(WatchReceiverOf<TypeConfig, RaftDataMetrics<TypeConfig>>);

impl DataWatch {
    /// The last record applied; what was reported up to now counts as seen. To be called before
    /// what is waited for is looked at: what changes meanwhile ends the wait.
    pub(crate) fn see(&mut self) -> Option<Position> {
        let data = self.0.borrow_and_update();
        data.last_applied.as_ref().map(position_of)
    }

    /// Waits until something was reported that was not seen, for at most `patience`; whether the
    /// group still runs.
    pub(crate) async fn changed(&mut self, patience: Duration) -> bool {
        let changed = tokio::time::timeout(patience, self.0.changed()).await;
        !matches!(changed, Ok(Err(_)))
    }
}
