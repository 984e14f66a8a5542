//! When a write may be proposed and when it may be answered, by the tenant's sync mode. Called by
//! the leader of the tenant's group (`shell/data/propose`), and by the simulation. Plain data in, a
//! verdict out; whoever calls asks again whenever what it knows has changed.
//!
//! ```text
//!            admit                        judge, again and again
//!  write ──────┬──▶ proposed ──▶ flushed ──▶ committed, applied ──▶ on enough data members
//!              │                    │              │                     │
//!        not_enough_replicas     async, if      async               semi-sync, sync
//!                                may_answer_early
//!  at the deadline: outcome_unknown
//! ```
//! Copies are counted on data members alone: a witness stores no payload (I2). Invariants: I1 (an
//! early answer needs a live lease), I2, I3, I5 (none overtakes a seal).
//! Source: the protocols' "Sync modes".

use std::time::Duration;

use maia_common::error_code::ErrorCode;
use maia_common::placement::{ShortagePolicy, SyncMode, TenantProperties};
use maia_common::wire::record as wire;
use prost::Message;

use super::record::{Record, RecordKind};

/// The part of its lease during which a leader may answer alone: clocks may run apart by the rest.
const LEASE_SHARE: f64 = 0.8;

/// What a tenant asks for. The default asks for nothing beyond commit, as control records do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckRule {
    /// When a write is acknowledged.
    pub mode: SyncMode,
    /// Data followers that semi-sync waits for.
    pub min_sync_replicas: u32,
    /// What happens when too few are reachable.
    pub on_too_few: ShortagePolicy,
}

impl Default for AckRule {
    fn default() -> Self {
        Self {
            mode: SyncMode::SemiSync,
            min_sync_replicas: 0,
            on_too_few: ShortagePolicy::Degrade,
        }
    }
}

impl From<&TenantProperties> for AckRule {
    fn from(properties: &TenantProperties) -> Self {
        Self {
            mode: properties.sync_mode,
            min_sync_replicas: properties.min_sync_replicas,
            on_too_few: properties.on_too_few,
        }
    }
}

/// The group, as its leader sees it now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Members that store payloads and follow the group by now, the leader among them. One that is
    /// yet to come to where it was made a member could hold writes up for as long as that takes.
    pub data_members: usize,
    /// Members with a vote.
    pub voters: usize,
    /// Voters that store no payload.
    pub witnesses: usize,
    /// Whether a change of members is between its two steps.
    pub is_joint: bool,
    /// Data members that can take a write now, the leader among them. One that has not been heard
    /// in this term yet counts: the term may have just begun.
    pub reachable: usize,
}

impl Replicas {
    /// Copies that a committed record has at least, whether the leader has heard of them or not: a
    /// majority holds it, and some of that majority may be witnesses. Between the two steps of a
    /// change the majorities are of other sets, and nothing is taken for granted.
    fn copies_by_commit(&self) -> usize {
        if self.is_joint {
            return 1;
        }
        (self.voters / 2 + 1).saturating_sub(self.witnesses).max(1)
    }
}

/// Too few copies can be reached: the write was not proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tenant asks for {wanted} copies of each write, and {reachable} can be reached")]
pub struct Shortage {
    /// Copies that the sync mode asks for, the leader's own among them.
    pub wanted: usize,
    /// Copies that could be made now.
    pub reachable: usize,
}

impl AckRule {
    /// Copies of each write that the tenant asks for, the leader's own among them.
    #[must_use]
    pub fn wanted_copies(&self, replicas: &Replicas) -> usize {
        match self.mode {
            SyncMode::Async => 1,
            SyncMode::SemiSync => 1 + self.min_sync_replicas as usize,
            // A copy that nobody else has would be no more than async.
            SyncMode::Sync => replicas.data_members.max(2),
        }
    }

    /// Whether a write may be proposed now.
    ///
    /// # Errors
    /// [`Shortage`]: `not_enough_replicas`, and definitely not written.
    pub fn admit(&self, replicas: &Replicas) -> Result<(), Shortage> {
        let wanted = self.wanted_copies(replicas);
        let reachable = replicas.reachable;
        if wanted > reachable && self.on_too_few == ShortagePolicy::Reject {
            return Err(Shortage { wanted, reachable });
        }
        Ok(())
    }

