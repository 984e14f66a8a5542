//! What a resolution does: a record that was cut off a log meets what the tenant has now, resource by
//! resource, each on its own. Decided from the log and the state alone (I13), so two nodes may
//! propose the same one: it has one key, made of where the record stood (I8).
//!
//! In this order: the record is part of this group's own history → it was committed, nothing to do;
//! its own idempotency key is known → it took effect under another position; else its resources are
//! resolved by [`conflict`](crate::core::conflict), and its key is registered.

use std::collections::BTreeSet;

use maia_common::error_code::ErrorCode;
use maia_common::ids::GroupId;
use maia_common::limits;
use maia_common::position::{Index, Position, Term};
use maia_common::wire::record as wire;
use prost::Message;

use super::apply::{Context, Fault, changed, is_known, refuse};
use super::slot::Slot;
use super::stamps;
use super::tombstones::{self, Graves};
use crate::core::conflict::{self, Content, Fate, Register, Stamp};
use crate::core::history::{self, Standing};
use crate::core::quarantine::Resolution;
use crate::core::record::{Idempotency, Record};
use crate::raft::Mutations;

/// What became of the record as a whole.
const RESOLVED: u32 = 1;
const KEY_KNOWN: u32 = 2;
const COMMITTED: u32 = 3;

/// What a resolution did, and the key and outcome to be registered for the record that it is about.
pub(super) type Resolved = (wire::Reconciled, Option<(Idempotency, wire::Written)>);

/// Carries out the resolution in the context's record.
pub(super) fn write_all(context: &Context<'_>, out: &mut Mutations) -> Result<Resolved, Fault> {
    let Ok(body) = wire::Reconcile::decode(context.record.body.clone()) else {
        return refuse(
            ErrorCode::InvalidRequest,
            "the record's body is no resolution",
        );
    };
    let Some(how) = Resolution::from_number(body.strategy) else {
        return refuse(ErrorCode::InvalidRequest, "an unknown strategy");
    };
    let Ok(theirs) = Record::decode(body.record.clone()) else {
        return refuse(ErrorCode::InvalidRequest, "what it resolves is no record");
    };
    if theirs.tenant.as_ref() != Some(context.tenant) {
        return refuse(ErrorCode::InvalidRequest, "a record of another tenant");
    }
    if theirs.placement < context.record.placement {
        return refuse(
            ErrorCode::StalePlacement,
            "a record of a tenant that was deleted",
        );
    }
    let only = |fate| wire::Reconciled {
        fate,
        ..wire::Reconciled::default()
    };
    match standing(context, &body)? {
        Some(Standing::Applied) => return Ok((only(COMMITTED), None)),
        Some(Standing::NotYet) => {
            let text = "the group's history does not tell whether the record was committed";
            return refuse(ErrorCode::DivergedHistory, text);
        }
        Some(Standing::Diverged) | None => {}
    }
    if let Some(idempotency) = &theirs.idempotency
        && is_known(context, idempotency)?
    {
        return Ok((only(KEY_KNOWN), None));
    }
    let Ok(operations) = wire::DataOperations::decode(theirs.body.clone()) else {
        return refuse(ErrorCode::InvalidRequest, "its body is not data operations");
    };
    let (done, written) = resolve_all(context, how, &theirs, &operations, out)?;
    let key = theirs.idempotency.clone();
    Ok((done, key.map(|key| (key, written))))
}

/// What this group's history says of the record's place; none if it stood in another group.
fn standing(context: &Context<'_>, body: &wire::Reconcile) -> Result<Option<Standing>, Fault> {
    if GroupId::new(body.group) != context.group {
        return Ok(None);
    }
    let position = Position::new(Term::new(body.term), Index::new(body.index));
    let standing = history::standing(context.group, position, context.position, context.view)?;
    Ok(Some(standing))
}

