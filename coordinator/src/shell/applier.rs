//! What the engine calls for every committed record: group 0's go to the metastore's core, all
//! others to the data core. Tells the metastore's watchers of every revision that became visible.

use std::sync::{Arc, OnceLock};

use maia_common::error_code::ErrorCode;
use maia_common::ids::GroupId;
use maia_common::position::{Position, Revision};
use maia_common::wire::record as wire;
use prost::Message;
use tokio::sync::watch;

use super::clock::Clock;
use crate::core::record::{Hlc, Outcome, Record, RecordKind};
use crate::core::{data, metastore};
use crate::raft::{Applier, Effect, Mutations, Source, StateError, StateReader, StateView};

/// Dispatches records to the cores.
pub struct RecordApplier {
    clock: Arc<Clock>,
    revisions: watch::Sender<Revision>,
    state: OnceLock<StateReader>,
}

/// That group 0's state is at this revision now.
struct Revised(Revision);

impl RecordApplier {
    /// Tells `revisions` of group 0's changes, and lets `clock` see every record's reading.
    #[must_use]
    pub fn new(clock: Arc<Clock>, revisions: watch::Sender<Revision>) -> Self {
        Self {
            clock,
            revisions,
            state: OnceLock::new(),
        }
    }

    /// Takes the opened state and tells the watchers where it is.
    ///
    /// # Errors
    /// [`StateError`] when it can't be read.
    pub fn opened(&self, state: StateReader) -> Result<(), StateError> {
        self.refresh(self.state.get_or_init(|| state))
    }

    fn refresh(&self, state: &StateReader) -> Result<(), StateError> {
        self.tell(metastore::current_revision(state)?);
        Ok(())
    }

    fn tell(&self, revision: Revision) {
        self.revisions.send_if_modified(|known| {
            let newer = revision > *known;
            *known = revision.max(*known);
            newer
        });
    }
}

impl Applier for RecordApplier {
    fn apply(
        &self,
        group: GroupId,
        position: Position,
        record: &Record,
        view: &dyn StateView,
        out: &mut Mutations,
    ) -> Result<Outcome, StateError> {
        self.clock.observe(group, record.hlc);
        match (record.kind, group.is_metastore()) {
            (RecordKind::Meta, true) => {
                let applied = metastore::apply(&record.body, view, out)?;
                if let Some(change) = &applied.change {
                    out.effect(Revised(Revision::new(change.revision)));
                }
                Ok(Outcome(applied.outcome.encode_to_vec().into()))
            }
            (
                RecordKind::Data
                | RecordKind::Purge
                | RecordKind::Seal
                | RecordKind::Unseal
                | RecordKind::Reconcile,
                false,
            ) => {
                let mut own = Mutations::default();
                let outcome = data::apply(group, position, record, view, &mut own)?;
                if let Some(trace) = data::trace(record, &own) {
                    out.trace(trace);
                }
                out.append(own);
                Ok(Outcome(outcome))
            }
            _ => {
                if !group.is_metastore() {
                    out.trace(data::trace_of_nothing());
                }
                Ok(misplaced(record.kind))
            }
        }
    }

    fn restored(&self, group: GroupId, greatest: Hlc, _source: Source) -> Result<(), StateError> {
        self.clock.observe(group, greatest);
        match self.state.get().filter(|_| group.is_metastore()) {
            Some(state) => self.refresh(state),
            None => Ok(()),
        }
    }

    fn applied(&self, _group: GroupId, _last: Position, effects: Vec<Effect>) {
        let newest = effects
            .iter()
            .filter_map(|e| e.downcast_ref::<Revised>())
            .map(|r| r.0)
            .max();
        if let Some(revision) = newest {
            self.tell(revision);
        }
    }
}

/// The outcome of a record in a group where its kind does nothing.
fn misplaced(kind: RecordKind) -> Outcome {
    let refused = wire::Refused {
        code: ErrorCode::Internal.to_string(),
        detail: format!("a {kind:?} record has no place in this group"),
    };
    let outcome = wire::DataOutcome {
        what: Some(wire::data_outcome::What::Refused(refused)),
    };
    Outcome(outcome.encode_to_vec().into())
}
