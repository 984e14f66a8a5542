//! Answers before commit: a proposal is answered when its record is flushed in this leader's own log, if
//! the caller's rule (`core/acks`) allows it by what this leader knows then. openraft does not tell
//! where a proposal stands before it is applied, so the log store does: it knows the record again when
//! it is appended, and says its position when the flush has come back.
//!
//! ```text
//!  watch ─▶ client_write ─▶ append ─▶ flushed ─▶ rule? ─▶ noted for quarantine ─▶ answer
//!                              │                   └─no──────────┴─no─▶ wait for apply, as always
//!                              └─ refused: no longer watched
//! ```
//! Invariant: I3. What was answered so is noted in the tail before the answer, and not at all once the
//! log has a vote of a later term: whatever leaves the log later is looked up there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use maia_common::{NodeId, Position, Term};
use tokio::sync::oneshot;

use super::engine::Engine;
use super::group::{Group, Role};
use super::log::store::SharedTail;
use super::propose::Applied;
use crate::core::acks::EarlyFacts;
use crate::core::record::Record;

/// How a proposal came to its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It is on this leader's disk, and not committed yet.
    Early {
        /// Where it stands in the log.
        position: Position,
        /// Nodes known to hold it on disk, this one among them.
        durable_on: Vec<NodeId>,
    },
    /// It is committed and applied.
    Applied(Applied),
}

/// Whether a record may be answered before its commit, by what its leader knows. Asked before it is
/// proposed and when it is flushed; `is_tenant_open` and `has_room_aside` are left to whoever knows
/// tenants and the quarantine: no, unless it says so.
pub type EarlyRule<'a> = &'a (dyn Fn(EarlyFacts) -> bool + Send + Sync);

/// The term in which this node was asked to hand its leadership over; 0: none.
#[derive(Debug, Default)]
pub(crate) struct Transferring(AtomicU64);

impl Transferring {
    /// Before openraft is asked to: it can't be stopped then.
    pub(crate) fn begin(&self, term: Term) {
        self.0.fetch_max(term.get(), Ordering::SeqCst);
    }

    fn is_in(&self, term: Term) -> bool {
        self.0.load(Ordering::SeqCst) == term.get()
    }
}

/// Watches for one record's flush, until it is dropped.
pub(super) struct Watch<'a> {
    tail: &'a SharedTail,
    record: &'a Record,
    flushed: oneshot::Receiver<Position>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(tail: &'a SharedTail, record: &'a Record) -> Self {
        let flushed = tail.lock().early.watch(record);
        Self {
            tail,
            record,
            flushed,
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.tail.lock().early.unwatch(self.record);
    }
}

impl Engine {
    /// Ends when the record is flushed, may be answered by the rule, and that is noted; else never.
    pub(super) async fn early(
        &self,
        group: &Group,
        mut watch: Watch<'_>,
        rule: EarlyRule<'_>,
    ) -> Settled {
        let flushed = (&mut watch.flushed).await.ok();
        let position = flushed.filter(|at| self.may_answer(group, watch.record, Some(*at), rule));
        // From here on it is known that a client was told.
        let noted = position.filter(|at| group.tail.lock().acknowledge(*at));
        if let Some(position) = noted {
            let mut durable_on = group.durable_on(position);
            // Its core may not have heard of the flush yet.
            if !durable_on.contains(&group.node) {
                durable_on.push(group.node);
            }
            return Settled::Early {
                position,
                durable_on,
            };
        }
        std::future::pending().await
    }

    /// Whether the rule allows it now; without a position, of a record that is still to be appended.
    pub(super) fn may_answer(
        &self,
        group: &Group,
        record: &Record,
        position: Option<Position>,
        rule: EarlyRule<'_>,
    ) -> bool {
        let status = group.status();
        let is_own_term = position.is_none_or(|at| at.term == status.term);
        if status.role != Role::Leader || !is_own_term {
            return false;
        }
        let (tenant, applied) = (record.tenant.as_ref(), status.applied);
        let tail = group.tail.lock();
        // One that was appended since counts too, at the price of a wait for the commit.
        let has_control_ahead = tail.early.has_control(tenant, applied.map(|at| at.index));
        drop(tail);
        rule(EarlyFacts {
            quorum_ack_age: status.millis_since_quorum_ack.map(Duration::from_millis),
            lease: self.config.election_max,
            is_transferring: group.transferring.is_in(status.term),
            has_applied_term_start: applied.is_some_and(|at| at.term == status.term),
            is_tenant_open: false,
            has_control_ahead,
            has_room_aside: false,
        })
    }
}
