//! What may become of a record that was cut off: nothing if it was committed after all or its key is
//! known, else what its tenant's strategy says, once (I3, I8), and not behind a seal (I5).

use maia_common::error_code::ErrorCode;
use maia_common::ids::{ResourceId, ResourceType};
use maia_common::invariants::{self, Violation};
use maia_common::wire::record as wire;
use maia_common::wire::record::data_outcome::What;
use maia_coordinator::core::data;
use maia_coordinator::core::quarantine::Resolution;
use maia_coordinator::core::record::Record;
use maia_coordinator::raft::{StateCf, StateView};

use super::registers::operation_of;
use super::{History, Proposal};
use crate::plan::GROUP;
use crate::report::Counts;

/// Fates of a record that was cut off.
const RESOLVED: u32 = 1;
const KEY_KNOWN: u32 = 2;
const COMMITTED: u32 = 3;

fn reconciled(fate: u32, (won, lost, merged): (u32, u32, u32)) -> What {
    What::Reconciled(wire::Reconciled {
        fate,
        won,
        lost,
        merged,
    })
}

fn refused(code: ErrorCode) -> What {
    What::Refused(wire::Refused {
        code: code.to_string(),
        detail: String::new(),
    })
}

/// Without the text for people.
fn plain(what: &What) -> What {
    match what {
        What::Refused(found) => What::Refused(wire::Refused {
            code: found.code.clone(),
            detail: String::new(),
        }),
        other => other.clone(),
    }
}

impl History {
    pub(super) fn judge_resolution(
        &mut self,
        proposal: &Proposal,
        (of, how): (u64, Resolution),
        record: &Record,
        found: &What,
        counts: &mut Counts,
    ) -> Result<(), Violation> {
        let is_sealed = self.is_sealed(proposal.tenant);
        if let Some(known) = self.settled.get(&of) {
            return invariants::exactly_once(known, found);
        }
        invariants::sealed(is_sealed, !matches!(found, What::Refused(_)))?;
        let Some(theirs) = self.records.get(&of).cloned() else {
            return Ok(());
        };
        let key = self.proposals.get(&of).and_then(|cut_off| {
            let (key, body) = cut_off.key.clone()?;
            Some(((cut_off.tenant, key), body))
        });
        let is_known = key
            .as_ref()
            .is_some_and(|(key, _)| self.keys.contains_key(key));
        let mut was_there = false;
        let expected = if is_sealed {
            refused(ErrorCode::TenantHeld)
        } else if self.contains(of) {
            let committed = reconciled(COMMITTED, (0, 0, 0));
            invariants::exactly_once(&committed, found)?;
            committed
        } else if is_known {
            reconciled(KEY_KNOWN, (0, 0, 0))
        } else {
            was_there = self.registers.content(&theirs).is_some();
            let fates = self.registers.resolve(&theirs, how, record);
            fates.map_or_else(
                || refused(ErrorCode::NotFound),
                |fates| reconciled(RESOLVED, fates),
            )
        };
        invariants::explained(&of, &expected, &plain(found))?;
        if matches!(expected, What::Refused(_)) {
            return Ok(());
        }
        self.settled.insert(of, expected.clone());
        counts.proven += u64::from(self.contains(of));
        let is_resolved = matches!(expected, What::Reconciled(done) if done.fate == RESOLVED);
        if !is_resolved {
            return Ok(());
        }
        counts.resolved += 1;
        counts.overwritten += u64::from(how == Resolution::Overwrite);
        if let Some((key, body)) = key {
            let written = self.written_by_resolution(!was_there);
            self.keys.insert(key, (body, written));
        }
        let expected = self.registers.content(&theirs);
        invariants::explained(&of, &expected, &self.content(&theirs))
    }

    /// What a repetition of a record is answered that took effect by a resolution, the last entry.
    fn written_by_resolution(&self, is_created: bool) -> What {
        let last = self.entries.last().expect("the resolution");
        What::Written(wire::Written {
            version: Some(wire::Version {
                group: GROUP.get(),
                term: last.term,
                index: self.last_index(),
            }),
            created: vec![is_created],
            ..wire::Written::default()
        })
    }

    /// What a reader sees where the record wrote.
    fn content(&self, record: &Record) -> Option<String> {
        let operation = operation_of(record)?;
        let kind = ResourceType::new(operation.resource_type).ok()?;
        let id = ResourceId::new(operation.resource_id).ok()?;
        let key = data::resource_key(GROUP, record.tenant.as_ref()?, &kind, &id);
        let stored = self.state.get(StateCf::Data, &key);
        let resource = data::decode_resource(stored.expect("memory can be read")?);
        let data = resource.expect("written by apply").data;
        Some(String::from_utf8_lossy(&data).into_owned())
    }
}
