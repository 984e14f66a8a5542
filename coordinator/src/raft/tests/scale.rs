//! A group with as many rows as the metastore of a large cluster: a new member gets them by snapshot,
//! in pieces; and how long writes wait meanwhile (by hand, with `--ignored --nocapture`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::{GroupId, Index, NodeId};
use rocksdb::WriteBatch;

use super::super::db::{StateCf, family};
use super::super::propose::within;
use super::super::*;
use super::harness::*;

const G: GroupId = GroupId::METASTORE;
const ROW_BYTES: usize = 200;

/// Puts rows into the group's state as if they had been applied long ago.
fn fill(node: &TestNode, rows: u64) {
    let state = &node.engine.state;
    let mut batch = WriteBatch::default();
    let value = [7u8; ROW_BYTES];
    for row in 0..rows {
        let key = group_key(G, &[b"row/".as_slice(), &row.to_be_bytes()].concat());
        batch.put_cf(family(&state.db, StateCf::Data.name()), key, value);
        if batch.len() == 10_000 {
            state.write(std::mem::take(&mut batch)).unwrap();
        }
    }
    state.write(batch).unwrap();
}

fn count(node: &TestNode) -> usize {
    let prefix = group_key(G, b"row/");
    let rows = node
        .engine
        .state()
        .scan(StateCf::Data, &prefix, None, usize::MAX)
        .unwrap();
    rows.len()
}

fn config(id: u64, dir: &std::path::Path) -> EngineConfig {
    let mut config = EngineConfig::new(NodeId::new(id), dir.join(id.to_string()));
    config.disk_watermark_bytes = 1 << 20;
    config.election_min = Duration::from_millis(300);
    config.election_max = Duration::from_millis(600);
    config.snapshots = SnapshotRules {
        entries_since_last: 1_000_000,
        entries_to_keep: 0,
    };
    config
}

/// A lone leader with rows, and its addresses.
async fn leader(dir: &std::path::Path, rows: u64) -> (TestNode, Addresses) {
    let addresses = Addresses::default();
    let node = TestNode::start(config(1, dir), &addresses).await;
    fill(&node, rows);
    node.engine.start_group(G).await.unwrap();
    let members = nodes(&[1]);
    node.engine.initialize_group(G, members).await.unwrap();
    until("leads", || node.leads(G)).await;
    (node, addresses)
}

/// Whether there is a snapshot up to this record.
fn has_snapshot(engine: &Engine, upto: Index) -> bool {
    let current = engine.snapshots.current(G);
    let last = current.and_then(|snapshot| snapshot.meta.last_log_id);
    last.is_some_and(|last| last.index() >= upto.get())
}

/// Writes and takes a snapshot, until a new member can't be told from the log.
async fn compact(node: &TestNode) {
    let writes = (0..600).map(|_| propose(&node.engine));
    futures::future::join_all(writes).await;
    node.engine.trigger_snapshot(G).await.unwrap();
    until("the log is purged", || {
        node.engine.status(G).unwrap().purged.is_some()
    })
    .await;
}

async fn propose(engine: &Engine) -> Duration {
    let start = Instant::now();
    engine
        .propose(G, record("x"), within(PATIENCE))
        .await
        .unwrap();
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_gets_many_rows_by_snapshot_and_then_votes() {
    const ROWS: u64 = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let (first, addresses) = leader(dir.path(), ROWS).await;
    compact(&first).await;
    let second = TestNode::start(config(2, dir.path()), &addresses).await;
    second.engine.start_group(G).await.unwrap();
    let (one, two) = (NodeId::new(1), NodeId::new(2));
    first.engine.add_learner(G, two).await.unwrap();
    first.engine.add_learner(G, two).await.unwrap();
    let mut incomplete = 0;
    until("the snapshot is installed", || {
        let view = second.engine.state();
        let view = view.snapshot();
        incomplete += usize::from(view.check_complete(G).is_err());
        !second.keeper.installs.lock().unwrap().is_empty()
    })
    .await;
    assert!(incomplete > 0, "nobody reads half a state unawares");
    assert!(second.engine.state().snapshot().check_complete(G).is_ok());
    assert_eq!(count(&second), usize::try_from(ROWS).unwrap());
    first.engine.change_voters(G, nodes(&[1, 2])).await.unwrap();
    let again = first.engine.change_voters(G, nodes(&[1, 2])).await;
    again.expect("the same again changes nothing");
    let status = first.engine.status(G).unwrap();
    assert_eq!((status.voters, status.is_joint), (vec![one, two], false));
    propose(&first.engine).await;
    // And out again: the one that stays works alone, the other has nothing left.
    first.engine.change_voters(G, nodes(&[1])).await.unwrap();
    second.engine.stop_group(G).await.unwrap();
    second.engine.stop_group(G).await.expect("may be repeated");
    assert_eq!(count(&second), 0);
    assert!(matches!(
        second.engine.start_group(G).await,
        Err(GroupError::GroupLeft(_))
    ));
    propose(&first.engine).await;
}

/// What writers wait while something goes on.
async fn waits(what: &str, engine: &Arc<Engine>, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    let mut took = Vec::new();
    while !done() {
        took.push(propose(engine).await);
    }
    took.sort_unstable();
    println!(
        "{what}: {:?}, {} writes one after the other, p50 {:?}, p99 {:?}, worst {:?}",
        start.elapsed(),
        took.len(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        took[took.len() - 1],
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn writes_wait_for_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (first, addresses) = leader(dir.path(), 1_000_000).await;
    let engine = &first.engine;
    let end = Instant::now() + Duration::from_secs(5);
    waits("nothing else", engine, || Instant::now() > end).await;
    let last = engine.status(G).unwrap().last_log.unwrap();
    engine.trigger_snapshot(G).await.unwrap();
    waits("a snapshot of 1 M rows is built", engine, || {
        has_snapshot(engine, last)
    })
    .await;
    compact(&first).await;
    let second = TestNode::start(config(2, dir.path()), &addresses).await;
    second.engine.start_group(G).await.unwrap();
    engine.add_learner(G, NodeId::new(2)).await.unwrap();
    waits("it is sent and installed", engine, || {
        !second.keeper.installs.lock().unwrap().is_empty()
    })
    .await;
}
