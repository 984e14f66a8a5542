//! What is remembered of deleted resources, so that an older write which turns up later does not bring
//! them back: when and where each was deleted. Bounded by age and by number for each tenant; the
//! newest stamp that was forgotten stays, and what is not newer than it can't be decided any more.

use maia_common::ids::{GroupId, TenantId};
use maia_common::limits;
use maia_common::position::Index;
use maia_common::wire::record as wire;

use super::apply::{Context, DATA_VERSION, decode};
use super::order::{Order, looks_at};
use super::{keys, stamps};
use crate::core::conflict::Stamp;
use crate::core::frame;
use crate::raft::{Mutations, StateCf, StateError, StateView};

/// The tombstones that one record lays and lifts. Counted together: what a record writes is seen only
/// by the next one.
#[derive(Default)]
pub(super) struct Graves {
    laid: Vec<(String, Stamp)>,
    /// With the index of the record that had laid it.
    lifted: Vec<(String, Index)>,
}

/// When and where the resource was deleted, if that is remembered, and by which record.
pub(super) fn find(
    context: &Context<'_>,
    resource: &str,
) -> Result<Option<(Stamp, Index)>, StateError> {
    let key = keys::tombstone_key(context.group, context.tenant, resource);
    let Some(bytes) = context.view.get(StateCf::Dedup, &key)? else {
        return Ok(None);
    };
    let grave: wire::Tombstone = decode(bytes)?;
    let stamp = stamps::from_wire(grave.stamp.as_ref());
    Ok(Some((stamp, Index::new(grave.index))))
}

/// The newest stamp of a tombstone of the tenant that was forgotten.
pub(super) fn forgotten(
    group: GroupId,
    tenant: &TenantId,
    view: &dyn StateView,
) -> Result<Option<Stamp>, StateError> {
    let mark = view.get(StateCf::Marks, &keys::forgotten_mark(group, tenant))?;
    let stamp: Option<wire::Stamp> = mark.map(decode).transpose()?;
    Ok(stamp.map(|stamp| stamps::from_wire(Some(&stamp))))
}

impl Graves {
    pub(super) fn lay(&mut self, resource: String, stamp: Stamp) {
        self.laid.push((resource, stamp));
    }

    pub(super) fn lift(&mut self, resource: String, laid_by: Index) {
        self.lifted.push((resource, laid_by));
    }

    /// Writes all of it, and forgets tombstones past cap or lifetime: a bounded number, see `order`.
    pub(super) fn carry_out(
        self,
        context: &Context<'_>,
        out: &mut Mutations,
    ) -> Result<(), StateError> {
        let most = looks_at(context.position.index, self.laid.len());
        if most == 0 && self.lifted.is_empty() {
            return Ok(());
        }
        let (group, tenant) = (context.group, context.tenant);
        let mark = keys::tombstone_count_mark(group, tenant);
        let before = Order::read(&mark, context.view)?;
        let mut kept = before;
        kept.count += self.laid.len() as u64;
        kept.count = kept.count.saturating_sub(self.lifted.len() as u64);
        let mut gone = Vec::with_capacity(self.lifted.len());
        for (resource, index) in &self.lifted {
            out.delete(StateCf::Dedup, keys::tombstone_key(group, tenant, resource));
            let order = keys::tombstone_order_key(group, tenant, *index, resource);
            out.delete(StateCf::Dedup, order.clone());
            gone.push(order);
        }
        forget(context, most, (&before, &mut kept), &gone, out)?;
        for (resource, stamp) in self.laid {
            let index = context.position.index;
            let grave = wire::Tombstone {
                stamp: Some(stamps::to_wire(&stamp)),
                index: index.get(),
            };
            let key = keys::tombstone_key(group, tenant, &resource);
            out.put(StateCf::Dedup, key, frame::encode(DATA_VERSION, &grave));
            let order = keys::tombstone_order_key(group, tenant, index, &resource);
            out.put(StateCf::Dedup, order, []);
        }
        if kept != before {
            kept.write(mark, out);
        }
        Ok(())
    }
}

/// Forgets up to `most` of the oldest tombstones that are past cap or lifetime; those in `lifted` are gone
/// already. `kept` is `before` without them.
fn forget(
    context: &Context<'_>,
    most: usize,
    (before, kept): (&Order, &mut Order),
    lifted: &[Vec<u8>],
    out: &mut Mutations,
) -> Result<(), StateError> {
    let (group, tenant, view) = (context.group, context.tenant, context.view);
    let prefix = keys::tombstone_order_prefix(group, tenant);
    let oldest = before.oldest(&prefix, most, view)?;
    let mut newest = None;
    let mut gone = 0;
    for (order, _) in &oldest {
        if lifted.contains(order) {
            gone += 1;
            continue;
        }
        let Some(resource) = keys::tombstone_resource(order, &prefix) else {
            break;
        };
        let Some((stamp, _)) = find(context, resource)? else {
            break;
        };
        let now_ms = context.record.hlc.physical_ms();
        let age_ms = now_ms.saturating_sub(stamp.hlc.physical_ms());
        let expired = u128::from(age_ms) > limits::TOMBSTONE_LIFETIME.as_millis();
        if !expired && kept.count <= limits::MAX_TOMBSTONES_PER_TENANT {
            break;
        }
        out.delete(StateCf::Dedup, keys::tombstone_key(group, tenant, resource));
        out.delete(StateCf::Dedup, order.clone());
        newest = newest.max(Some(stamp));
        (kept.count, gone) = (kept.count.saturating_sub(1), gone + 1);
    }
    kept.looked(&prefix, &oldest, (most, gone), context.position.index);
    if newest.is_some()
        && let Some(newest) = newest.max(forgotten(group, tenant, view)?)
    {
        let stamp = frame::encode(DATA_VERSION, &stamps::to_wire(&newest));
        out.put(StateCf::Marks, keys::forgotten_mark(group, tenant), stamp);
    }
    Ok(())
}
