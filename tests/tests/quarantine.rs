//! A leader dies with records that nobody else has: they are kept, resolved when it comes back, and
//! nothing of it is silent.

use std::collections::BTreeSet;

use maia_tests::client::Client;
use maia_tests::cluster::SOON;
use maia_tests::metrics::Metrics;
use maia_tests::{Cluster, wait_until, wait_value};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const TENANT: &str = "acme";
const CLIENTS: usize = 8;
const CONFLICTS: &str = "maia_replication_conflicts_total";

async fn metrics(cluster: &Cluster, i: usize) -> Metrics {
    let answer = cluster
        .client
        .send(&cluster.api(i, Method::GET, "/metrics"))
        .await;
    Metrics::parse(&String::from_utf8_lossy(&answer.body))
}

/// Writes one resource after the other at this coordinator until a write is not answered; returns the
/// ids of all, of which all but the last were acknowledged.
async fn write(client: Client, first: maia_tests::client::Request, name: String) -> Vec<String> {
    let (mut n, mut ids) = (0, Vec::new());
    loop {
        n += 1;
        let id = format!("{name}-{n}");
        let mut request = first.clone();
        request.url = format!("{}/{id}", first.url);
        ids.push(id);
        match client.try_send(&request).await {
            Ok(answer) if answer.is_success() => {}
            _ => return ids,
        }
    }
}

async fn has(cluster: &Cluster, i: usize, id: &str) -> bool {
    let path = format!("/v1/data/k/{id}");
    let request = cluster
        .api(i, Method::GET, &path)
        .header("x-maia-tenant-id", TENANT);
    cluster.client.send(&request).await.status == 200
}

/// Places the tenant everywhere, in async mode; returns its group.
async fn place_async(cluster: &Cluster) -> Value {
    let placement = cluster.place(TENANT, 0, &[1, 2]).await;
    let names: Vec<&str> = [1, 2].map(|i| cluster.region(i).name.as_str()).into();
    let spec = json!({
        "primary_region": cluster.region(0).name, "replicas": names, "sync_mode": "async",
    });
    let answer = cluster.put_placement(0, TENANT, &spec).await;
    answer.expect_success("async");
    placement["group"].clone()
}

/// The digest of the group's state on every coordinator, once all are in one position.
async fn digests(cluster: &Cluster, group: &Value) -> BTreeSet<String> {
    let path = format!("/admin/replication/digest?group={group}");
    wait_value(SOON, "all replicas are in one position", || async {
        let mut found = Vec::new();
        for i in 0..3 {
            found.push(cluster.api_get(i, &path).await);
        }
        let position = |d: &Value| (d["term"].clone(), d["index"].clone());
        let is_one = found.iter().all(|d| position(d) == position(&found[0]));
        is_one.then(|| found.iter().map(|d| d["digest"].to_string()).collect())
    })
    .await
}

#[tokio::test]
async fn what_only_a_dead_leader_had_is_resolved_when_it_is_back() {
    let cluster = Cluster::start().await;
    let group = place_async(&cluster).await;
    let leader = cluster.leader_of(&group).await;
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();

    let first = cluster
        .api(leader, Method::PUT, "/v1/data/k")
        .header("x-maia-tenant-id", TENANT)
        .body("1");
    let mut writers = JoinSet::new();
    for n in 0..CLIENTS {
        writers.spawn(write(
            cluster.client.clone(),
            first.clone(),
            format!("w{n}"),
        ));
    }
    for other in &others {
        cluster.kill_coordinator(*other).await;
    }
    wait_until(SOON, "the leader is alone", || async {
        let request = cluster.api(leader, Method::GET, "/v1/replication/health");
        let health = cluster.client.send(&request).await.json();
        let leaderless = health["leaderless"].as_array();
        leaderless.is_some_and(|groups| groups.contains(&group))
    })
    .await;
    cluster.kill_coordinator(leader).await;
    let written: Vec<Vec<String>> = writers.join_all().await;

    for other in &others {
        let id = cluster.region(*other).coordinator_id.to_string();
        cluster
            .run(&["cluster", "restart", "--no-wait", "--node", &id])
            .await;
    }
    let probe = cluster
        .api(others[0], Method::PUT, "/v1/data/k/probe")
        .header("x-maia-tenant-id", TENANT)
        .body("1");
    wait_until(SOON, "the others go on without it", || async {
        let answer = cluster.client.try_send(&probe).await;
        answer.is_ok_and(|answer| answer.is_success())
    })
    .await;
    cluster.restart_coordinator(leader).await;

    let won = wait_value(SOON, "what it had is resolved", || async {
        let metrics = metrics(&cluster, leader).await;
        let won = metrics.sum(
            CONFLICTS,
            &["strategy=\"last-write-wins\"", "outcome=\"won\""],
        );
        let left = metrics.sum("maia_quarantine_entries", &[]);
        (won > 0.0 && left == 0.0).then_some(won)
    })
    .await;
    assert!(won > 0.0);
    // Some of these were acknowledged by a leader that nobody heard any more.
    let acknowledged = written.iter().flat_map(|ids| &ids[..ids.len() - 1]);
    let acknowledged: Vec<&String> = acknowledged.collect();
    assert!(!acknowledged.is_empty());
    for i in 0..3 {
        for id in &acknowledged {
            let what = format!("{id} is in region {i}: it was acknowledged (I3)");
            wait_until(SOON, &what, || has(&cluster, i, id)).await;
        }
    }
    assert_eq!(digests(&cluster, &group).await.len(), 1, "I13");
    let listed = cluster
        .run(&["quarantine", "list", "--output", "json"])
        .await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["entries"], json!([]));
}
