//! Three nodes over gRPC on loopback.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use maia_common::{GroupId, NodeId};

use super::super::propose::within;
use super::super::*;
use super::harness::*;

const G: GroupId = GroupId::new(1);

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_has_what_the_dead_one_acknowledged() {
    let mut cluster = Cluster::three(G, |_| {}).await;
    let first = cluster.propose(G, "before").await;
    assert!(first.durable_on.len() >= 2, "{first:?}");
    let dead = cluster.leader(G).await;
    cluster.kill(dead).await;
    let second = cluster.propose(G, "after").await;
    assert!(second.position.term > first.position.term);
    cluster.applied_everywhere(G, second.position).await;

    cluster.start(dead).await;
    cluster.up[&dead].engine.start_group(G).await.unwrap();
    let third = cluster.propose(G, "again").await;
    cluster.applied_everywhere(G, third.position).await;
    for node in cluster.up.values() {
        assert_eq!(bodies(&node.engine, G), ["before", "after", "again"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_away_too_long_catches_up_by_snapshot() {
    let mut cluster = Cluster::three(G, |config| {
        config.snapshots = SnapshotRules {
            entries_since_last: 100,
            entries_to_keep: 10,
        };
        config.tail_bytes = 0;
    })
    .await;
    cluster.propose(G, "first").await;
    let leader = cluster.leader(G).await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.stop(away).await;
    let mut last = None;
    for i in 0..400 {
        last = Some(cluster.propose(G, &format!("record {i}")).await);
    }
    let leader = cluster.leader(G).await;
    until("the leader has purged", || {
        let status = cluster.up[&leader].engine.status(G).unwrap();
        status.purged.is_some_and(|p| p.index.get() > 200)
    })
    .await;
    cluster.start(away).await;
    cluster.up[&away].engine.start_group(G).await.unwrap();
    cluster.applied_everywhere(G, last.unwrap().position).await;
    assert_eq!(*cluster.up[&away].keeper.installs.lock().unwrap(), [G]);
    let expected = bodies(&cluster.up[&leader].engine, G);
    assert_eq!(expected.len(), 401);
    assert_eq!(bodies(&cluster.up[&away].engine, G), expected);

    // And after one more restart it goes on from where it is.
    cluster.stop(away).await;
    cluster.start(away).await;
    cluster.up[&away].engine.start_group(G).await.unwrap();
    let more = cluster.propose(G, "more").await;
    cluster.applied_everywhere(G, more.position).await;
    assert_eq!(bodies(&cluster.up[&away].engine, G).len(), 402);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_lead_is_handed_nothing_and_does_not_campaign() {
    let mut cluster = Cluster::three(G, |_| {}).await;
    cluster.propose(G, "a").await;
    let old = cluster.leader(G).await;
    let unfit = old % 3 + 1;
    let fit = (old + 1) % 3 + 1;
    let only = || BTreeSet::from([NodeId::new(unfit)]);
    assert!(cluster.up[&unfit].engine.set_unfit(G, only()));
    assert!(!cluster.up[&unfit].engine.set_unfit(G, only()), "no news");
    let campaign = cluster.up[&unfit].engine.trigger_election(G).await;
    assert!(
        matches!(campaign, Err(GroupError::Unfit(_))),
        "{campaign:?}"
    );
    assert!(
        !cluster.up[&old].engine.set_unfit(G, only()),
        "news of another"
    );
    let refused = cluster.up[&old]
        .engine
        .transfer(G, NodeId::new(unfit))
        .await;
    assert!(
        matches!(refused, Err(GroupError::TransferTarget { .. })),
        "{refused:?}"
    );
    // One that does not know it asks in vain.
    assert!(!cluster.up[&old].engine.set_unfit(G, BTreeSet::new()));
    let asked = cluster.up[&old]
        .engine
        .transfer(G, NodeId::new(unfit))
        .await;
    asked.unwrap();
    let applied = cluster.propose(G, "b").await;
    cluster.applied_everywhere(G, applied.position).await;
    assert!(!cluster.up[&unfit].leads(G));
    cluster.stop(old).await;
    until("the other one leads", || cluster.up[&fit].leads(G)).await;
    assert!(cluster.up[&unfit].engine.set_unfit(G, BTreeSet::new()));
    cluster.stop(fit).await;
    cluster.start(old).await;
    cluster.up[&old].engine.start_group(G).await.unwrap();
    // Only one of them has what the log has by now, or both: either may lead again.
    until("one of them leads", || {
        cluster.up[&old].leads(G) || cluster.up[&unfit].leads(G)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_to_whom_it_is_given() {
    let cluster = Cluster::three(G, |_| {}).await;
    cluster.propose(G, "a").await;
    let old = cluster.leader(G).await;
    let new = (1..=3).find(|id| *id != old).unwrap();
    let engine = &cluster.up[&old].engine;
    let said = AtomicBool::new(false);
    let everywhere = engine
        .wait_durable(
            G,
            cluster.propose(G, "b").await.position,
            within(PATIENCE),
            // Said once: the verdict that ends the wait is the one that is returned.
            |on| (on.len() == 3 && !said.swap(true, Relaxed)).then_some("all"),
        )
        .await;
    assert_eq!((everywhere.0.len(), everywhere.1), (3, Some("all")));
    engine.transfer(G, NodeId::new(new)).await.unwrap();
    until("the new leader leads", || cluster.up[&new].leads(G)).await;
    let applied = cluster.propose(G, "c").await;
    cluster.applied_everywhere(G, applied.position).await;
    let refused = cluster.up[&old]
        .engine
        .propose(G, record("x"), within(PATIENCE))
        .await;
    assert_eq!(
        refused,
        Err(ProposeError::NotLeader {
            leader: Some(NodeId::new(new))
        })
    );
    let read = cluster.up[&old]
        .engine
        .read_barrier(G, within(PATIENCE))
        .await;
    assert_eq!(
        read,
        Err(ReadError::NotLeader {
            leader: Some(NodeId::new(new))
        })
    );
    let read = cluster.up[&new]
        .engine
        .read_barrier(G, within(PATIENCE))
        .await
        .unwrap();
    assert!(read >= applied.position);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_hears_of_the_same_leader_per_term() {
    let mut cluster = Cluster::three(G, |_| {}).await;
    let mut receivers: Vec<_> = cluster
        .up
        .values()
        .map(|n| n.engine.leader_events().subscribe())
        .collect();
    let known: Vec<_> = cluster
        .up
        .values()
        .flat_map(|n| n.engine.leader_events().known())
        .collect();
    for round in 0..3 {
        cluster.propose(G, &format!("{round}")).await;
        let dead = cluster.leader(G).await;
        cluster.kill(dead).await;
        cluster.propose(G, &format!("{round} on")).await;
        cluster.start(dead).await;
        receivers.push(cluster.up[&dead].engine.leader_events().subscribe());
        cluster.up[&dead].engine.start_group(G).await.unwrap();
    }
    let mut leaders: HashMap<_, NodeId> = HashMap::new();
    let heard = receivers
        .iter_mut()
        .flat_map(|r| std::iter::from_fn(|| r.try_recv().ok()));
    for event in known.into_iter().chain(heard) {
        if let Some(leader) = event.leader {
            assert_eq!(
                *leaders.entry(event.term).or_insert(leader),
                leader,
                "{}",
                event.term
            );
        }
    }
    assert!(leaders.len() >= 3, "{leaders:?}");
}

/// A member may be added and another removed; the new one gets everything.
#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go() {
    let mut cluster = Cluster::three(G, |_| {}).await;
    for i in 0..50 {
        cluster.propose(G, &format!("{i}")).await;
    }
    cluster.start(4).await;
    cluster.up[&4].engine.start_group(G).await.unwrap();
    let leader = cluster.leader(G).await;
    let engine = &cluster.up[&leader].engine;
    engine.add_learner(G, NodeId::new(4)).await.unwrap();
    let mut ids: Vec<u64> = (1..=4).filter(|id| *id != leader).take(2).collect();
    ids.push(leader);
    if !ids.contains(&4) {
        ids[0] = 4;
    }
    engine.change_voters(G, nodes(&ids)).await.unwrap();
    let last = cluster.propose(G, "last").await;
    let joined = &cluster.up[&4].engine;
    joined
        .wait_applied(G, last.position, within(PATIENCE))
        .await
        .unwrap();
    assert_eq!(bodies(joined, G).len(), 51);
    until("it votes", || {
        joined
            .status(G)
            .is_some_and(|s| s.voters.contains(&NodeId::new(4)))
    })
    .await;
}

/// A message never creates a group, and none is accepted for another node.
#[tokio::test(flavor = "multi_thread")]
async fn messages_for_unknown_groups_and_other_nodes_are_refused() {
    use super::super::transport::client::GrpcTransport;
    use super::super::types::{RaftVote, log_id};
    let cluster = Cluster::three(G, |_| {}).await;
    let runtime = tokio::runtime::Handle::current();
    let transport = GrpcTransport::new(
        std::sync::Arc::new(cluster.addresses.clone()),
        runtime.clone(),
        runtime,
        Duration::from_millis(50),
    );
    let request = || openraft::raft::VoteRequest::new(RaftVote::new(99, 2), Some(log_id(98, 9)));
    let unknown = Route {
        group: GroupId::new(77),
        from: NodeId::new(2),
        to: NodeId::new(1),
    };
    let answer = transport
        .vote(unknown, VoteKind::Vote, request(), PATIENCE)
        .await;
    let Err(TransportError::Refused { reason, .. }) = answer else {
        panic!("{answer:?}")
    };
    assert!(reason.contains("77"), "{reason}");
    assert!(cluster.up[&1].engine.status(GroupId::new(77)).is_none());
    let inbound = cluster.up[&1].engine.inbound();
    let wrong = Route {
        group: G,
        from: NodeId::new(2),
        to: NodeId::new(3),
    };
    let answer = inbound.vote(wrong, VoteKind::Vote, request()).await;
    assert!(answer.is_err(), "{answer:?}");
}

/// Who waits for a change waits: it is not ready at once because something changed long ago.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_news_of_a_group_is_not_a_busy_loop() {
    let cluster = Cluster::three(G, |_| {}).await;
    cluster.propose(G, "a").await;
    let leader = cluster.leader(G).await;
    let group = cluster.up[&leader].engine.running(G).unwrap();
    let (mut data, until) = (group.watch_data(), within(Duration::from_millis(300)));
    let mut rounds = 0;
    while Instant::now() < until {
        assert!(data.see().is_some(), "something is applied");
        assert!(data.changed(Duration::from_millis(100)).await, "it runs");
        rounds += 1;
    }
    assert!(rounds < 300, "{rounds} rounds in 300 ms");
    cluster.up[&leader].engine.stop_group(G).await.unwrap();
    while data.changed(PATIENCE).await {
        data.see();
    }
}
