//! Proposing: finds the group's leader and stays with the record until there is an answer, a
//! refusal, or no more time. Nothing is proposed that the tenant's sync mode can't be kept for.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId};
use maia_common::limits;
use maia_common::placement::TenantProperties;
use maia_common::runtime::Backoff;

use super::{DataService, PLACEMENT_PATIENCE};
use crate::core::acks::{self, AckRule, Progress, Replicas, Verdict};
use crate::core::record::{Record, RecordKind};
use crate::raft::{GroupStatus, ProposeError, Settled};
use crate::shell::peers::{PeerError, RemoteApplied};
use crate::shell::placements::Refusal;

/// How long a record that nobody has proposed yet waits for a leader.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);

/// How long one try of a record that may be repeated lasts.
const ATTEMPT_PATIENCE: Duration = Duration::from_millis(1500);

/// Why one try was not answered.
enum Miss {
    /// Certainly not proposed; this node may lead.
    NotProposed(Option<NodeId>),
    /// May have been proposed.
    Unknown,
    /// Certainly not proposed, and trying again would not help.
    Final(Refusal),
}

impl DataService {
    /// Tries until there is an answer. A record that may have been proposed is tried again only if
    /// it `is_repeatable`: by its idempotency key, or by its nature.
    pub(super) async fn settle(
        &self,
        group: GroupId,
        record: &Record,
        is_repeatable: bool,
        deadline: Instant,
    ) -> Result<RemoteApplied, Refusal> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        let leader_deadline = deadline.min(Instant::now() + LEADER_PATIENCE);
        let (mut at, mut unknown, mut followed) = (self.leader_of(group), false, 0);
        loop {
            // One that may be repeated does not wait for a leader that is paused or cut off.
            let patience = if is_repeatable {
                ATTEMPT_PATIENCE
            } else {
                limits::API_DEADLINE
            };
            let attempt_deadline = deadline.min(Instant::now() + patience);
            match self.attempt(group, record, at, attempt_deadline).await {
                Ok(applied) => return Ok(applied),
                Err(Miss::Final(refusal)) if !unknown => return Err(refusal),
                Err(Miss::NotProposed(leader))
                    if leader.is_some() && leader != at && followed < limits::MAX_INTERNAL_HOPS =>
                {
                    (at, followed) = (leader, followed + 1);
                    continue;
                }
                Err(Miss::NotProposed(_)) => {}
                Err(Miss::Unknown | Miss::Final(_)) => unknown = true,
            }
            let end = if unknown { deadline } else { leader_deadline };
            let wait = backoff.next(fastrand::f64());
            if unknown && (!is_repeatable || Instant::now() + wait >= end) {
                return Err(outcome_unknown());
            }
            if Instant::now() + wait >= end {
                return Err(leaderless(group));
            }
            tokio::time::sleep(wait).await;
            (at, followed) = (self.leader_of(group), 0);
        }
    }

    async fn attempt(
        &self,
        group: GroupId,
        record: &Record,
        at: Option<NodeId>,
        deadline: Instant,
    ) -> Result<RemoteApplied, Miss> {
        match at {
            None => Err(Miss::NotProposed(None)),
            Some(node) if node == self.0.me.0 => {
                self.propose_here(group, record.clone(), deadline).await
            }
            Some(node) => {
                let asked = self.0.peers.propose(node, group, record.encode(), deadline);
                asked.await.map_err(|error| match error {
                    PeerError::NotLeader { leader } => Miss::NotProposed(leader),
                    PeerError::Unreachable => Miss::NotProposed(None),
                    PeerError::Refused { code, detail } => Miss::Final(Refusal::new(code, detail)),
                    PeerError::OutcomeUnknown => Miss::Unknown,
                })
            }
        }
    }

    /// For the peer service: proposes here, as the leader.
    ///
    /// # Errors
    /// [`PeerError`], as the asking node shall see it.
    pub async fn propose_for_peer(
        &self,
        group: GroupId,
        record: Record,
        deadline: Instant,
    ) -> Result<RemoteApplied, PeerError> {
        let proposed = self.propose_here(group, record, deadline).await;
        proposed.map_err(|miss| match miss {
            Miss::NotProposed(leader) => PeerError::NotLeader { leader },
            Miss::Unknown => PeerError::OutcomeUnknown,
            Miss::Final(Refusal { code, detail }) => PeerError::Refused { code, detail },
        })
    }

    async fn propose_here(
        &self,
        group: GroupId,
        record: Record,
        deadline: Instant,
    ) -> Result<RemoteApplied, Miss> {
        let properties = self.check_placement(group, &record, deadline).await?;
        let status = self.0.engine.status(group).ok_or(Miss::NotProposed(None))?;
        if status.leader != Some(self.0.me.0) || status.is_leaderless(self.0.silence) {
            return Err(Miss::NotProposed(
                status.leader.filter(|node| *node != self.0.me.0),
            ));
        }
        let mut rule = properties.as_ref().map(AckRule::from).unwrap_or_default();
        rule.mode = rule.mode.max(record.sync_mode.unwrap_or(rule.mode));
        rule.admit(&self.replicas(&status)).map_err(|shortage| {
            let code = acks::code_without_outcome(false);
            Miss::Final(Refusal::new(code, shortage.to_string()))
        })?;
        let ready = self.0.engine.apply_term_start(group, deadline).await;
        ready.map_err(miss_of)?;
        let record = record.stamped(self.0.clock.now(group));
        let proposed = self.propose_by(group, rule, record, deadline).await;
        let applied = match proposed.map_err(miss_of)? {
            Settled::Applied(applied) => applied,
            Settled::Early {
                position,
                durable_on,
            } => return Ok(self.early_answer(group, position, durable_on)),
        };
        let mut durable_on = applied.durable_on;
        let mut verdict = self.judge(group, rule, durable_on.len());
        if verdict == Verdict::Wait {
            // The verdict that ends the wait is the one that counts: judged anew, it may be to wait again.
            let settled = |nodes: &[NodeId]| {
                let verdict = self.judge(group, rule, nodes.len());
                (verdict != Verdict::Wait).then_some(verdict)
            };
            let engine = &self.0.engine;
            let copies = engine.wait_durable(group, applied.position, deadline, settled);
            let (nodes, found) = copies.await;
            (durable_on, verdict) = (nodes, found.unwrap_or(Verdict::Wait));
        }
        match verdict {
            Verdict::Acknowledge { degraded } => {
                self.0
                    .degraded
                    .fetch_add(degraded.into(), Ordering::Relaxed);
                Ok(RemoteApplied {
                    outcome: applied.outcome.0,
                    position: applied.position,
                    durable_on,
                    degraded,
                })
            }
            Verdict::Wait | Verdict::Unknown => Err(Miss::Unknown),
        }
    }

    /// Whether a write that is committed, and on so many disks, may be answered now.
    fn judge(&self, group: GroupId, rule: AckRule, data_copies: usize) -> Verdict {
        let status = self.0.engine.status(group);
        let still_leads = status
            .as_ref()
            .is_some_and(|status| status.leader == Some(self.0.me.0));
        let replicas = status.map_or_else(Replicas::default, |status| self.replicas(&status));
        let progress = Progress {
            data_copies,
            still_leads,
        };
        rule.judge(&replicas, progress)
    }

    /// The group as its leader sees it.
    fn replicas(&self, status: &GroupStatus) -> Replicas {
        let witnesses = status.voters.iter().filter(|v| status.witness == Some(**v));
        let witnesses = witnesses.count();
        let learners = status.learners.iter();
        let copies = learners.filter(|node| !status.is_joining(**node)).count();
        let holds_data = |node| status.witness != Some(node) && !status.is_joining(node);
        let followers = status.followers.iter().filter(|f| holds_data(f.node));
        let reachable = followers.filter(|f| status.answers(f, self.0.silence));
        Replicas {
            data_members: status.voters.len() - witnesses + copies,
            voters: status.voters.len(),
            witnesses,
            is_joint: status.is_joint,
            reachable: 1 + reachable.count(),
        }
    }

    /// The leader checks the placement before it proposes; all else is decided in apply. A purge
    /// has no placement any more.
    async fn check_placement(
        &self,
        group: GroupId,
        record: &Record,
        deadline: Instant,
    ) -> Result<Option<TenantProperties>, Miss> {
        let Some(tenant) = &record.tenant else {
            let text = "a data record names no tenant";
            return Err(Miss::Final(Refusal::new(ErrorCode::TenantRequired, text)));
        };
        if record.kind == RecordKind::Purge {
            return Ok(None);
        }
        let mut home = self
            .home_caught_up(tenant, deadline)
            .await
            .map_err(Miss::Final)?;
        // Who made the record may know more than this node, whose metastore may stand still: what is asked
        // of a write is the newest.
        let mode = home.placement.properties.sync_mode;
        if home.created < record.placement || record.sync_mode.is_some_and(|asked| asked != mode) {
            let patience = deadline.min(Instant::now() + PLACEMENT_PATIENCE);
            let level = self.0.store.catch_up(patience).await;
            level.map_err(|error| Miss::Final(error.into()))?;
            home = self.home(tenant).map_err(Miss::Final)?;
        }
        if home.placement.group != group || home.created > record.placement {
            let text = "the leader of the group knows another placement of the tenant";
            return Err(Miss::Final(Refusal::new(ErrorCode::StalePlacement, text)));
        }
        Ok(Some(home.placement.properties.clone()))
    }

    pub(super) fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        let own = self
            .0
            .engine
            .status(group)
            .filter(|s| !s.is_leaderless(self.0.silence));
        own.and_then(|status| status.leader)
            .or_else(|| self.0.cluster.state().leaders.get(&group).map(|l| l.node))
    }
}

