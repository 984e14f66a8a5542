//! Puts a verified snapshot in the place of a group's state. A small one is one batch: old state or
//! new state, nothing between. A large one goes in pieces, to bound memory: a mark says so first,
//! and a start that finds the mark installs the same file again before anything reads the group.
//! (Key generations, which would let readers see the old state until the end, come later.)

use std::io;
use std::sync::Arc;

use maia_common::GroupId;
use rocksdb::WriteBatch;

use super::super::db::family;
use super::super::keys::group_key;
use super::super::state::db::StateDb;
use super::super::types::RaftSnapshotMeta;
use super::SnapshotFile;
use super::format::{self, Reader};

/// A file up to this length is installed as one batch.
const ONE_BATCH_BYTES: u64 = 32 << 20;
/// Bytes of one piece otherwise.
const PIECE_BYTES: usize = 8 << 20;

/// Replaces the group's state by the snapshot's. Synced when it returns.
pub(crate) async fn install(
    state: &Arc<StateDb>,
    group: GroupId,
    meta: &RaftSnapshotMeta,
    snapshot: &SnapshotFile,
) -> io::Result<()> {
    let (state, meta, snapshot) = (Arc::clone(state), meta.clone(), snapshot.clone());
    tokio::task::spawn_blocking(move || {
        let pieces = snapshot.length_bytes()? > ONE_BATCH_BYTES;
        install_blocking(&state, group, &meta, &snapshot, pieces)
    })
    .await
    .map_err(io::Error::other)?
}

pub(crate) fn install_blocking(
    state: &StateDb,
    group: GroupId,
    meta: &RaftSnapshotMeta,
    snapshot: &SnapshotFile,
    pieces: bool,
) -> io::Result<()> {
    let found = format::verify(&snapshot.file, group)?;
    if found.last_log_id != meta.last_log_id {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the snapshot's file is not of the position that was announced",
        ));
    }
    let mut batch = WriteBatch::default();
    state.delete_group(&mut batch, group);
    if pieces {
        state.put_installing(&mut batch, group, true);
        write_synced(state, std::mem::take(&mut batch))?;
    }
    let (mut reader, _) = Reader::open(&snapshot.file, group)?;
    while let Some(rows) = reader.next_rows()? {
        for row in rows {
            let cf = family(&state.db, row.cf.name());
            batch.put_cf(cf, group_key(group, &row.suffix), &row.value);
        }
        if pieces && batch.size_in_bytes() >= PIECE_BYTES {
            state.write(std::mem::take(&mut batch))?;
        }
    }
    state.put_applied(
        &mut batch,
        group,
        meta.last_log_id.as_ref(),
        &meta.last_membership,
    );
    if pieces {
        state.put_installing(&mut batch, group, false);
    }
    write_synced(state, batch)
}

fn write_synced(state: &StateDb, batch: WriteBatch) -> io::Result<()> {
    state.write(batch)?;
    state.db.flush_wal(true).map_err(super::super::db::io_error)
}
