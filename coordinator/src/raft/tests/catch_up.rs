//! A follower that was away catches up: held back while clients write, but for what they need.

use std::sync::Arc;
use std::time::Duration;

use maia_common::{GroupId, Index, NodeId};
use tokio::task::JoinSet;

use super::super::propose::within;
use super::super::*;
use super::harness::*;

const G: GroupId = GroupId::new(1);
/// Much more than a follower in step may lack.
const MISSED: u64 = 12_000;
const WRITERS: usize = 64;
/// What it lacks at most when it has caught up, under load.
const LEVEL: u64 = 1000;
/// More than is lost in looking, less than eight messages are worth.
const HELD: Duration = Duration::from_millis(200);

/// What clients do while the follower catches up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clients {
    Rest,
    Write,
    /// One of them waits until its write is on all three.
    WantAll,
}

async fn write_on(engine: Arc<Engine>) {
    loop {
        let applied = engine.propose(G, record("x"), within(PATIENCE)).await;
        applied.unwrap();
    }
}

async fn want_all(engine: Arc<Engine>) {
    loop {
        let applied = engine.propose(G, record("x"), within(PATIENCE)).await;
        let at = applied.unwrap().position;
        let all = |on: &[NodeId]| (on.len() == 3).then_some(());
        engine.wait_durable(G, at, within(PATIENCE), all).await;
    }
}

/// For how long the follower's records were held back in all, until it has caught up.
async fn held_back(clients: Clients) -> Duration {
    let mut cluster = Cluster::three(G, |_| {}).await;
    let leader = cluster.leader(G).await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    let engine = Arc::clone(&cluster.up[&leader].engine);
    let mut load = JoinSet::new();
    for _ in 0..WRITERS {
        load.spawn(write_on(Arc::clone(&engine)));
    }
    let last = || engine.status(G).unwrap().last_log.map_or(0, Index::get);
    cluster.kill(away).await;
    let from = last();
    until("records are missed", || last() > from + MISSED).await;
    match clients {
        Clients::Rest => load.shutdown().await,
        Clients::Write => (),
        Clients::WantAll => drop(load.spawn(want_all(Arc::clone(&engine)))),
    }
    cluster.start(away).await;
    let back = &cluster.up[&away].engine;
    back.start_group(G).await.unwrap();
    until("it has caught up", || {
        let status = engine.status(G).unwrap();
        let mut followers = status.followers.iter();
        let found = followers.find(|f| f.node == NodeId::new(away));
        found.is_some_and(|found| status.lag_entries(found) <= LEVEL)
    })
    .await;
    load.shutdown().await;
    let held = engine.log_stats().held_back_us;
    drop(engine);
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    Duration::from_micros(held)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_clients_and_gets_level_all_the_same() {
    let held = held_back(Clients::Write).await;
    assert!(held >= HELD, "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_nobody_who_needs_it() {
    let held = held_back(Clients::WantAll).await;
    assert!(held < HELD, "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_nobody_when_nobody_writes() {
    let held = held_back(Clients::Rest).await;
    assert!(held < HELD, "{held:?}");
}
