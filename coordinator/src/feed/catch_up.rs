//! From the history to a delta: what a subscriber missed, a stretch of revisions at a time. The
//! history has the values as they were, so a stretch may end before the newest revision and still be
//! exact; reads block, and are bounded in size.

use bytes::Bytes;
use maia_common::limits;
use maia_common::position::Revision;
use maia_common::wire::feed as wire;
use maia_common::wire::feed::down::Kind;
use maia_common::wire::record::MetaChange;

use super::image::topology_at;
use super::message::ready;
use crate::core::cluster_state::ClusterState;
use crate::core::{feed, metastore as core};
use crate::metastore::Metastore;
use crate::raft::{StateCf, StateError, StateView};

/// Changes read at once: one of a bulk load has hundreds of KB.
const PAGE: usize = 16;
/// Changes in one stretch, whatever they changed.
const MAX_CHANGES: usize = 1024;

/// What follows a revision.
pub(super) enum Next {
    /// Nothing: it is the newest.
    Current,
    /// This delta.
    Stretch(Stretch),
    /// The history does not reach back to it, or it is further behind than `max_behind`.
    Gone,
}

/// A delta from the history.
pub(super) struct Stretch {
    pub(super) revision: Revision,
    pub(super) tenants: usize,
    pub(super) message: Bytes,
}

/// What follows the revision `from`, read from one moment of the state.
pub(super) fn next(
    store: &dyn Metastore,
    cluster: &ClusterState,
    from: Revision,
    max_behind: u64,
) -> Result<Next, StateError> {
    let mut next = Next::Gone;
    store.read(&mut |view| {
        let current = core::current_revision(view)?;
        next = match current.get().checked_sub(from.get()) {
            Some(0) => Next::Current,
            Some(behind) if behind <= max_behind => match stretch(view, from)? {
                Some(changes) => Next::Stretch(encode(view, cluster, from, &changes)?),
                None => Next::Gone,
            },
            _ => Next::Gone,
        };
        Ok(())
    })?;
    Ok(next)
}

/// Changes from the one after `from` on; none when that one is compacted.
fn stretch(view: &dyn StateView, from: Revision) -> Result<Option<Vec<MetaChange>>, StateError> {
    let prefix = core::meta_key("");
    let mut changes: Vec<MetaChange> = Vec::new();
    let mut keys = 0;
    let mut at = from;
    while keys < limits::FEED_PIECE_TENANTS && changes.len() < MAX_CHANGES {
        let rows = view.scan(StateCf::Changes, &prefix, Some(&core::change_key(at)), PAGE)?;
        let ended = rows.len() < PAGE;
        for (_, bytes) in rows {
            let change = core::decode_change(bytes)?;
            if change.revision != at.next().get() {
                return Ok(None);
            }
            at = at.next();
            keys += change.keys.len();
            changes.push(change);
        }
        if ended {
            break;
        }
    }
    Ok((!changes.is_empty()).then_some(changes))
}

fn encode(
    view: &dyn StateView,
    cluster: &ClusterState,
    from: Revision,
    history: &[MetaChange],
) -> Result<Stretch, StateError> {
    let (revision, committed_unix_us) = history
        .last()
        .map_or((from.get(), 0), |c| (c.revision, c.proposed_unix_us));
    let changes = feed::merge(&topology_at(view, cluster)?, history);
    let tenants = changes.tenants.len() + changes.removed_tenants.len();
    let message = ready(Kind::Delta(wire::Delta {
        from_revision: from.get(),
        revision,
        committed_unix_us,
        changes: Some(changes),
    }));
    let revision = Revision::new(revision);
    Ok(Stretch {
        revision,
        tenants,
        message,
    })
}
