//! Proposals and linearizable reads. A refusal says that nothing was written; where that is not
//! certain, the answer is [`ProposeError::OutcomeUnknown`], and a retry under the same idempotency
//! key is safe (I8).

use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::{GroupId, NodeId, Position};
use openraft::LinearizerOption;
use openraft::errors::{
    ClientWriteError, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError,
};

use super::early::{EarlyRule, Settled, Watch};
use super::engine::Engine;
use super::errors::{GroupError, ProposeError, ReadError};
use super::group::{Group, Role};
use super::types::{TypeConfig, position_of, term_of};
use crate::core::hlc;
use crate::core::record::{Outcome, Record};

/// The largest body of a record: an append message with one record must stay below
/// `limits::MAX_RPC_BYTES`.
const MAX_RECORD_BODY_BYTES: usize = 8 << 20;

/// So soon after a commit a follower in step has the record on disk.
const SOON: Duration = Duration::from_millis(50);

/// A proposal that is committed and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Where it stands in the log.
    pub position: Position,
    /// What the applier made of it.
    pub outcome: Outcome,
    /// Nodes known to hold it on disk by now; at least a majority of the voters does.
    pub durable_on: Vec<NodeId>,
}

impl Engine {
    /// Has the group agree on a record; returns when it is committed and applied here.
    ///
    /// # Errors
    /// [`ProposeError`]: all but `OutcomeUnknown` mean that it is definitely not written.
    pub async fn propose(
        &self,
        group: GroupId,
        record: Record,
        deadline: Instant,
    ) -> Result<Applied, ProposeError> {
        let settled = self.propose_early(group, record, deadline, None);
        match settled.await? {
            Settled::Applied(applied) => Ok(applied),
            Settled::Early { .. } => Err(ProposeError::OutcomeUnknown),
        }
    }

