//! One running group: its openraft instance and what stands around it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use maia_common::runtime::Gate;
use maia_common::{GroupId, Index, NodeId, Term};
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::{RaftDataMetrics, RaftMetrics};
use openraft::{Instant as _, ServerState};

use super::catch_up::CatchUp;
use super::early::Transferring;
use super::groups::Stop;
use super::log::store::SharedTail;
use super::types::{RaftNode, TypeConfig, node_of, position_of, term_of};
use super::witness::Leash;
use crate::core::hlc;
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
    /// Of its witness, if it has one; this node may be that.
    pub(crate) leash: Option<Arc<Leash>>,
    /// What its followers that catch up are held back by.
    pub(crate) catch_up: Arc<CatchUp>,
    /// The term in which this node was last seen leading, and since when, in milliseconds since
    /// `started`.
    pub(crate) led: Mutex<(Term, u64)>,
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
    /// The voter that stores no data, if the group began with one.
    pub witness: Option<NodeId>,
    /// On the leader: whether the witness runs free, so that records may have one copy.
    pub is_witness_free: bool,
    /// Whether this node shall not lead: its clock is off from most voters'.
    pub is_unfit: bool,
    /// Whether a change of members is between its two steps: `voters` are those of both.
    pub is_joint: bool,
    /// Whether that membership is applied here, hence committed.
    pub members_settled: bool,
    /// Where that membership stands in the log.
    pub members_since: Option<Index>,
    /// On the leader: each other member as it sees it.
    pub followers: Vec<Follower>,
    /// On the leader: how long ago a quorum last answered. Its lease lives while this is below
    /// `election_max`.
    pub millis_since_quorum_ack: Option<u64>,
    /// On the leader: for how long it has been seen leading in this term.
    pub millis_leading: Option<u64>,
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
            witness: stop.witness,
            is_witness_free: false,
            is_unfit: false,
            is_joint: false,
            members_settled: false,
            members_since: None,
            followers: Vec::new(),
            millis_since_quorum_ack: None,
            millis_leading: None,
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
    /// Whether the node's copy is part of the group's data: it has a vote and is no witness, or has
    /// followed the group up to where it was made a member. False for an instance that nobody has told
    /// of the group yet.
    #[must_use]
    pub fn has_copy(&self, node: NodeId) -> bool {
        let is_member =
            self.voters.contains(&node) || (self.learners.contains(&node) && self.members_settled);
        is_member && self.witness != Some(node)
    }

    /// Whether the node may answer reads of the group from what it has applied: one that has stopped
    /// over an error still has that.
    #[must_use]
    pub fn may_serve(&self, node: NodeId) -> bool {
        self.witness != Some(node) && (self.stopped.is_some() || self.has_copy(node))
    }

    /// On the leader: whether the node is a member without a vote that has answered, and has yet to come
    /// to where it was made a member. Until then it is no copy that a write could wait for.
    #[must_use]
    pub fn is_joining(&self, node: NodeId) -> bool {
        let follower = self.followers.iter().find(|f| f.node == node);
        self.learners.contains(&node)
            && follower
                .is_some_and(|f| f.millis_since_ack.is_some() && f.matched < self.members_since)
    }

    /// On the leader: whether the follower takes records now. One that has not answered in this term
    /// does while the term is young.
    #[must_use]
    pub fn answers(&self, follower: &Follower, patience: Duration) -> bool {
        let silent = follower.millis_since_ack.or(self.millis_leading);
        silent.is_none_or(|ms| Duration::from_millis(ms) <= patience)
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
    /// Whether this node is the group's witness.
    pub(crate) fn is_witness(&self) -> bool {
        self.witness() == Some(self.node)
    }

    fn witness(&self) -> Option<NodeId> {
        self.leash.as_ref().map(|leash| leash.witness())
    }

    /// For how long this node has been seen leading in this term.
    fn millis_leading(&self, term: Term) -> u64 {
        let now = millis(self.started.elapsed());
        let mut led = self.led.lock().unwrap_or_else(PoisonError::into_inner);
        if led.0 != term {
            *led = (term, now);
        }
        now - led.1
    }

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
        let may =
            !self.is_witness() && !self.is_unfit(self.node) && !self.is_silent(Instant::now());
        self.raft.runtime_config().elect(may);
    }

    /// Ends the instance.
    pub(crate) async fn end(&self) {
        let ended = tokio::time::timeout(STOP, self.raft.shutdown()).await;
        if ended.is_err() {
            tracing::error!(group = %self.id, "a group's instance did not end in time");
        }
    }

    fn why_stopped(&self, seen: &RaftMetrics<TypeConfig>) -> Option<String> {
        let error = seen.running_state.as_ref().err()?;
        let denied = self.tail.lock().denied.clone();
        Some(denied.unwrap_or_else(|| error.to_string()))
    }

    /// Why the instance has stopped, if it has.
    pub(crate) fn stopped(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let state = metrics.borrow_watched();
        self.why_stopped(&state)
    }

    /// The leader of the newest term, if a quorum elected it.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let metrics = self.raft.server_metrics();
        let server = metrics.borrow_watched();
        server.vote.committed.then(|| node_of(&server.vote))
    }

    /// Whether a record of the newest term is applied here, and with it all that was before it.
    pub(crate) fn has_applied_term_start(&self) -> bool {
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        let applied = m.last_applied.as_ref().map(|id| Term::new(term_of(id)));
        hlc::may_stamp(applied, Term::new(m.current_term))
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
            witness: self.witness(),
            is_witness_free: self.leash.as_ref().is_some_and(|leash| leash.is_free()),
            is_unfit: self.is_unfit(self.node),
            is_joint: m.membership_config.get_joint_config().len() > 1,
            members_settled: *m.membership_config.log_id() <= m.last_applied,
            members_since: m
                .membership_config
                .log_id()
                .map(|id| Index::new(id.index())),
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
            millis_leading: (role == Role::Leader)
                .then(|| self.millis_leading(Term::new(m.current_term))),
            millis_since_leader: (role != Role::Leader).then(|| self.millis_since_leader()),
            stopped: self.why_stopped(&m),
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
    /// follower whose matched index does (openraft counts only what a follower has flushed); never the
    /// witness, which holds no record.
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
        let others = data.replication.iter().flatten();
        let witness = self.witness().map(NodeId::get);
        for (node, matched) in others.filter(|(node, _)| Some(**node) != witness) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Led here by node 1 with voter 2 and witness 3; learner 4 was added at index 50.
    fn leads() -> GroupStatus {
        let follower = |node, matched: Option<u64>, acked| Follower {
            node: NodeId::new(node),
            matched: matched.map(Index::new),
            millis_since_ack: acked,
        };
        GroupStatus {
            role: Role::Leader,
            voters: [1, 2, 3].map(NodeId::new).to_vec(),
            learners: vec![NodeId::new(4)],
            witness: Some(NodeId::new(3)),
            members_settled: true,
            members_since: Some(Index::new(50)),
            followers: vec![follower(2, Some(9), Some(1)), follower(4, None, Some(1))],
            millis_leading: Some(100),
            stopped: None,
            ..GroupStatus::failed(Stop {
                reason: String::new(),
                damaged: false,
                witness: None,
            })
        }
    }

    #[test]
    fn a_learner_is_no_copy_before_it_has_come_to_where_it_was_added() {
        let mut status = leads();
        let learner = NodeId::new(4);
        assert!(status.is_joining(learner), "it has nothing yet");
        status.followers[1].matched = Some(Index::new(49));
        assert!(status.is_joining(learner));
        status.followers[1].matched = Some(Index::new(50));
        assert!(!status.is_joining(learner));
        status.followers[1].matched = None;
        status.followers[1].millis_since_ack = None;
        assert!(!status.is_joining(learner), "the term has just begun");
        assert!(!status.is_joining(NodeId::new(2)), "a voter");
    }

    #[test]
    fn a_witness_has_no_copy_whatever_became_of_it() {
        let mut status = leads();
        assert!(status.has_copy(NodeId::new(2)) && status.may_serve(NodeId::new(2)));
        assert!(!status.has_copy(NodeId::new(3)) && !status.may_serve(NodeId::new(3)));
        status.stopped = Some("a full disk".to_owned());
        status.voters.clear();
        assert!(status.may_serve(NodeId::new(2)), "it has what it applied");
        assert!(!status.may_serve(NodeId::new(3)));
    }

    #[test]
    fn one_that_never_answers_is_reachable_only_while_the_term_is_young() {
        let mut status = leads();
        let patience = Duration::from_millis(500);
        let silent = Follower {
            millis_since_ack: None,
            ..status.followers[0]
        };
        assert!(status.answers(&silent, patience));
        status.millis_leading = Some(501);
        assert!(!status.answers(&silent, patience));
        let answers = status.followers[0];
        assert!(status.answers(&answers, patience));
    }
}
