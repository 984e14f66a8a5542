//! Puts a verified snapshot in the place of a group's state. A small one is one batch: old state or
//! new state, nothing between. A large one goes in pieces, to bound memory: a mark says so first,
//! and a start that finds the mark installs the same file again before anything reads the group.
//! (Key generations, which would let readers see the old state until the end, come later.)

use std::io;
use std::sync::Arc;

use rocksdb::WriteBatch;

use super::super::db::family;
use super::super::keys::group_key;
use super::super::state::db::StateDb;
use super::super::state::incarnation::Incarnation;
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
    incarnation: &Incarnation,
    meta: &RaftSnapshotMeta,
    snapshot: &SnapshotFile,
) -> io::Result<()> {
    let (state, incarnation) = (Arc::clone(state), incarnation.clone());
    let (meta, snapshot) = (meta.clone(), snapshot.clone());
    tokio::task::spawn_blocking(move || {
        let in_pieces = snapshot.length_bytes()? > ONE_BATCH_BYTES;
        let pieces = in_pieces.then_some(PIECE_BYTES);
        let mut install = Install::begin(&state, &incarnation, &meta, &snapshot, pieces)?;
        while install.step()? {}
        Ok(())
    })
    .await
    .map_err(io::Error::other)?
}

/// An install under way. It may end after any step, with the process: the next start begins it anew. Or go on
/// when the group's instance has ended and begun again: then its next step fails.
pub(crate) struct Install<'a> {
    state: &'a StateDb,
    incarnation: &'a Incarnation,
    meta: &'a RaftSnapshotMeta,
    reader: Reader<'a>,
    /// Bytes of a piece; none: all is one batch.
    pieces: Option<usize>,
    is_marked: bool,
    batch: WriteBatch,
}

impl<'a> Install<'a> {
    /// Checks the whole file; changes nothing.
    pub(crate) fn begin(
        state: &'a StateDb,
        incarnation: &'a Incarnation,
        meta: &'a RaftSnapshotMeta,
        snapshot: &'a SnapshotFile,
        pieces: Option<usize>,
    ) -> io::Result<Self> {
        let group = incarnation.group();
        let found = format::verify(&snapshot.file, group)?;
        if found.last_log_id != meta.last_log_id {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot's file is not of the position that was announced",
            ));
        }
        let (reader, _) = Reader::open(&snapshot.file, group)?;
        Ok(Self {
            state,
            incarnation,
            meta,
            reader,
            pieces,
            is_marked: false,
            batch: WriteBatch::default(),
        })
    }

    /// Writes the next batch; whether there is more to do. In pieces the first one is the mark.
    pub(crate) fn step(&mut self) -> io::Result<bool> {
        let group = self.incarnation.group();
        if !self.is_marked {
            self.is_marked = true;
            self.state.delete_group(&mut self.batch, group);
            if self.pieces.is_some() {
                self.state.put_installing(&mut self.batch, group, true);
                self.write_synced()?;
                return Ok(true);
            }
        }
        while let Some(rows) = self.reader.next_rows()? {
            for row in rows {
                let cf = family(&self.state.db, row.cf.name());
                let key = group_key(group, &row.suffix);
                self.batch.put_cf(cf, key, &row.value);
            }
            let full = |piece| self.batch.size_in_bytes() >= piece;
            if self.pieces.is_some_and(full) {
                self.write()?;
                return Ok(true);
            }
        }
        self.end()?;
        Ok(false)
    }

    fn end(&mut self) -> io::Result<()> {
        let (state, group) = (self.state, self.incarnation.group());
        let last = self.meta.last_log_id.as_ref();
        let batch = &mut self.batch;
        state.put_applied(batch, group, last, &self.meta.last_membership);
        state.put_installed(batch, group, last);
        if self.pieces.is_some() {
            state.put_installing(batch, group, false);
        }
        self.write_synced()
    }

    fn write(&mut self) -> io::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.incarnation.write(&self.state.db, batch)
    }

    fn write_synced(&mut self) -> io::Result<()> {
        self.write()?;
        self.state
            .db
            .flush_wal(true)
            .map_err(super::super::db::io_error)
    }
}

#[cfg(test)]
mod tests {
    use maia_common::GroupId;
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
        for pieces in [None, Some(1)] {
            let dir = tempfile::tempdir().unwrap();
            let state = state(dir.path());
            put(&state, G, b"a");
            put(&state, OTHER, b"a");
            let store = SnapshotStore::open(dir.path()).unwrap();
            let (meta, file) = snapshot(&store, &[b"b", b"c"]);
            let turn = state.begin(G);
            let mut install = Install::begin(&state, &turn, &meta, &file, pieces).unwrap();
            while install.step().unwrap() {}
            assert_eq!(rows(&state, G), [b"b", b"c"]);
            assert_eq!(rows(&state, OTHER), [b"a"]);
            assert_eq!(state.applied(G).unwrap().0, meta.last_log_id);
            assert!(!state.is_installing(G).unwrap());
        }
    }

    /// The group's instance ended and began again while the old one's thread goes on: at each of its steps,
    /// and at each of the new one's.
    #[test]
    fn an_older_one_that_goes_on_writes_nothing() {
        for (before, between) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))) {
            let dir = tempfile::tempdir().unwrap();
            let state = state(dir.path());
            put(&state, G, b"a");
            let store = SnapshotStore::open(dir.path()).unwrap();
            let (meta, file) = snapshot(&store, &[b"b", b"c"]);
            let old = state.begin(G);
            let mut install = Install::begin(&state, &old, &meta, &file, Some(1)).unwrap();
            let ended = (0..before).any(|_| !install.step().unwrap());
            let new = state.begin(G);
            let mut again = Install::begin(&state, &new, &meta, &file, Some(1)).unwrap();
            let whole = (0..between).any(|_| !again.step().unwrap());
            let found = (rows(&state, G), state.is_installing(G).unwrap());
            if !ended {
                install.step().unwrap_err();
            }
            assert_eq!((rows(&state, G), state.is_installing(G).unwrap()), found);
            while !whole && again.step().unwrap() {}
            assert_eq!(rows(&state, G), [b"b", b"c"], "{before}, {between}");
            assert!(!state.is_installing(G).unwrap());
        }
    }

    #[test]
    fn what_goes_on_when_the_group_was_left_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(dir.path());
        put(&state, G, b"a");
        put(&state, OTHER, b"a");
        let store = SnapshotStore::open(dir.path()).unwrap();
        let (meta, file) = snapshot(&store, &[b"b"]);
        let old = state.begin(G);
        let mut install = Install::begin(&state, &old, &meta, &file, None).unwrap();
        state.forget_group(G).unwrap();
        let new = state.begin(G);
        install.step().unwrap_err();
        assert_eq!(rows(&state, G).len(), 0);
        assert_eq!(rows(&state, OTHER), [b"a"]);
        let mut install = Install::begin(&state, &new, &meta, &file, None).unwrap();
        while install.step().unwrap() {}
        assert_eq!(rows(&state, G), [b"b"]);
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
        for pieces in [None, Some(1)] {
            let turn = state.begin(G);
            assert!(Install::begin(&state, &turn, &meta, &file, pieces).is_err());
            assert_eq!(rows(&state, G), [b"a"]);
            assert!(!state.is_installing(G).unwrap());
        }
    }
}