fn resolve_all(
    context: &Context<'_>,
    how: Resolution,
    theirs: &Record,
    body: &wire::DataOperations,
    out: &mut Mutations,
) -> Result<(wire::Reconciled, wire::Written), Fault> {
    let version = context.version();
    let mut written = wire::Written {
        version: Some(version),
        ..wire::Written::default()
    };
    let mut done = wire::Reconciled {
        fate: RESOLVED,
        ..wire::Reconciled::default()
    };
    let (mut seen, mut graves) = (BTreeSet::new(), Graves::default());
    for operation in &body.operations {
        let slot = Slot::open(context, operation, &mut seen)?;
        written.created.push(slot.resource.is_none());
        let fate = match how {
            Resolution::Overwrite => overwrite(context, operation, slot, body, &mut graves, out)?,
            how => meet(context, how, (theirs, operation), slot, &mut graves, out)?,
        };
        match fate {
            Fate::Won => done.won += 1,
            Fate::Lost => done.lost += 1,
            Fate::Merged => done.merged += 1,
        }
    }
    graves.carry_out(context, out)?;
    Ok((done, written))
}

/// The operator's decision: as a new write, whatever is there and whatever the record asked of it.
fn overwrite(
    context: &Context<'_>,
    operation: &wire::DataOperation,
    slot: Slot,
    body: &wire::DataOperations,
    graves: &mut Graves,
    out: &mut Mutations,
) -> Result<Fate, Fault> {
    use wire::data_operation::What;
    if slot.resource.is_none() && matches!(operation.what, Some(What::Delete(_))) {
        return Ok(Fate::Lost);
    }
    let newest = stamps::by_field(slot.resource.as_ref(), slot.grave());
    match changed(context, operation, &slot, body.by_field)? {
        Some(resource) => slot.put(&resource, graves, out),
        None => slot.bury(
            Stamp::of(context.record).above(newest.newest()),
            graves,
            out,
        ),
    }
    Ok(Fate::Won)
}

/// The record's write meets what is there; the greater stamps win.
fn meet(
    context: &Context<'_>,
    how: Resolution,
    (theirs, operation): (&Record, &wire::DataOperation),
    slot: Slot,
    graves: &mut Graves,
    out: &mut Mutations,
) -> Result<Fate, Fault> {
    use wire::data_operation::What;
    let stamp = Stamp::of(theirs);
    let content = match &operation.what {
        Some(What::Put(data)) => Some(Content {
            data: data.clone(),
            content_type: operation.content_type.clone(),
        }),
        Some(What::Delete(_)) => None,
        Some(What::MergePatch(_)) | None => {
            let text = "a patch of a state that is gone can only be applied by an operator";
            return refuse(ErrorCode::InvalidRequest, text);
        }
    };
    let is_merge = how == Resolution::Merge;
    let read = if is_merge {
        stamps::by_field
    } else {
        stamps::whole
    };
    let current = read(slot.resource.as_ref(), slot.grave());
    let forgotten = tombstones::forgotten(context.group, context.tenant, context.view)?;
    // What is there since before the write was not deleted after it; and what lies under all fields says
    // itself what is older.
    let is_known =
        current.whole.is_some() || current.oldest().is_some_and(|oldest| *oldest <= stamp);
    if !is_known && Some(&stamp) <= forgotten.as_ref() {
        let text = "whether the resource was deleted since is not remembered any more";
        return refuse(ErrorCode::PreconditionFailed, text);
    }
    let arrived = match content {
        Some(content) if is_merge => Register::by_field(stamp, content),
        content => Register::replaced(stamp, content),
    };
    let (now, fate) = conflict::resolve(current, arrived);
    if fate == Fate::Lost {
        return Ok(fate);
    }
    let newest = now.newest().cloned().unwrap_or_default();
    match now.content() {
        None => slot.bury(newest, graves, out),
        Some(content) if content.data.len() > limits::MAX_RESOURCE_BYTES => {
            return refuse(
                ErrorCode::BodyTooLarge,
                "the resource would become too large",
            );
        }
        Some(content) => {
            let version = context.version();
            let created = slot.resource.as_ref().and_then(|current| current.created);
            let resource = wire::Resource {
                version: Some(version),
                hlc: newest.hlc.get(),
                origin_region: newest.region,
                content_type: content.content_type,
                tombstone: false,
                data: content.data,
                created: created.or(Some(version)),
                fields: is_merge.then(|| stamps::stored(&now)),
            };
            slot.put(&resource, graves, out);
        }
    }
    Ok(fate)
}

#[cfg(test)]
#[path = "reconcile_test.rs"]
mod tests;
