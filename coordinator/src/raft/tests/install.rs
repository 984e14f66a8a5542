//! The metastore's snapshot, installed in pieces by a process or an instance that ends after any of them:
//! whoever watches revisions hears of the installed one, whichever start ended the install.

use std::path::Path;
use std::sync::Arc;

use maia_common::GroupId;
use maia_common::position::Revision;
use openraft::entry::RaftEntry as _;
use openraft::storage::RaftStateMachine;
use rocksdb::{Cache, DB};
use tokio::sync::watch;

use super::super::counters::Counters;
use super::super::db::{family, open_state};
use super::super::disk::DiskGuard;
use super::super::snapshot::SnapshotStore;
use super::super::snapshot::format::Writer;
use super::super::snapshot::install::Install;
use super::super::state::db::StateDb;
use super::super::state::machine::GroupMachine;
use super::super::types::{RaftEntry, RaftSnapshotMeta, RaftStoredMembership, log_id};
use super::super::*;
use crate::shell::applier::RecordApplier;
use crate::shell::clock::Clock;

const ROOT: GroupId = GroupId::METASTORE;
/// Where the metastore keeps its revision.
const REVISION: &[u8] = b"r";
const OLD: u64 = 5;
const NEW: u64 = 9;
/// A frame of the file holds one.
const VALUE_BYTES: usize = 1_100_000;
const VALUES: u8 = 4;

/// What a process has of the metastore.
struct Process {
    state: Arc<StateDb>,
    snapshots: Arc<SnapshotStore>,
    applier: Arc<RecordApplier>,
    revisions: watch::Sender<Revision>,
}

impl Process {
    fn start(dir: &Path, db: &Arc<DB>) -> Self {
        let revisions = watch::Sender::new(Revision::default());
        let applier = RecordApplier::new(Arc::new(Clock::default()), revisions.clone());
        let state = Arc::new(StateDb::new(Arc::clone(db)));
        applier.opened(StateReader::new(Arc::clone(db))).unwrap();
        Self {
            state,
            snapshots: Arc::new(SnapshotStore::open(dir).unwrap()),
            applier: Arc::new(applier),
            revisions,
        }
    }

    async fn start_metastore(&self, dir: &Path) {
        self.open_metastore(dir).await.unwrap();
    }

    async fn open_metastore(&self, dir: &Path) -> std::io::Result<GroupMachine> {
        self.snapshots.load(ROOT).unwrap();
        let machine = GroupMachine::open(
            ROOT,
            Arc::clone(&self.state),
            Arc::clone(&self.snapshots),
            Arc::clone(&self.applier) as _,
            Arc::new(Counters::default()),
            Arc::new(DiskGuard::new(dir, 0)),
        );
        machine.await
    }

    fn told(&self) -> u64 {
        self.revisions.borrow().get()
    }
}

fn put_revision(db: &DB, revision: u64) {
    let marks = family(db, StateCf::Marks.name());
    let key = group_key(ROOT, REVISION);
    db.put_cf(marks, key, revision.to_be_bytes()).unwrap();
}

/// A file of several pieces, of a newer revision.
async fn received(store: &Arc<SnapshotStore>) -> (RaftSnapshotMeta, snapshot::SnapshotFile) {
    let file = store.temporary().unwrap();
    let meta = RaftSnapshotMeta {
        last_log_id: Some(log_id(3, 30)),
        last_membership: RaftStoredMembership::default(),
    };
    let mut writer = Writer::new(&file.file, ROOT, &meta).unwrap();
    for value in 0..VALUES {
        writer
            .row(StateCf::Meta, &[value], &vec![7; VALUE_BYTES])
            .unwrap();
    }
    let revision = NEW.to_be_bytes();
    writer.row(StateCf::Marks, REVISION, &revision).unwrap();
    writer.finish(&file.file).unwrap();
    let kept = store.adopt(ROOT, &meta, file).await.unwrap();
    (meta, kept)
}

