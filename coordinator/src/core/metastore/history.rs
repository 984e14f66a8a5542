//! The watch's history and the ids by which retries are recognized: what a transaction that wrote
//! leaves behind, and what it makes the metastore forget. Called by apply alone. Invariants: I12
//! (bounded by revisions and by bytes), I13 (what is forgotten depends on the log alone).
//!
//! History and ids end apart: a load writes megabytes of changes within seconds, which no watcher
//! needs for long, while a client's retry may come minutes later.

use maia_common::limits;
use maia_common::position::Revision;
use maia_common::wire::record as wire;

use super::layout::{META_VERSION, change_key, dedup_key, history_mark, id_mark, number_pair};
use crate::core::frame;
use crate::raft::{Mutations, StateCf, StateError, StateView};

/// Keeps the change for watchers and its transaction's id for retries; forgets what is too old.
pub(super) fn record(
    change: &wire::MetaChange,
    transaction: &wire::Transaction,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<(), StateError> {
    let revision = Revision::new(change.revision);
    let encoded = frame::encode(META_VERSION, change);
    trim(revision, encoded.len() as u64, view, out)?;
    out.put(StateCf::Changes, change_key(revision), encoded);
    let id = &transaction.id;
    let earlier = wire::Earlier {
        revision: revision.get(),
        digest: transaction.digest.clone(),
        memo: transaction.memo.clone(),
    };
    let encoded = frame::encode(META_VERSION, &earlier);
    out.put(StateCf::Dedup, dedup_key(id), encoded);
    out.put(StateCf::Marks, id_mark(revision), id.as_bytes());
    forget_id(revision, view, out)
}

/// Makes room for a change of this size. The newest change always stays.
fn trim(
    revision: Revision,
    added_bytes: u64,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<(), StateError> {
    let known = number_pair(view, StateCf::Marks, &history_mark())?;
    let (mut oldest, mut bytes) = known.unwrap_or((revision.get(), 0));
    bytes += added_bytes;
    let last_dropped = oldest + limits::MAX_HISTORY_DROPS;
    let too_much = |oldest: u64, bytes: u64| {
        bytes > limits::WATCH_HISTORY_BYTES
            || revision.get() - oldest >= limits::WATCH_HISTORY_REVISIONS
    };
    while oldest < revision.get().min(last_dropped) && too_much(oldest, bytes) {
        let key = change_key(Revision::new(oldest));
        if let Some(dropped) = view.get(StateCf::Changes, &key)? {
            bytes = bytes.saturating_sub(dropped.len() as u64);
            out.delete(StateCf::Changes, key);
        }
        oldest += 1;
    }
    let mut mark = oldest.to_be_bytes().to_vec();
    mark.extend(bytes.to_be_bytes());
    out.put(StateCf::Marks, history_mark(), mark);
    Ok(())
}

/// Forgets the id of the transaction that is exactly the cap of revisions old.
fn forget_id(
    revision: Revision,
    view: &dyn StateView,
    out: &mut Mutations,
) -> Result<(), StateError> {
    let Some(old) = revision.get().checked_sub(limits::WATCH_HISTORY_REVISIONS) else {
        return Ok(());
    };
    let mark = id_mark(Revision::new(old));
    if let Some(id) = view.get(StateCf::Marks, &mark)? {
        out.delete(StateCf::Dedup, dedup_key(&id));
        out.delete(StateCf::Marks, mark);
    }
    Ok(())
}
