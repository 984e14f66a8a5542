//! From the history to a delta: what a subscriber missed, a stretch of revisions at a time. The
//! history has the values as they were, so a stretch may end before the newest revision and still be
//! exact; reads block, and are bounded in size. Where a stretch ends depends on the history more than
//! on where it begins, so that subscribers who began apart soon share theirs.

use std::sync::Arc;

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

/// Changes read at once while they are small.
const PAGE: usize = 64;
/// Changes read at once while they are large: one of a bulk load has hundreds of KB.
const LARGE_PAGE: usize = 4;
/// Changed keys from which on a change is large.
const LARGE_CHANGE: usize = 64;
/// A stretch ends at revisions that this divides, whatever the changes are.
const MEETING: u64 = 1024;
/// And at these, once it is half full.
const FULL_MEETING: u64 = 4;

/// What follows a revision. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Next {
    /// Nothing: it is the newest.
    Current,
    /// This delta.
    Stretch(Arc<Stretch>),
    /// The history does not reach back to it.
    Gone,
}

/// A delta from the history.
#[derive(Debug)]
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
) -> Result<Next, StateError> {
    let mut next = Next::Gone;
    store.read(&mut |view| {
        let current = core::current_revision(view)?;
        if current <= from {
            if current == from {
                next = Next::Current;
            }
            return Ok(());
        }
        if let Some(changes) = stretch(view, from)? {
            next = Next::Stretch(Arc::new(encode(view, cluster, from, &changes)?));
        }
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
    loop {
        let large = keys >= changes.len() * LARGE_CHANGE;
        let page = if large { LARGE_PAGE } else { PAGE };
        let rows = view.scan(StateCf::Changes, &prefix, Some(&core::change_key(at)), page)?;
        let ended = rows.len() < page;
        for (_, bytes) in rows {
            let change = core::decode_change(bytes)?;
            if change.revision != at.next().get() {
                return Ok(None);
            }
            at = at.next();
            keys += change.keys.len();
            changes.push(change);
            if is_end(at, keys) {
                return Ok(Some(changes));
            }
        }
        if ended {
            return Ok((!changes.is_empty()).then_some(changes));
        }
    }
}

/// Whether a stretch with so many changed keys ends at this revision.
fn is_end(at: Revision, keys: usize) -> bool {
    let at = at.get();
    at.is_multiple_of(MEETING)
        || (keys >= limits::FEED_PIECE_TENANTS / 2 && at.is_multiple_of(FULL_MEETING))
        || keys >= limits::FEED_PIECE_TENANTS
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
