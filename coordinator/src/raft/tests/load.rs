//! How fast it is; prints figures. Not a check: run it by hand with `--ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::GroupId;

use super::super::propose::within;
use super::super::*;
use super::harness::*;

const G: GroupId = GroupId::new(1);

/// `clients` write records of 256 bytes for a while; prints the rate and quantiles.
async fn load(what: &str, engine: &Arc<Engine>, clients: usize) {
    let (body, end) = ("x".repeat(256), Instant::now() + Duration::from_secs(4));
    let before = engine.log_stats();
    let workers = (0..clients).map(|_| {
        let (engine, body) = (Arc::clone(engine), body.clone());
        tokio::spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < end {
                let start = Instant::now();
                engine
                    .propose(G, record(&body), within(PATIENCE))
                    .await
                    .unwrap();
                took.push(start.elapsed());
            }
            took
        })
    });
    let all = futures::future::join_all(workers).await;
    let mut took: Vec<Duration> = all.into_iter().flat_map(Result::unwrap).collect();
    took.sort_unstable();
    let after = engine.log_stats();
    println!(
        "{what}, {clients} clients: {}/s, p50 {:?}, p99 {:?}, {} records a sync, {} us a sync",
        took.len() / 4,
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        (after.appends - before.appends) / (after.fsyncs - before.fsyncs).max(1),
        (after.fsync_sum_us - before.fsync_sum_us) / (after.fsyncs - before.fsyncs).max(1),
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn writes_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let node = lone(dir.path(), G).await;
    until("leads", || node.leads(G)).await;
    for clients in [1, 64, 256] {
        load("one node", &node.engine, clients).await;
    }
    let cluster = Cluster::three(G, |_| {}).await;
    cluster.propose(G, "first").await;
    let leader = cluster.leader(G).await;
    for clients in [1, 64, 256] {
        load("three nodes", &cluster.up[&leader].engine, clients).await;
    }
}

/// From a leader's power cut to the next accepted write, with the preset `lan`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn failover_takes() {
    let mut cluster = Cluster::three(G, |config| {
        config.election_min = Duration::from_millis(150);
        config.election_max = Duration::from_millis(300);
    })
    .await;
    let mut took = Vec::new();
    for round in 0..10 {
        let last = cluster.propose(G, &format!("before {round}")).await;
        cluster.applied_everywhere(G, last.position).await;
        let dead = cluster.leader(G).await;
        cluster.kill(dead).await;
        let start = Instant::now();
        cluster.propose(G, &format!("after {round}")).await;
        took.push(start.elapsed());
        cluster.start(dead).await;
        cluster.up[&dead].engine.start_group(G).await.unwrap();
    }
    took.sort_unstable();
    println!("failover: {took:?}");
}
