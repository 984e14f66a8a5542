//! The seal: after it the group takes no client write of the tenant until an unseal that names it
//! (I5). Whoever leads the group, and whatever was proposed before: it is decided here, in the
//! log's order.
//!
//! Both carry the step of the migration that they belong to: (revision, attempt), which is also the
//! seal's name. Copies of either may come late, or twice, or in the other order:
//! ```text
//!                  seal n                        unseal n
//!  open, mark < n ────────▶ sealed by n ────────────────────▶ open, mark = n
//!        │        a seal not above the mark: ignored               ▲
//!        │        an unseal that is not the seal's: ignored        │
//!        └── unseal n: what was to be undone has not come yet, ────┘
//!                      and will be ignored when it does
//! ```
//! A seal ends with the placement that it closed: the purge lifts it, and what comes of it later is ignored,
//! or a tenant of the same name that is placed here anew would be closed for ever. The mark itself outlives
//! the purge.

use bytes::Bytes;
use maia_common::ids::{GroupId, TenantId};
use maia_common::position::{Position, Revision};
use maia_common::wire::record as wire;
use prost::Message;

use super::apply::{DATA_VERSION, decode};
use super::{keys, purge};
use crate::core::frame;
use crate::core::record::{MigrationStep, Record, RecordKind};
use crate::raft::{Mutations, StateCf, StateError, StateView};

fn mark_of(
    group: GroupId,
    tenant: &TenantId,
    view: &dyn StateView,
) -> Result<Option<wire::TenantMark>, StateError> {
    let bytes = view.get(StateCf::Marks, &keys::seal_mark(group, tenant))?;
    bytes.map(decode).transpose()
}

/// Whether the tenant is sealed in this group.
pub(super) fn is_sealed(
    group: GroupId,
    tenant: &TenantId,
    view: &dyn StateView,
) -> Result<bool, StateError> {
    Ok(mark_of(group, tenant, view)?.is_some_and(|mark| mark.sealed))
}

/// Whether apply would take data of the tenant that was proposed under the placement that was
/// created at `placement`, as far as this state goes: neither sealed nor ended.
///
/// # Errors
/// [`StateError`] when the view fails.
pub fn is_open(
    group: GroupId,
    tenant: &TenantId,
    placement: Revision,
    view: &dyn StateView,
) -> Result<bool, StateError> {
    let has_ended = placement < purge::ended_at(group, tenant, view)?;
    Ok(!has_ended && !is_sealed(group, tenant, view)?)
}

/// Applies a seal or an unseal; the outcome tells what the tenant is now.
pub(super) fn apply(
    (group, position): (GroupId, Position),
    tenant: &TenantId,
    record: &Record,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<Bytes, StateError> {
    let current = mark_of(group, tenant, view)?;
    let ended = purge::ended_at(group, tenant, view)?;
    let next = record
        .migration
        .filter(|step| step.revision >= ended)
        .filter(|step| takes_effect(record.kind, *step, current.as_ref()))
        .map(|step| wire::TenantMark {
            migration_revision: step.revision.get(),
            migration_attempt: step.attempt,
            sealed: record.kind == RecordKind::Seal,
            term: position.term.get(),
            index: position.index.get(),
        });
    if let Some(next) = &next {
        let key = keys::seal_mark(group, tenant);
        out.put(StateCf::Marks, key, frame::encode(DATA_VERSION, next));
    }
    let marked = wire::Marked {
        took_effect: next.is_some(),
        mark: next.or(current),
    };
    let what = wire::data_outcome::What::Marked(marked);
    Ok(wire::DataOutcome { what: Some(what) }
        .encode_to_vec()
        .into())
}

/// The tenant's placement here ends, and with it the seal.
pub(super) fn lift(
    group: GroupId,
    tenant: &TenantId,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<(), StateError> {
    let mark = mark_of(group, tenant, view)?;
    if let Some(mark) = mark.filter(|mark| mark.sealed) {
        let open = wire::TenantMark {
            sealed: false,
            ..mark
        };
        let key = keys::seal_mark(group, tenant);
        out.put(StateCf::Marks, key, frame::encode(DATA_VERSION, &open));
    }
    Ok(())
}

/// A repeated seal changes nothing, so the seal keeps its place in the log.
fn takes_effect(kind: RecordKind, step: MigrationStep, mark: Option<&wire::TenantMark>) -> bool {
    let Some(mark) = mark else { return true };
    let in_force = MigrationStep {
        revision: Revision::new(mark.migration_revision),
        attempt: mark.migration_attempt,
    };
    match kind {
        RecordKind::Unseal if mark.sealed => step == in_force,
        _ => step > in_force,
    }
}