fn miss_of(error: ProposeError) -> Miss {
    let refuse = |code, detail: String| Miss::Final(Refusal::new(code, detail));
    match error {
        ProposeError::NotLeader { leader } => Miss::NotProposed(leader),
        ProposeError::UnknownGroup => Miss::NotProposed(None),
        ProposeError::OutcomeUnknown => Miss::Unknown,
        ProposeError::CatchingUp => refuse(ErrorCode::Unavailable, error.to_string()),
        ProposeError::DiskFull => refuse(
            ErrorCode::DiskFull,
            "the disk of the tenant's primary has no room".into(),
        ),
        ProposeError::Overloaded => {
            refuse(ErrorCode::Unavailable, "the group takes no more now".into())
        }
        ProposeError::TooLarge { .. } => refuse(ErrorCode::BodyTooLarge, error.to_string()),
        ProposeError::Stopped(reason) => refuse(ErrorCode::Unavailable, reason),
    }
}

fn outcome_unknown() -> Refusal {
    Refusal::new(
        acks::code_without_outcome(true),
        "the write may or may not take effect; a retry with the same Idempotency-Key is safe",
    )
}

pub(super) fn leaderless(group: GroupId) -> Refusal {
    Refusal::new(
        ErrorCode::GroupLeaderless,
        format!("group {group} has no leader now"),
    )
}
