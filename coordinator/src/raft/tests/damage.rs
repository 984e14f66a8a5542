//! What a failed write, a replaced instance, an older copy of `raft/`, or a damaged log must not
//! become: a hole that is acknowledged, or a promise that is forgotten.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use maia_common::GroupId;
use openraft::EntryPayload;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};

use super::super::db::{CF_LOG, family};
use super::super::keys::log_key;
use super::super::log::store::GroupLog;
use super::super::propose::within;
use super::super::types::{RaftEntry, RaftVote, log_id, next_index};
use super::super::*;
use super::faults::copy_files;
use super::harness::*;
use super::store::Store;

const G: GroupId = GroupId::new(3);

/// Appends entries of this term and waits until they are durable.
async fn append(log: &mut GroupLog, term: u64, range: std::ops::Range<u64>) -> Result<(), String> {
    let entries = range.map(|index| RaftEntry {
        log_id: log_id(term, index),
        payload: EntryPayload::Blank,
    });
    let appended = log.blocking_append(entries.collect::<Vec<_>>()).await;
    appended.map_err(|e| e.to_string())
}

fn next(log: &GroupLog) -> u64 {
    next_index(log.tail.lock().last.as_ref())
}

/// One batch fails; what follows it must not be acknowledged, or the log has a hole.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_write_the_group_writes_nothing_more() {
    let store = Store::new();
    let mut log = store.open(G, None).await.unwrap();
    let mut other = store.open(GroupId::new(4), None).await.unwrap();
    append(&mut log, 1, 0..5).await.unwrap();
    store.flusher.fail_next();
    append(&mut log, 1, 5..6).await.unwrap_err();
    append(&mut log, 1, 6..9)
        .await
        .expect_err("an entry after a hole is acknowledged");
    let voted = log.save_vote(&RaftVote::new(2, 1)).await;
    assert!(voted.is_err(), "the vote follows a failed write");
    append(&mut other, 1, 0..2)
        .await
        .expect("other groups go on");

    let mut log = store.open(G, None).await.unwrap();
    assert_eq!(next(&log), 5);
    append(&mut log, 2, 5..7).await.unwrap();
    assert_eq!(next(&store.open(G, None).await.unwrap()), 7);
}

/// What a replaced instance still has in the queue is not written behind the new one's back.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_instance_writes_nothing_more() {
    let store = Arc::new(Store::new());
    let mut old = store.open(G, None).await.unwrap();
    append(&mut old, 1, 0..2).await.unwrap();
    store.flusher.stall(true);
    let (mut first, mut second) = (old.clone(), old.clone());
    let first = tokio::spawn(async move { append(&mut first, 1, 2..4).await });
    // The flusher holds the first append by then; the vote stays in the queue.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let second = tokio::spawn(async move { second.save_vote(&RaftVote::new(9, 9)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let opening = Arc::clone(&store);
    let new = tokio::spawn(async move { opening.open(G, None).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.flusher.stall(false);
    let new = new.await.unwrap();
    let _ = (first.await.unwrap(), second.await.unwrap());
    let again = store.open(G, None).await.unwrap();
    assert_eq!(next(&new), next(&again), "written after the tail was read");
    assert_eq!(new.tail.lock().vote, again.tail.lock().vote);
    append(&mut old, 1, 4..6)
        .await
        .expect_err("the old instance is acknowledged");
}

/// A hole or a falling term after what is applied is refused at the start, by its index.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_a_hole_or_a_falling_term_is_refused() {
    let store = Store::new();
    let mut log = store.open(G, None).await.unwrap();
    append(&mut log, 2, 0..10).await.unwrap();
    let key = log_key(G, 6);
    let kept = store.db.get_cf(family(&store.db, CF_LOG), key).unwrap();
    store.db.delete_cf(family(&store.db, CF_LOG), key).unwrap();
    let refused = store.refusal(G, Some(4)).await;
    for word in ["group 3", "index 6", "not there", "remove this node"] {
        assert!(refused.contains(word), "{word} is not in: {refused}");
    }
    // What is applied is not needed any more to go on.
    assert_eq!(next(&store.open(G, Some(6)).await.unwrap()), 10);

    let kept = kept.unwrap();
    store
        .db
        .put_cf(family(&store.db, CF_LOG), key, kept)
        .unwrap();
    let mut log = store.open(G, Some(4)).await.unwrap();
    append(&mut log, 1, 10..11).await.unwrap();
    let refused = store.refusal(G, Some(4)).await;
    for word in ["index 10", "term 1", "term 2"] {
        assert!(refused.contains(word), "{word} is not in: {refused}");
    }
}

/// Rot that is found while the group runs makes it damaged, not merely stopped.
#[tokio::test(flavor = "multi_thread")]
async fn rot_that_is_read_is_remembered() {
    use openraft::RaftLogReader;
    let store = Store::new();
    let mut log = store.open(G, None).await.unwrap();
    append(&mut log, 1, 0..5).await.unwrap();
    assert_eq!(log.try_get_log_entries(0..5).await.unwrap().len(), 5);
    assert!(!log.tail.lock().damaged);
    let cf = family(&store.db, CF_LOG);
    store.db.put_cf(cf, log_key(G, 2), b"rot").unwrap();
    log.try_get_log_entries(0..5).await.unwrap_err();
    assert!(log.tail.lock().damaged);
}