    /// Whether a write that is committed and applied may be answered now.
    #[must_use]
    pub fn judge(&self, replicas: &Replicas, progress: Progress) -> Verdict {
        let wanted = self.wanted_copies(replicas);
        let copies = progress.data_copies.max(replicas.copies_by_commit());
        if copies >= wanted {
            return Verdict::Acknowledge { degraded: false };
        }
        let may_degrade = self.on_too_few == ShortagePolicy::Degrade;
        // Of a later term's leader this node hears no more copies.
        let are_all_there = copies >= wanted.min(replicas.reachable);
        match (progress.still_leads, may_degrade) {
            (true, true) if are_all_there => Verdict::Acknowledge { degraded: true },
            (true, _) => Verdict::Wait,
            (false, true) => Verdict::Acknowledge { degraded: true },
            (false, false) => Verdict::Unknown,
        }
    }
}

/// How far a committed and applied write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Data members known to hold it on disk, the leader among them.
    pub data_copies: usize,
    /// Whether the node that asks still leads: else it will not hear of further copies.
    pub still_leads: bool,
}

/// What to tell the client now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet; at the deadline `outcome_unknown`.
    Wait,
    /// The outcome; `degraded`: on fewer copies than asked for, and the answer and an alert say so.
    Acknowledge {
        /// Whether copies are missing.
        degraded: bool,
    },
    /// `outcome_unknown`: it will not be learnt here any more.
    Unknown,
}

/// What clients are told of a write without an outcome.
#[must_use]
pub fn code_without_outcome(was_proposed: bool) -> ErrorCode {
    if was_proposed {
        ErrorCode::OutcomeUnknown
    } else {
        ErrorCode::NotEnoughReplicas
    }
}

/// What the leader knows when a record of its own is flushed in its log. All of it must hold for an
/// answer before commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlyFacts {
    /// How long ago a quorum last acknowledged this leader; none: never in its term.
    pub quorum_ack_age: Option<Duration>,
    /// Its lease.
    pub lease: Duration,
    /// Whether leadership is being handed over: the target may win before the lease ends.
    pub is_transferring: bool,
    /// Whether it has applied the first record of its term, and so all of earlier terms.
    pub has_applied_term_start: bool,
    /// Whether the tenant is open in the applied state: neither sealed nor ended.
    pub is_tenant_open: bool,
    /// Whether a control record of the tenant precedes the record and is not applied.
    pub has_control_ahead: bool,
    /// Whether this node's quarantine has room: what was answered would go there if it were cut off.
    pub has_room_aside: bool,
}

/// Whether a record may be answered when it is flushed in the leader's log, before it is committed:
/// async, nothing in it that apply could refuse, and nobody else can be leading.
#[must_use]
pub fn may_answer_early(record: &Record, facts: EarlyFacts) -> bool {
    let lives = facts
        .quorum_ack_age
        .is_some_and(|age| age < facts.lease.mul_f64(LEASE_SHARE));
    lives
        && !facts.is_transferring
        && facts.has_applied_term_start
        && facts.is_tenant_open
        && !facts.has_control_ahead
        && facts.has_room_aside
        && may_be_early(record)
}

/// Whether a leader may have answered the record before its commit: async, and apply takes it whatever the
/// tenant's resources are. Not so with a condition, a merge (its answer is what it made), or an
/// idempotency key (its answer may be the stored one, or a conflict; I8). Apply takes such a delete also of
/// what is not there.
#[must_use]
pub fn may_be_early(record: &Record) -> bool {
    let may_mode = record.sync_mode == Some(SyncMode::Async);
    if !may_mode || record.kind != RecordKind::Data || record.idempotency.is_some() {
        return false;
    }
    let Ok(body) = wire::DataOperations::decode(record.body.clone()) else {
        return false;
    };
    let [operation] = body.operations.as_slice() else {
        return false;
    };
    use wire::data_operation::What;
    let is_whole = matches!(operation.what, Some(What::Put(_) | What::Delete(_)));
    is_whole && operation.condition.is_none()
}

#[cfg(test)]
#[path = "acks_test.rs"]
mod tests;
