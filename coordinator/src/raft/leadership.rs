//! Who leads a group and who its members are: elections on demand, transfers, membership. Called by
//! the reconcilers of the shell; consensus on all of it is openraft's.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use maia_common::position::Term;
use maia_common::{GroupId, Index, NodeId};
use openraft::errors::{InitializeError, RaftError};

use super::engine::Engine;
use super::errors::GroupError;
use super::group::{Group, Role};
use super::log::recovery;
use super::witness::GroupSetup;

/// A target of a transfer may lag the leader's log by this many entries: it catches up within the
/// time that openraft grants.
const TRANSFER_MAX_LAG: u64 = 128;

/// So many of the longest election timeouts a target may take to win.
const TRANSFER_PATIENCE: u32 = 3;

impl Engine {
    /// The groups of which this node's disk has something: it has not left them.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn groups_not_left(&self) -> io::Result<BTreeSet<GroupId>> {
        recovery::not_left(&self.raft_db)
    }

    /// Gives a group its first members; every member with data may call it with the same ones.
    ///
    /// # Errors
    /// [`GroupError`]; that it has members already is no error.
    pub async fn initialize_group(
        &self,
        group: GroupId,
        voters: BTreeSet<NodeId>,
    ) -> Result<(), GroupError> {
        let running = self.running(group)?;
        if running.is_witness() {
            return Err(GroupError::Witness(group));
        }
        let voters: BTreeSet<u64> = voters.into_iter().map(NodeId::get).collect();
        match running.raft.initialize(voters).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(GroupError::Members {
                group,
                reason: error.to_string(),
            }),
            Err(RaftError::Fatal(error)) => Err(GroupError::Stopped {
                group,
                reason: error.to_string(),
            }),
        }
    }

    /// Has this node campaign now, pre-vote first.
    ///
    /// # Errors
    /// [`GroupError`] when the group does not run here, this node is its witness, or has just started.
    pub async fn trigger_election(&self, group: GroupId) -> Result<(), GroupError> {
        let running = self.running(group)?;
        if running.is_witness() {
            return Err(GroupError::Witness(group));
        }
        if running.is_silent(Instant::now()) {
            return Err(GroupError::Silent(group));
        }
        if running.is_unfit(running.node) {
            return Err(GroupError::Unfit(group));
        }
        let elected = running.raft.trigger().elect(true).await;
        elected.map_err(|e| GroupError::Stopped {
            group,
            reason: e.to_string(),
        })
    }

    /// Says which members shall not lead the group; returns whether that is news of this node. If it
    /// shall not, it does not campaign and is handed nothing; what it leads stays with it until it is handed
    /// on. It hands nothing to the others.
    pub fn set_unfit(&self, group: GroupId, unfit: BTreeSet<NodeId>) -> bool {
        let Ok(running) = self.running(group) else {
            return false;
        };
        let is_unfit = unfit.contains(&running.node);
        let before = {
            let mut known = running.unfit.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, unfit)
        };
        running.let_campaign();
        before.contains(&running.node) != is_unfit
    }

    /// Whether this node shall not lead the groups that start from now on, until [`set_unfit`](Self::set_unfit)
    /// says it of each: nobody has looked at its clock yet.
    pub fn doubt_clock(&self, is_doubted: bool) {
        let known = &self.groups.is_clock_doubted;
        known.store(is_doubted, Ordering::Relaxed);
    }

    pub(super) fn unfit_at_first(&self) -> BTreeSet<NodeId> {
        let is_doubted = self.groups.is_clock_doubted.load(Ordering::Relaxed);
        is_doubted.then_some(self.config.node).into_iter().collect()
    }

    /// Hands the group to a voter that has caught up and answers. Once asked, openraft cannot be stopped:
    /// if the target fails, the price is one election, or [`outlast`](Self::outlast).
    ///
    /// # Errors
    /// [`GroupError::NotLeader`], or [`GroupError::TransferTarget`] when the target is no voter, lags,
    /// does not answer, or is the witness.
    pub async fn transfer(self: &Arc<Self>, group: GroupId, to: NodeId) -> Result<(), GroupError> {
        let running = self.running(group)?;
        let status = running.status();
        if status.leader != Some(self.config.node) {
            return Err(GroupError::NotLeader {
                group,
                leader: status.leader,
            });
        }
        if to == self.config.node {
            return Ok(());
        }
        let refuse = |reason: &str| {
            Err(GroupError::TransferTarget {
                group,
                to,
                reason: reason.to_owned(),
            })
        };
        if !status.voters.contains(&to) {
            return refuse("it has no vote");
        }
        if status.witness == Some(to) {
            return refuse("it is the group's witness");
        }
        if running.is_unfit(to) {
            return refuse("its clock is off");
        }
        let follower = status.followers.iter().find(|f| f.node == to);
        let matched = follower.and_then(|f| f.matched).map_or(0, Index::get);
        let last = status.last_log.map_or(0, Index::get);
        if matched + TRANSFER_MAX_LAG < last {
            return refuse(&format!("it has {matched} of {last} records"));
        }
        let silent = follower.and_then(|f| f.millis_since_ack);
        if silent.is_none_or(|ms| Duration::from_millis(ms) > self.config.election_max) {
            return refuse("it does not answer");
        }
        running.transferring.begin(status.term);
        let asked = running.raft.trigger().transfer_leader(to.get()).await;
        asked.map_err(|e| GroupError::Stopped {
            group,
            reason: e.to_string(),
        })?;
        let outlast = Arc::clone(self).outlast(running, status.term);
        self.tasks.spawn_until_stop("transfer", outlast);
        Ok(())
    }

    /// A leader that was asked to hand over takes no writes as long as its term lasts. Where the target
    /// is the only other one that may campaign, as beside a witness, and does not win, nobody would ever
    /// end that term: then the instance begins anew, as a follower.
    async fn outlast(self: Arc<Self>, running: Arc<Group>, term: Term) {
        tokio::time::sleep(TRANSFER_PATIENCE * self.config.election_max).await;
        let status = running.status();
        if status.role != Role::Leader || status.term != term {
            return;
        }
        let (group, witness) = (running.id, status.witness);
        tracing::warn!(%group, %term, "nobody took the group over: this node begins it anew");
        running.end().await;
        if let Err(error) = self.start_group(GroupSetup { group, witness }).await {
            tracing::error!(%group, %error, "a group can't be begun anew");
        }
    }

    /// Adds a member without a vote, or does nothing if it is one; returns when that is committed.
    ///
    /// # Errors
    /// [`GroupError`]; [`GroupError::NotLeader`] away from the leader.
    pub async fn add_learner(&self, group: GroupId, node: NodeId) -> Result<(), GroupError> {
        let running = self.running(group)?;
        let added = running
            .raft
            .add_learner(node.get(), openraft::EmptyNode {}, false)
            .await;
        added.map(drop).map_err(|e| running.membership_error(&e))
    }

    /// Makes these the voters; members that were voters and are not named leave the group. Two steps
    /// of consensus: whoever stops waiting may leave the group between them
    /// ([`GroupStatus::is_joint`](super::GroupStatus)), and asking again goes on from there.
    ///
    /// # Errors
    /// [`GroupError`]; [`GroupError::NotLeader`] away from the leader.
    pub async fn change_voters(
        &self,
        group: GroupId,
        voters: BTreeSet<NodeId>,
    ) -> Result<(), GroupError> {
        let running = self.running(group)?;
        let voters: BTreeSet<u64> = voters.into_iter().map(NodeId::get).collect();
        let changed = running.raft.change_membership(voters, false).await;
        changed.map(drop).map_err(|e| running.membership_error(&e))
    }

    /// Takes members without a vote out of the group; those that are none are no error.
    ///
    /// # Errors
    /// [`GroupError`]; [`GroupError::NotLeader`] away from the leader.
    pub async fn remove_learners(
        &self,
        group: GroupId,
        nodes: BTreeSet<NodeId>,
    ) -> Result<(), GroupError> {
        let running = self.running(group)?;
        let known = running.status().learners;
        let nodes: BTreeSet<u64> = nodes
            .into_iter()
            .filter(|node| known.contains(node))
            .map(NodeId::get)
            .collect();
        if nodes.is_empty() {
            return Ok(());
        }
        let change = openraft::ChangeMembers::RemoveNodes(nodes);
        let changed = running.raft.change_membership(change, false).await;
        changed.map(drop).map_err(|e| running.membership_error(&e))
    }

    /// Takes a snapshot of the group soon, whatever the rules say.
    ///
    /// # Errors
    /// [`GroupError`] when the group does not run here.
    pub async fn trigger_snapshot(&self, group: GroupId) -> Result<(), GroupError> {
        let asked = self.running(group)?.raft.trigger().snapshot().await;
        asked.map_err(|e| GroupError::Stopped {
            group,
            reason: e.to_string(),
        })
    }
}
