//! openraft's own storage suite on our log store and state machine.

use std::sync::Arc;

use maia_common::GroupId;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use rocksdb::Cache;
use tempfile::TempDir;

use super::super::config::DbOptions;
use super::super::counters::Counters;
use super::super::db::{open_raft, open_state};
use super::super::disk::DiskGuard;
use super::super::log::flusher::Flusher;
use super::super::log::store::{GroupLog, SharedTail};
use super::super::log::tail::Tail;
use super::super::snapshot::SnapshotStore;
use super::super::state::db::StateDb;
use super::super::state::machine::GroupMachine;
use super::super::types::TypeConfig;
use super::harness::Keeper;

/// Builds empty stores, each a node of its own with one group.
struct Builder {
    tail_bytes: usize,
}

impl StoreBuilder<TypeConfig, GroupLog, GroupMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, GroupLog, GroupMachine), StorageError<TypeConfig>> {
        let group = GroupId::new(3);
        let dir = tempfile::tempdir().unwrap();
        let (memory, cache) = (DbOptions::default(), Cache::new_lru_cache(1 << 20));
        let raft = open_raft(dir.path(), &memory, &cache).unwrap();
        let state = open_state(dir.path(), &memory, &cache).unwrap();
        let state = Arc::new(StateDb::new(state));
        let counters = Arc::new(Counters::default());
        let flusher = Flusher::start(Arc::clone(&raft), Arc::clone(&counters)).unwrap();
        let flusher = Arc::new(flusher);
        let log = GroupLog {
            group,
            instance: flusher.open(group).await.unwrap(),
            tail: SharedTail::new(Tail::new(self.tail_bytes)),
            db: raft,
            flusher,
            state: Arc::clone(&state),
        };
        let snapshots = Arc::new(SnapshotStore::open(dir.path()).unwrap());
        let keeper = Arc::new(Keeper::default());
        let disk = Arc::new(DiskGuard::new(dir.path(), 0));
        let machine = GroupMachine::open(group, state, snapshots, keeper, counters, disk);
        Ok((dir, log, machine.await.unwrap()))
    }
}

/// Everything read from memory.
#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_from_memory() {
    Suite::test_all(Builder {
        tail_bytes: 8 << 20,
    })
    .await
    .unwrap();
}

/// Nothing kept in memory beyond what is not flushed: everything read from disk.
#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_from_disk() {
    Suite::test_all(Builder { tail_bytes: 0 }).await.unwrap();
}