fn config(dir: &Path) -> EngineConfig {
    let mut config = EngineConfig::new(maia_common::NodeId::new(1), dir);
    config.disk_watermark_bytes = 1 << 20;
    config
}

fn opens(dir: &Path) -> Result<Arc<Engine>, EngineOpenError> {
    let applier = Arc::new(Keeper::default());
    Engine::open(config(dir), applier, Arc::new(Addresses::default()))
}

fn refusal(dir: &Path) -> String {
    let refused = opens(dir).err();
    refused.expect("it must not open").to_string()
}

/// Starts the lone node, acknowledges these records, and stops it.
async fn live(dir: &Path, records: &[&str]) {
    let node = lone(dir, G).await;
    until("leads", || node.leads(G)).await;
    for body in records {
        let proposed = node.engine.propose(G, record(body), within(PATIENCE)).await;
        proposed.unwrap();
    }
    assert!(node.engine.shutdown(PATIENCE).await.is_empty());
    gone(node.engine).await;
}

fn replace(from: &Path, to: &Path) {
    std::fs::remove_dir_all(to).unwrap();
    copy_files(from, to);
}

/// An older copy of `raft/` has forgotten votes and acknowledged records.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let node = at("node");
    live(&node, &["a"]).await;
    copy_files(&node.join("raft"), &at("old"));
    live(&node, &["b"]).await;
    copy_files(&node.join("raft"), &at("now"));
    replace(&at("old"), &node.join("raft"));
    let refused = refusal(&node);
    for word in ["older copy", "raft", "new node id"] {
        assert!(refused.contains(word), "{word} is not in: {refused}");
    }
    std::fs::remove_dir_all(node.join("raft")).unwrap();
    assert!(refusal(&node).contains("older copy"), "wiped");
    copy_files(&at("now"), &node.join("raft"));
    live(&node, &["c"]).await;
}

/// Dying between the two counts, however often, does no harm; neither does a folder from before.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_was_counted_in_one_place_only_is_no_older_copy() {
    let dir = tempfile::tempdir().unwrap();
    live(dir.path(), &["a"]).await;
    let file = dir.path().join("STARTS");
    let first = std::fs::read(&file).unwrap();
    live(dir.path(), &["b"]).await;
    assert_ne!(std::fs::read(&file).unwrap(), first);
    std::fs::write(&file, &first).unwrap();
    live(dir.path(), &["c"]).await;
    std::fs::remove_file(&file).unwrap();
    live(dir.path(), &["d"]).await;
    std::fs::write(&file, "rot").unwrap();
    assert!(refusal(dir.path()).contains("STARTS"));
}

/// The newest write-ahead log that has something in it.
fn newest_wal(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir.join("raft")).unwrap();
    let mut logs: Vec<PathBuf> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .filter(|path| path.metadata().unwrap().len() > 0)
        .collect();
    logs.sort();
    logs.pop().unwrap()
}

/// A last record that the power cut short was promised to nobody; all before it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_opens_and_a_damaged_middle_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let body = "x".repeat(10_000);
    live(&at("whole"), &["a", &body, "b", &body]).await;
    let damaged = |name: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        copy_files(&at("whole"), &at(name));
        let path = newest_wal(&at(name));
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(path, bytes).unwrap();
        at(name)
    };
    let cut = damaged("cut", &|bytes| bytes.truncate(bytes.len() - 1000));
    live(&cut, &["c"]).await;
    let cut_in_head = damaged("head", &|bytes| bytes.truncate(bytes.len() - 10_080));
    live(&cut_in_head, &["c"]).await;
    let middle = damaged("middle", &|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
    });
    let refused = refusal(&middle);
    assert!(refused.contains("raft cannot be opened"), "{refused}");
    // A last record of full length that is not what was written could be rot of what was promised:
    // refused as well, although a torn write whose pages came to the disk out of order looks alike.
    let zeros = damaged("zeros", &|bytes| {
        let from = bytes.len() - 4000;
        bytes[from..].fill(0);
    });
    let refused = refusal(&zeros);
    assert!(refused.contains("checksum mismatch"), "{refused}");
}

/// A node that has stopped, however, has let go of its databases: nothing of it may still run when the
/// process ends and takes RocksDB's own statics down.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_leaves_nothing_that_holds_the_databases() {
    for _ in 0..5 {
        let mut cluster = Cluster::three(G, |_| {}).await;
        cluster.propose(G, "a").await;
        for id in 1..=3 {
            let node = cluster.up.remove(&id).unwrap();
            let databases = node.engine.databases();
            match id {
                1 => tokio::task::spawn_blocking(move || node.engine.crash())
                    .await
                    .unwrap(),
                2 => {
                    assert!(node.engine.shutdown(PATIENCE).await.is_empty());
                    drop(node);
                }
                _ => drop(node),
            }
            let held: Vec<usize> = databases
                .iter()
                .map(std::sync::Weak::strong_count)
                .collect();
            assert_eq!(held, [0, 0], "node {id}");
        }
    }
}