/// Goes `steps` steps and ends there; whether the install was over before.
async fn died(steps: usize, pieces: Option<usize>, is_process: bool) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new_lru_cache(1 << 20);
    let db = Arc::new(open_state(dir.path(), &DbOptions::default(), &cache).unwrap());
    put_revision(&db, OLD);
    let mut process = Process::start(dir.path(), &db);
    process.start_metastore(dir.path()).await;
    assert_eq!(process.told(), OLD);
    let (meta, file) = received(&process.snapshots).await;
    let mut is_over = false;
    {
        let turn = process.state.begin(ROOT);
        let mut install = Install::begin(&process.state, &turn, &meta, &file, pieces).unwrap();
        for _ in 0..steps {
            assert!(!is_over);
            is_over = !install.step().unwrap();
        }
    }
    if is_process {
        process = Process::start(dir.path(), &db);
    }
    process.start_metastore(dir.path()).await;
    let expected = if steps == 0 { OLD } else { NEW };
    assert_eq!(
        process.told(),
        expected,
        "after {steps} steps, {pieces:?}, process {is_process}"
    );
    let view = StateReader::new(Arc::clone(&db));
    view.snapshot().check_complete(ROOT).unwrap();
    let rows = view.scan(StateCf::Meta, &group_key(ROOT, &[]), None, 100);
    let values = if steps == 0 { 0 } else { usize::from(VALUES) };
    assert_eq!(rows.unwrap().len(), values);
    is_over
}

/// Once with the process, once with the group's instance alone (an error of the disk): there what was
/// read before stays in memory until the revision says that it is old.
#[tokio::test]
async fn watchers_hear_of_an_install_whichever_start_ended_it() {
    for pieces in [None, Some(1)] {
        for is_process in [true, false] {
            let mut steps = 0;
            while !died(steps, pieces, is_process).await {
                steps += 1;
            }
            let least = if pieces.is_some() { 3 } else { 1 };
            assert!(steps >= least, "{steps} steps in pieces {pieces:?}");
        }
    }
}

/// A start that swallowed it would leave watchers with the old state until something is applied.
#[tokio::test]
async fn a_revision_that_cannot_be_read_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new_lru_cache(1 << 20);
    let db = Arc::new(open_state(dir.path(), &DbOptions::default(), &cache).unwrap());
    put_revision(&db, OLD);
    let process = Process::start(dir.path(), &db);
    let marks = family(&db, StateCf::Marks.name());
    db.put_cf(marks, group_key(ROOT, REVISION), b"rot").unwrap();
    let failed = process.open_metastore(dir.path()).await;
    let failed = failed.err().expect("the applier could not read");
    assert!(failed.to_string().contains("3 bytes"), "{failed}");
    put_revision(&db, NEW);
    process.start_metastore(dir.path()).await;
    assert_eq!(process.told(), NEW);
}

/// An apply that was under way when the group's instance ended, and goes on when the next one has begun.
#[tokio::test]
async fn an_older_instance_applies_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new_lru_cache(1 << 20);
    let db = Arc::new(open_state(dir.path(), &DbOptions::default(), &cache).unwrap());
    let process = Process::start(dir.path(), &db);
    let blank = |index| {
        let entry = RaftEntry::new_blank(log_id(1, index));
        futures::stream::iter([Ok((entry, None))])
    };
    let applied = || process.state.applied(ROOT).unwrap().0;
    let mut old = process.open_metastore(dir.path()).await.unwrap();
    old.apply(blank(1)).await.unwrap();
    assert_eq!(applied(), Some(log_id(1, 1)));
    let mut new = process.open_metastore(dir.path()).await.unwrap();
    old.apply(blank(2)).await.unwrap_err();
    assert_eq!(applied(), Some(log_id(1, 1)));
    new.apply(blank(2)).await.unwrap();
    assert_eq!(applied(), Some(log_id(1, 2)));
}
