//! A disk that says "synced" and has not: what its owner acknowledged is gone, and a majority may go on without it.

use maia_common::GroupId;

use super::super::propose::within;
use super::harness::*;

const G: GroupId = GroupId::new(1);

/// Node A applies a record that it and B acknowledged; B's disk loses it; B and C go on with others in its place.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_applied_what_the_others_lost_stops_and_says_so() {
    let mut cluster = Cluster::three(G, |_| {}).await;
    let before = cluster.propose(G, "before").await;
    cluster.applied_everywhere(G, before.position).await;
    let a = cluster.leader(G).await;
    let (b, c) = (a % 3 + 1, (a + 1) % 3 + 1);
    cluster.stop(c).await;
    let liar = &cluster.up[&b].engine.flusher;
    liar.lie();
    liar.fail_next();
    let lost = cluster.propose(G, "lost").await;
    cluster.kill(b).await;
    // What it had applied was not synced either; all of it is in the log, but for that record.
    std::fs::remove_dir_all(cluster.node_dir(b).join("state")).unwrap();
    cluster.stop(a).await;

    for id in [b, c] {
        cluster.start(id).await;
        cluster.up[&id].engine.start_group(G).await.unwrap();
    }
    let instead = cluster.propose(G, "instead").await;
    cluster.applied_everywhere(G, instead.position).await;
    let without = ["before", "instead"];
    assert_eq!(
        bodies(&cluster.up[&b].engine, G),
        without,
        "it was not lost"
    );
    cluster.propose(G, "more").await;

    cluster.start(a).await;
    let deceived = &cluster.up[&a].engine;
    deceived.start_group(G).await.unwrap();
    until("it stops", || deceived.status(G).unwrap().damaged).await;
    let status = deceived.status(G).unwrap();
    let why = status.stopped.unwrap();
    let at = format!(
        "at index {} this node has a committed record",
        lost.position.index
    );
    assert!(
        why.contains(&at) && why.contains("keep its folder"),
        "{why}"
    );
    assert_eq!(
        bodies(deceived, G),
        ["before", "lost"],
        "nothing more is taken"
    );
    // The others go on.
    let last = cluster.propose(G, "last").await;
    for id in [b, c] {
        let engine = &cluster.up[&id].engine;
        let wait = within(std::time::Duration::from_secs(10));
        engine.wait_applied(G, last.position, wait).await.unwrap();
        assert_eq!(bodies(engine, G), ["before", "instead", "more", "last"]);
    }
}
