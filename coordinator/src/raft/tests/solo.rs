//! A lone node: restart, refusals, damage, leaving.

use std::sync::Arc;
use std::time::Duration;

use maia_common::{GroupId, NodeId};

use super::super::db::{CF_LOG, family};
use super::super::keys::log_key;
use super::super::propose::within;
use super::super::*;
use super::harness::*;

const G: GroupId = GroupId::new(0);

async fn propose(node: &TestNode, group: GroupId, body: &str) -> Applied {
    until("leads", || node.leads(group)).await;
    node.engine
        .propose(group, record(body), within(PATIENCE))
        .await
        .unwrap()
}

async fn stop(node: TestNode) {
    assert!(node.engine.shutdown(PATIENCE).await.is_empty());
    gone(node.engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_node_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let node = lone(dir.path(), G).await;
    let first = propose(&node, G, "a").await;
    assert_eq!(first.durable_on, [NodeId::new(1)]);
    let second = propose(&node, G, "b").await;
    assert!(second.position > first.position);
    assert_eq!(
        second.outcome.0.as_ref(),
        1u64.to_be_bytes(),
        "sees the first record"
    );
    stop(node).await;

    let node = lone(dir.path(), G).await;
    let third = propose(&node, G, "c").await;
    assert!(third.position.term > second.position.term);
    assert_eq!(bodies(&node.engine, G), ["a", "b", "c"]);
    let barrier = node.engine.read_barrier(G, within(PATIENCE)).await.unwrap();
    assert!(barrier >= third.position);
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let node = lone(dir.path(), G).await;
    propose(&node, G, "first").await;
    let before = node.engine.log_stats();
    let all = (0..500).map(|i| {
        let engine = Arc::clone(&node.engine);
        async move {
            engine
                .propose(G, record(&format!("{i}")), within(PATIENCE))
                .await
                .unwrap()
        }
    });
    let applied = futures::future::join_all(all).await;
    assert_eq!(applied.len(), 500);
    let after = node.engine.log_stats();
    assert_eq!(after.appends - before.appends, 500);
    assert!(
        after.fsyncs - before.fsyncs < 250,
        "group commit: {after:?}"
    );
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_mean_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let node = lone(dir.path(), G).await;
    propose(&node, G, "a").await;
    let unknown = node
        .engine
        .propose(GroupId::new(9), record("x"), within(PATIENCE))
        .await;
    assert_eq!(unknown, Err(ProposeError::UnknownGroup));
    stop(node).await;

    let mut config = EngineConfig::new(NodeId::new(1), dir.path());
    config.disk_watermark_bytes = u64::MAX;
    let node = TestNode::start(config, &Addresses::default()).await;
    node.engine.start_group(G).await.unwrap();
    let full = node.engine.propose(G, record("x"), within(PATIENCE)).await;
    assert_eq!(full, Err(ProposeError::DiskFull));
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_left_is_not_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = lone(dir.path(), GroupId::new(5)).await;
    propose(&node, GroupId::new(5), "secret").await;
    node.engine.stop_group(GroupId::new(5)).await.unwrap();
    assert!(node.engine.status(GroupId::new(5)).is_none());
    assert!(bodies(&node.engine, GroupId::new(5)).is_empty());
    let again = node.engine.start_group(GroupId::new(5)).await;
    assert!(matches!(again, Err(GroupError::GroupLeft(_))), "{again:?}");
    stop(node).await;
}

/// Overwrites one record of group 1 with garbage; group 2 must not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_stops_its_group_only() {
    let dir = tempfile::tempdir().unwrap();
    let (bad, good) = (GroupId::new(1), GroupId::new(2));
    let node = lone(dir.path(), bad).await;
    node.engine.start_group(good).await.unwrap();
    node.engine
        .initialize_group(good, nodes(&[1]))
        .await
        .unwrap();
    for i in 0..20 {
        propose(&node, bad, &format!("{i}")).await;
        propose(&node, good, &format!("{i}")).await;
    }
    let damaged = propose(&node, bad, "last").await.position.index.get();
    stop(node).await;
    {
        let cache = rocksdb::Cache::new_lru_cache(1 << 20);
        let raft = super::super::db::open_raft(dir.path(), &DbOptions::default(), &cache).unwrap();
        let key = log_key(bad, damaged);
        let mut value = raft.get_cf(family(&raft, CF_LOG), key).unwrap().unwrap();
        let middle = value.len() / 2;
        value[middle] ^= 0xff;
        raft.put_cf(family(&raft, CF_LOG), key, value).unwrap();
    }
    let mut config = EngineConfig::new(NodeId::new(1), dir.path());
    config.disk_watermark_bytes = 1 << 20;
    let node = TestNode::start(config, &Addresses::default()).await;
    let error = node.engine.start_group(bad).await.unwrap_err().to_string();
    for word in [
        "group 1",
        &format!("index {damaged}"),
        "checksum",
        "raft",
        "remove this node",
    ] {
        assert!(error.contains(word), "{word} is not in: {error}");
    }
    let status = node.engine.status(bad).unwrap();
    assert!(status.stopped.is_some());
    assert!(!status.may_be_revived(), "rot does not pass: {status:?}");
    node.engine.start_group(good).await.unwrap();
    propose(&node, good, "on").await;

    node.engine.stop_group(bad).await.unwrap();
    let again = node.engine.start_group(bad).await;
    assert!(
        matches!(again, Err(GroupError::GroupLeft(_))),
        "a damaged group can be left: {again:?}"
    );
    stop(node).await;
}

