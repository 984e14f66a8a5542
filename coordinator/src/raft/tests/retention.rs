//! Logs that are kept short: what counts, what a full disk changes, and what a crash leaves.

use std::path::Path;

use maia_common::{GroupId, NodeId};

use super::super::propose::within;
use super::super::*;
use super::harness::*;
use crate::core::retention::Retention;

const G: GroupId = GroupId::new(1);
const KEPT_BYTES: u64 = 8 << 20;

async fn node(dir: &Path, watermark_bytes: u64) -> TestNode {
    let mut config = EngineConfig::new(NodeId::new(1), dir);
    config.disk_watermark_bytes = watermark_bytes;
    config.retention = Some(Retention {
        bytes: KEPT_BYTES,
        age_ms: u64::MAX,
    });
    let node = TestNode::start(config, &Addresses::default()).await;
    node.engine.start_group(G).await.unwrap();
    node.engine.initialize_group(G, nodes(&[1])).await.unwrap();
    until("it leads", || node.leads(G)).await;
    node
}

async fn stop(node: TestNode) {
    let late = node.engine.shutdown(PATIENCE).await;
    assert!(late.is_empty(), "{late:?}");
    gone(node.engine).await;
}

async fn write(node: &TestNode, count: usize, body: &str) {
    for i in 0..count {
        let record = record(&format!("{body} {i}"));
        let applied = node.engine.propose(G, record, within(PATIENCE)).await;
        applied.unwrap();
    }
}

async fn is_cut_to(node: &TestNode, bytes: u64) {
    until("the log is cut", || node.engine.log_size_bytes(G) <= bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_entries_did_counts_as_their_log_does() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), 1).await;
    write(&node, 100, "swell").await;
    is_cut_to(&node, KEPT_BYTES).await;
    let rows = || {
        let prefix = group_key(G, super::super::keys::TRACE_MARK);
        let state = node.engine.state();
        state
            .scan(StateCf::Marks, &prefix, None, usize::MAX)
            .unwrap()
    };
    let most = usize::try_from(KEPT_BYTES).unwrap() / SWOLLEN_BYTES;
    until("the traces go", || rows().len() <= most + 1).await;
    assert!(rows().len() > most / 2, "not all");
    stop(node).await;

    let node = self::node(dir.path(), 1).await;
    let found = node.engine.log_size_bytes(G);
    assert!(found > 10_000, "they count after a restart: {found}");
    stop(node).await;
}

/// Both before writes are refused and when they are: the log is far below what it may have else.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_little_room_cuts_logs() {
    let dir = tempfile::tempdir().unwrap();
    let large = "x".repeat(200_000);
    let node = node(dir.path(), 1).await;
    write(&node, 25, &large).await;
    let (free, whole) = (node.engine.disk_free_bytes(), node.engine.log_size_bytes(G));
    assert!(whole > KEPT_BYTES / 2, "{whole}");
    stop(node).await;

    let node = self::node(dir.path(), free / 3 * 2).await;
    write(&node, 1, "there is room still").await;
    is_cut_to(&node, KEPT_BYTES / 8).await;
    write(&node, 25, &large).await;
    stop(node).await;

    let node = self::node(dir.path(), u64::MAX).await;
    let refused = node.engine.propose(G, record("x"), within(PATIENCE)).await;
    assert_eq!(refused, Err(ProposeError::DiskFull));
    is_cut_to(&node, KEPT_BYTES / 8).await;
    stop(node).await;
}