    /// As [`Engine::propose`], but returns as soon as the record is flushed in this leader's log, if
    /// the rule allows it by then. Without a rule it is committed and applied.
    ///
    /// # Errors
    /// [`ProposeError`], as of [`Engine::propose`].
    pub async fn propose_early(
        &self,
        group: GroupId,
        record: Record,
        deadline: Instant,
        rule: Option<EarlyRule<'_>>,
    ) -> Result<Settled, ProposeError> {
        let group = self.running(group).map_err(|e| match e {
            GroupError::Stopped { reason, .. } => ProposeError::Stopped(reason),
            _ => ProposeError::UnknownGroup,
        })?;
        if record.body.len() > MAX_RECORD_BODY_BYTES {
            return Err(ProposeError::TooLarge {
                size_bytes: record.body.len(),
            });
        }
        if self.is_disk_low() {
            return Err(ProposeError::DiskFull);
        }
        let _waits = self.load.write();
        let _pass = group.gate.enter().map_err(|_| ProposeError::Overloaded)?;
        if let Some(reason) = group.stopped() {
            return Err(ProposeError::Stopped(reason));
        }
        let patience = deadline.min(Instant::now() + self.config.election_max);
        let mut data = group.watch_data();
        loop {
            data.see();
            let write = group.raft.client_write(record.clone());
            let write = tokio::time::timeout_at(deadline.into(), write);
            let rule = rule.filter(|rule| self.may_answer(&group, &record, None, *rule));
            let written = if let Some(rule) = rule {
                // One that was refused is watched anew.
                let watch = Watch::new(&group.tail, &record);
                tokio::select! {
                    written = write => written,
                    early = self.early(&group, watch, rule) => return Ok(early),
                }
            } else {
                write.await
            };
            let Ok(written) = written else {
                return Err(ProposeError::OutcomeUnknown);
            };
            return match written {
                Ok(response) => {
                    let position = position_of(&response.log_id);
                    let durable_on = group.durable_on(position);
                    Ok(Settled::Applied(Applied {
                        position,
                        outcome: response.data,
                        durable_on,
                    }))
                }
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                    let may_wait = is_young_leader(&group, &forward) && Instant::now() < patience;
                    if may_wait && data.changed(self.config.heartbeat).await {
                        continue;
                    }
                    Err(ProposeError::NotLeader {
                        leader: leader_of(&group, &forward),
                    })
                }
                Err(RaftError::APIError(_) | RaftError::Fatal(_)) => {
                    Err(ProposeError::OutcomeUnknown)
                }
            };
        }
    }

    /// Waits, as the leader, until the first record of its term is applied, and with it all that
    /// stood in its log: so that what it makes next is above all of it.
    ///
    /// # Errors
    /// [`ProposeError`]: `NotLeader`; `CatchingUp` when that takes longer than an election.
    pub async fn apply_term_start(
        &self,
        group: GroupId,
        deadline: Instant,
    ) -> Result<(), ProposeError> {
        let group = self
            .running(group)
            .map_err(|_| ProposeError::UnknownGroup)?;
        if group.has_applied_term_start() {
            return Ok(());
        }
        let patience = deadline.min(Instant::now() + self.config.election_max);
        let mut data = group.watch_data();
        loop {
            let applied = data.see().map(|position| position.term);
            let status = group.status();
            if hlc::may_stamp(applied, status.term) {
                return Ok(());
            }
            if status.role != Role::Leader {
                let leader = status.leader.filter(|node| *node != group.node);
                return Err(ProposeError::NotLeader { leader });
            }
            let has_time = Instant::now() < patience;
            if !(has_time && data.changed(self.config.heartbeat).await) {
                return Err(ProposeError::CatchingUp);
            }
        }
    }

    /// Nodes known to hold this record on disk: exact on the leader, this node alone elsewhere.
    #[must_use]
    pub fn durable_on(&self, group: GroupId, position: Position) -> Vec<NodeId> {
        self.groups
            .running(group)
            .map_or_else(Vec::new, |group| group.durable_on(position))
    }

    /// Waits until there is a verdict on the nodes which hold the record on disk; returns it, and them.
    /// None when the deadline comes first, or the group ends here.
    pub async fn wait_durable<V>(
        &self,
        group: GroupId,
        position: Position,
        deadline: Instant,
        verdict: impl Fn(&[NodeId]) -> Option<V>,
    ) -> (Vec<NodeId>, Option<V>) {
        let Some(running) = self.groups.running(group) else {
            return (Vec::new(), None);
        };
        let mut data = running.watch_data();
        let (began, mut wanting) = (Instant::now(), None);
        loop {
            data.see();
            let nodes = running.durable_on(position);
            if let Some(verdict) = verdict(&nodes) {
                return (nodes, Some(verdict));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // More than one follower is asked for, or none has it although it is committed.
            if wanting.is_none() && (nodes.len() > 1 || began.elapsed() >= SOON) {
                wanting = Some(running.catch_up.wanting());
            }
            let patience = if wanting.is_some() {
                left
            } else {
                left.min(SOON)
            };
            if left.is_zero() || !data.changed(patience).await {
                return (nodes, None);
            }
        }
    }

    /// A position that every write acknowledged before this call is at or below, once this node has
    /// applied it. Leaders only; a follower asks the leader, then waits with
    /// [`Engine::wait_applied`].
    ///
    /// The leader's word counts without asking others while a quorum confirmed it less than 0.8 of
    /// its lease ago (openraft leaves no room for clock drift).
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_barrier(
        &self,
        group: GroupId,
        deadline: Instant,
    ) -> Result<Position, ReadError> {
        let group = self.running_for_read(group)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let option = LinearizerOption::new(Some(self.config.election_max.mul_f64(0.8)), true)
            .with_wait_timeout(left);
        let confirmed = group.raft.get_read_linearizer(option);
        let linearizer = match tokio::time::timeout(left, confirmed).await {
            Err(_) => return Err(ReadError::Timeout),
            Ok(Ok(linearizer)) => linearizer,
            Ok(Err(RaftError::Fatal(fatal))) => return Err(ReadError::Stopped(fatal.to_string())),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {
                return Err(ReadError::Timeout);
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                return Err(ReadError::NotLeader {
                    leader: leader_of(&group, &forward),
                });
            }
        };
        let position = position_of(linearizer.read_log_id().log_id());
        let left = deadline.saturating_duration_since(Instant::now());
        match linearizer.try_await_ready(&group.raft, Some(left)).await {
            Ok(Ok(_)) => Ok(position),
            Ok(Err(_)) => Err(ReadError::Timeout),
            Err(fatal) => Err(ReadError::Stopped(fatal.to_string())),
        }
    }

    /// Waits until this node has applied the group's log up to this position's index, or a record of
    /// a later term: then the position is applied, or cut off.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn wait_applied(
        &self,
        group: GroupId,
        position: Position,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        let group = self.running_for_read(group)?;
        let term = position.term.get();
        let mut progress = group.raft.watch_apply_progress();
        let reached = progress.wait_until(|applied| {
            applied
                .as_ref()
                .is_some_and(|id| id.index() >= position.index.get() || term_of(id) > term)
        });
        match tokio::time::timeout_at(deadline.into(), reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped("the group has ended".to_owned())),
            Err(_) => Err(ReadError::Timeout),
        }
    }

    fn running_for_read(&self, group: GroupId) -> Result<Arc<Group>, ReadError> {
        self.running(group).map_err(|e| match e {
            GroupError::Stopped { reason, .. } => ReadError::Stopped(reason),
            _ => ReadError::UnknownGroup,
        })
    }
}

/// Whether this node was elected so recently that no quorum has confirmed its lease yet: worth a
/// short wait.
fn is_young_leader(group: &Group, forward: &ForwardToLeader<TypeConfig>) -> bool {
    forward.reason == ForwardReason::LeaseExpired && group.leader() == Some(group.node)
}

/// Whom to turn to: never this node itself.
fn leader_of(group: &Group, forward: &ForwardToLeader<TypeConfig>) -> Option<NodeId> {
    let known = forward
        .leader_id
        .map(NodeId::new)
        .or_else(|| group.leader());
    known.filter(|node| *node != group.node)
}

impl Group {
    /// A membership change's failure in the engine's words.
    pub(crate) fn membership_error(
        &self,
        error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
    ) -> GroupError {
        let group = self.id;
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                GroupError::NotLeader {
                    group,
                    leader: leader_of(self, forward),
                }
            }
            RaftError::APIError(other) => GroupError::Members {
                group,
                reason: other.to_string(),
            },
            RaftError::Fatal(fatal) => GroupError::Stopped {
                group,
                reason: fatal.to_string(),
            },
        }
    }
}

/// A deadline this far from now.
#[must_use]
pub fn within(patience: Duration) -> Instant {
    Instant::now() + patience
}
