//! Answers before commit, for the tenants that ask for it: what `core/acks` must know of a tenant, and
//! the proposal by that rule. Used by `propose`, at the group's leader.
//!
//! Invariants: I3, I5 (no such answer for a tenant that is closed, or may be by then).

use std::sync::atomic::Ordering;
use std::time::Instant;

use maia_common::ids::{GroupId, NodeId};
use maia_common::placement::SyncMode;
use maia_common::position::Position;

use super::DataService;
use crate::core::acks::{self, AckRule, EarlyFacts};
use crate::core::data;
use crate::core::record::Record;
use crate::raft::{EarlyRule, ProposeError, Settled};
use crate::shell::peers::RemoteApplied;

impl DataService {
    /// Proposes here; ends before the commit where the tenant's mode and what is known allow it.
    pub(super) async fn propose_by(
        &self,
        group: GroupId,
        rule: AckRule,
        record: Record,
        deadline: Instant,
    ) -> Result<Settled, ProposeError> {
        let may = |facts| self.may_answer_early(group, &record, facts);
        // The leader's word on the mode counts beside the record's: it may have changed.
        let is_early = rule.mode == SyncMode::Async && acks::may_be_early(&record);
        let may: Option<EarlyRule<'_>> = if is_early { Some(&may) } else { None };
        let engine = &self.0.engine;
        let proposed = engine.propose_early(group, record.clone(), deadline, may);
        proposed.await
    }

    fn may_answer_early(&self, group: GroupId, record: &Record, facts: EarlyFacts) -> bool {
        let facts = EarlyFacts {
            is_tenant_open: self.is_open(group, record),
            has_room_aside: !self.0.quarantined.is_full(),
            ..facts
        };
        acks::may_answer_early(record, facts)
    }

    /// Whether apply would take the record, as far as the applied state goes.
    fn is_open(&self, group: GroupId, record: &Record) -> bool {
        let state = self.0.engine.state();
        let open = |tenant| data::is_open(group, tenant, record.placement, &state);
        // What can't be read is decided by apply.
        let open = record.tenant.as_ref().map(open);
        open.is_some_and(|open| open.unwrap_or(false))
    }

    /// What the client is told of a write that is not committed yet.
    pub(super) fn early_answer(
        &self,
        group: GroupId,
        position: Position,
        durable_on: Vec<NodeId>,
    ) -> RemoteApplied {
        self.0.early.fetch_add(1, Ordering::Relaxed);
        RemoteApplied {
            outcome: data::early_outcome(group, position),
            position,
            durable_on,
            degraded: false,
        }
    }
}