/// An instance that ended is started anew, from what is on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_instance_is_started_anew() {
    let dir = tempfile::tempdir().unwrap();
    let node = lone(dir.path(), G).await;
    propose(&node, G, "a").await;
    let instance = node.engine.running(G).unwrap();
    instance.raft.shutdown().await.unwrap();
    until("it has stopped", || {
        node.engine.status(G).unwrap().may_be_revived()
    })
    .await;
    let refused = node.engine.propose(G, record("x"), within(PATIENCE)).await;
    assert!(
        matches!(refused, Err(ProposeError::Stopped(_))),
        "{refused:?}"
    );
    node.engine.start_group(G).await.unwrap();
    propose(&node, G, "b").await;
    assert_eq!(bodies(&node.engine, G), ["a", "b"]);
    drop(instance);
    stop(node).await;
}

/// A restarted voter of a group with others neither votes nor campaigns for one `election_max`.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_voter_is_silent_first() {
    let dir = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = EngineConfig::new(NodeId::new(1), dir.path());
        config.election_min = Duration::from_secs(3);
        config.election_max = Duration::from_secs(4);
        config.disk_watermark_bytes = 1 << 20;
        config
    };
    let ask = |node: &TestNode, term| {
        let inbound = node.engine.inbound();
        let route = Route {
            group: G,
            from: NodeId::new(2),
            to: NodeId::new(1),
        };
        let last = super::super::types::log_id(term, 100);
        let vote = super::super::types::RaftVote::new(term, 2);
        let request = openraft::raft::VoteRequest::new(vote, Some(last));
        async move { inbound.vote(route, VoteKind::Vote, request).await }
    };
    let node = TestNode::start(config(), &Addresses::default()).await;
    node.engine.start_group(G).await.unwrap();
    node.engine
        .initialize_group(G, nodes(&[1, 2, 3]))
        .await
        .unwrap();
    let fresh = ask(&node, 7).await.unwrap();
    assert!(
        fresh.vote_granted,
        "a node that has never voted has promised nothing"
    );
    stop(node).await;

    let node = TestNode::start(config(), &Addresses::default()).await;
    node.engine.start_group(G).await.unwrap();
    assert_eq!(
        ask(&node, 8).await,
        Err(transport::inbound::InboundError::Silent)
    );
    let campaign = node.engine.trigger_election(G).await;
    assert!(
        matches!(campaign, Err(GroupError::Silent(_))),
        "{campaign:?}"
    );
    let mut answer = ask(&node, 8).await;
    let deadline = within(PATIENCE);
    while answer.is_err() && std::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer = ask(&node, 8).await;
    }
    assert!(answer.unwrap().vote_granted, "silence ends");
    stop(node).await;
}
