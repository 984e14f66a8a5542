//! The log store of a node, without an engine, for tests of what it keeps and refuses.

use std::io;
use std::sync::Arc;

use maia_common::GroupId;
use rocksdb::{Cache, DB};

use super::super::counters::Counters;
use super::super::db::{open_raft, open_state};
use super::super::log::flusher::Flusher;
use super::super::log::recovery;
use super::super::log::store::{GroupLog, SharedTail};
use super::super::state::db::StateDb;
use super::super::types::log_id;
use super::super::*;

/// The log store of a node, without an engine.
pub(super) struct Store {
    pub(super) db: Arc<DB>,
    pub(super) flusher: Arc<Flusher>,
    pub(super) state: Arc<StateDb>,
    _dir: tempfile::TempDir,
}

impl Store {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (memory, cache) = (DbOptions::default(), Cache::new_lru_cache(1 << 20));
        let db = open_raft(dir.path(), &memory, &cache).unwrap();
        let state = open_state(dir.path(), &memory, &cache).unwrap();
        let flusher = Flusher::start(Arc::clone(&db), Arc::new(Counters::default())).unwrap();
        Self {
            db,
            flusher: Arc::new(flusher),
            state: Arc::new(StateDb::new(state)),
            _dir: dir,
        }
    }

    /// Opens a group anew, as the engine does for a new instance, with nothing in memory.
    pub(super) async fn open(&self, group: GroupId, applied: Option<u64>) -> io::Result<GroupLog> {
        let instance = self.flusher.open(group).await?;
        let applied = applied.map(|index| log_id(1, index));
        let tail = recovery::load_tail(&self.db, group, applied, 0)?;
        Ok(GroupLog {
            group,
            instance,
            tail: SharedTail::new(tail),
            db: Arc::clone(&self.db),
            flusher: Arc::clone(&self.flusher),
            state: Arc::clone(&self.state),
        })
    }

    pub(super) async fn refusal(&self, group: GroupId, applied: Option<u64>) -> String {
        let refused = self.open(group, applied).await.err();
        let refused = refused.expect("a damaged log must be refused");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        refused.to_string()
    }
}
