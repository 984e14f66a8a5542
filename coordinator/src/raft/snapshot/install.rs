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
    state.put_installed(&mut batch, group, meta.last_log_id.as_ref());
    if pieces {
        state.put_installing(&mut batch, group, false);
    }
    write_synced(state, batch)
}

fn write_synced(state: &StateDb, batch: WriteBatch) -> io::Result<()> {
    state.write(batch)?;
    state.db.flush_wal(true).map_err(super::super::db::io_error)
}

#[cfg(test)]
mod tests {
    use rocksdb::Cache;

    use super::super::super::config::DbOptions;
    use super::super::super::db::{StateCf, open_state};
    use super::super::super::state::reader;
    use super::super::super::types::{RaftStoredMembership, log_id};
    use super::super::SnapshotStore;
    use super::super::format::Writer;
    use super::*;

    const G: GroupId = GroupId::new(4);
    const OTHER: GroupId = GroupId::new(5);

    fn state(dir: &std::path::Path) -> StateDb {
        let cache = Cache::new_lru_cache(1 << 20);
        StateDb::new(open_state(dir, &DbOptions::default(), &cache).unwrap())
    }

    fn put(state: &StateDb, group: GroupId, suffix: &[u8]) {
        let cf = family(&state.db, StateCf::Data.name());
        state
            .db
            .put_cf(cf, group_key(group, suffix), b"old")
            .unwrap();
    }

    fn rows(state: &StateDb, group: GroupId) -> Vec<Vec<u8>> {
        let prefix = group_key(group, &[]);
        let rows = reader::scan(&state.db, StateCf::Data, &prefix, None, usize::MAX).unwrap();
        rows.into_iter().map(|(key, _)| key[8..].to_vec()).collect()
    }

    fn snapshot(store: &SnapshotStore, keys: &[&[u8]]) -> (RaftSnapshotMeta, SnapshotFile) {
        let file = store.temporary().unwrap();
        let meta = RaftSnapshotMeta {
            last_log_id: Some(log_id(3, 30)),
            last_membership: RaftStoredMembership::default(),
        };
        let mut writer = Writer::new(&file.file, G, &meta).unwrap();
        for key in keys {
            writer.row(StateCf::Data, key, b"new").unwrap();
        }
        writer.finish(&file.file).unwrap();
        (meta, file)
    }

    #[test]
    fn it_replaces_the_group_and_nothing_else() {
        for pieces in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let state = state(dir.path());
            put(&state, G, b"a");
            put(&state, OTHER, b"a");
            let store = SnapshotStore::open(dir.path()).unwrap();
            let (meta, file) = snapshot(&store, &[b"b", b"c"]);
            install_blocking(&state, G, &meta, &file, pieces).unwrap();
            assert_eq!(rows(&state, G), [b"b", b"c"]);
            assert_eq!(rows(&state, OTHER), [b"a"]);
            assert_eq!(state.applied(G).unwrap().0, meta.last_log_id);
            assert!(!state.is_installing(G).unwrap());
        }
    }

    #[test]
    fn a_damaged_snapshot_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(dir.path());
        put(&state, G, b"a");
        let store = SnapshotStore::open(dir.path()).unwrap();
        let (meta, file) = snapshot(&store, &[b"b"]);
        let length = file.length_bytes().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&*file.file, b"x", length / 2).unwrap();
        for pieces in [false, true] {
            assert!(install_blocking(&state, G, &meta, &file, pieces).is_err());
            assert_eq!(rows(&state, G), [b"a"]);
            assert!(!state.is_installing(G).unwrap());
        }
    }
}
