//! The end of a tenant in a group: marks its placement as ended, lifts its seal, then deletes its rows, a
//! bounded number with each record.

use bytes::Bytes;
use maia_common::ids::{GroupId, TenantId};
use maia_common::position::Revision;
use maia_common::wire::record as wire;
use prost::Message;

use super::{keys, seal};
use crate::raft::{Mutations, StateCf, StateError, StateView};

/// Rows that one record deletes: bounds the apply step.
const PURGE_ROWS: usize = 1000;

/// The revision that ended the tenant's placement in this group; 0: it was never ended.
pub(super) fn ended_at(
    group: GroupId,
    tenant: &TenantId,
    view: &dyn StateView,
) -> Result<Revision, StateError> {
    let mark = view.get(StateCf::Marks, &keys::ended_mark(group, tenant))?;
    let number = mark
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_be_bytes);
    Ok(Revision::new(number))
}

/// Applies a purge that was decided at `revision`; one that is older than the mark does nothing. With the
/// last row the mark goes one further: a second one of the same deletion, proposed beside the first and
/// late, must not touch a tenant that was placed here anew.
pub(super) fn apply(
    group: GroupId,
    tenant: &TenantId,
    revision: Revision,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<Bytes, StateError> {
    let mut more = false;
    if revision >= ended_at(group, tenant, view)? {
        for mark in [
            keys::dedup_count_mark(group, tenant),
            keys::tombstone_count_mark(group, tenant),
            keys::forgotten_mark(group, tenant),
        ] {
            out.delete(StateCf::Marks, mark);
        }
        seal::lift(group, tenant, view, out)?;
        let prefix = keys::tenant_prefix(group, tenant);
        for cf in [StateCf::Data, StateCf::Dedup] {
            let rows = view.scan(cf, &prefix, None, PURGE_ROWS)?;
            more |= rows.len() == PURGE_ROWS;
            for (key, _) in rows {
                out.delete(cf, key);
            }
        }
        let ended = revision.get() + u64::from(!more);
        let mark = keys::ended_mark(group, tenant);
        out.put(StateCf::Marks, mark, ended.to_be_bytes());
    }
    let what = wire::data_outcome::What::Purged(wire::Purged { more });
    Ok(wire::DataOutcome { what: Some(what) }
        .encode_to_vec()
        .into())
}
