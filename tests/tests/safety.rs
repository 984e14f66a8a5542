//! What must never happen, as a hostile review found it could: a deleted tenant that takes writes
//! or comes back, a sync mode that is found short after the write, a node that forgot its votes.

use std::time::{Duration, Instant};

use maia_tests::client::Request;
use maia_tests::cluster::SOON;
use maia_tests::{Cluster, Options, wait_until, wait_value};
use reqwest::Method;
use serde_json::{Value, json};

const SECRET: &str = "/v1/data/notes/secret";

/// A request of the tenant straight to a coordinator's API.
fn at_api(cluster: &Cluster, i: usize, tenant: &str, method: Method, path: &str) -> Request {
    cluster
        .api(i, method, path)
        .header("x-maia-tenant-id", tenant)
}

#[tokio::test]
async fn a_deleted_tenant_leaves_nothing_and_its_versions_go_on() {
    let cluster = Cluster::start().await;
    let placed = cluster.place("t", 0, &[1, 2]).await;
    let put = cluster
        .through(0, "t", Method::PUT, SECRET)
        .header("idempotency-key", "k1");
    cluster
        .client
        .send(&put.body("old"))
        .await
        .expect_success("put");
    let delete = cluster.api(1, Method::DELETE, "/v1/placements/t");
    cluster.client.send(&delete).await.expect_success("delete");
    let again = cluster.place("t", 0, &[1, 2]).await;
    assert_eq!(
        again["group"], placed["group"],
        "the same spec, the same group"
    );
    assert!(
        again["version"].as_u64() > placed["version"].as_u64(),
        "{placed} {again}"
    );
    for i in 0..3 {
        let read = cluster.through(i, "t", Method::GET, SECRET);
        cluster
            .client
            .send(&read)
            .await
            .expect_problem(404, "not_found");
    }
    let put = cluster
        .through(0, "t", Method::PUT, SECRET)
        .header("idempotency-key", "k1");
    let answer = cluster
        .client
        .send(&put.body("new"))
        .await
        .expect_success("the key is free again");
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn a_node_that_slept_through_a_deletion_takes_no_write_of_the_tenant() {
    let cluster = Cluster::start().await;
    let placed = cluster.place("t", 2, &[]).await;
    let id = cluster.region(2).coordinator_id.to_string();
    cluster.run(&["cluster", "stop", "--node", &id]).await;
    let delete = cluster.api(0, Method::DELETE, "/v1/placements/t");
    let put = at_api(&cluster, 2, "t", Method::PUT, SECRET).body("late");
    let (late, deleted) = tokio::join!(cluster.client.try_send(&put), async {
        // Not before its leader is back; until then the name stays reserved.
        let refused = cluster.client.send(&delete).await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        let elsewhere = json!({"primary_region": cluster.region(0).name});
        let taken = cluster.put_placement(0, "t", &elsewhere).await;
        taken.expect_problem(409, "placement_conflict");
        cluster.run(&["cluster", "cont", "--node", &id]).await;
        wait_until(SOON, "the deletion goes through", || async {
            matches!(cluster.client.send(&delete).await.status, 204 | 404)
        })
        .await;
    });
    let () = deleted;
    // Before the deletion ended it may have been taken; afterwards it is gone either way.
    drop(late);
    let again = cluster.place("t", 2, &[]).await;
    assert_eq!(again["group"], placed["group"]);
    let read = cluster.through(2, "t", Method::GET, SECRET);
    cluster
        .client
        .send(&read)
        .await
        .expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_shortage_of_copies_is_known_before_the_write() {
    let cluster = Cluster::start().await;
    let regions: Vec<&str> = cluster.regions().iter().map(|r| r.name.as_str()).collect();
    for (tenant, policy) in [("strict", "reject"), ("lenient", "degrade")] {
        let spec = json!({
            "primary_region": regions[0], "replicas": [regions[1], regions[2]],
            "sync_mode": "sync", "on_too_few": policy,
        });
        let placed = cluster
            .put_placement(0, tenant, &spec)
            .await
            .expect_success("place")
            .json();
        cluster.in_force(tenant, &placed["version"]).await;
        let put = cluster.through(0, tenant, Method::PUT, SECRET).body("1");
        let answer = cluster
            .client
            .send(&put)
            .await
            .expect_success("all copies are there");
        let acked: Vec<&str> = answer
            .header("x-maia-acked-regions")
            .unwrap_or("")
            .split(',')
            .collect();
        assert_eq!(acked.len(), 3, "{acked:?}");
    }
    cluster.kill_coordinator(2).await;
    wait_until(SOON, "the write is refused", || async {
        let put = cluster
            .through(0, "strict", Method::PUT, "/v1/data/notes/2")
            .body("2");
        cluster.client.send(&put).await.code() == "not_enough_replicas"
    })
    .await;
    let began = Instant::now();
    let put = cluster
        .through(0, "strict", Method::PUT, "/v1/data/notes/3")
        .body("3");
    cluster
        .client
        .send(&put)
        .await
        .expect_problem(503, "not_enough_replicas");
    let read = cluster.through(
        0,
        "strict",
        Method::GET,
        "/v1/data/notes/3?consistency=strong",
    );
    cluster
        .client
        .send(&read)
        .await
        .expect_problem(404, "not_found");
    let put = cluster
        .through(0, "lenient", Method::PUT, "/v1/data/notes/3")
        .body("3");
    let answer = cluster.client.send(&put).await.expect_success("degraded");
    let acked = answer
        .header("x-maia-acked-regions")
        .unwrap_or("")
        .split(',')
        .count();
    assert_eq!(acked, 2);
    assert_eq!(answer.header("x-maia-ack-degraded"), Some("true"));
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_node_that_lost_its_databases_is_refused() {
    let cluster = Cluster::start().await;
    cluster.place("t", 0, &[1, 2]).await;
    for database in ["raft", "state"] {
        cluster.kill_coordinator(1).await;
        let folder = cluster.region(1).dir.join("data").join(database);
        let aside = folder.with_extension("aside");
        std::fs::rename(&folder, &aside).expect("renamed");
        let id = cluster.region(1).coordinator_id.to_string();
        let output = cluster
            .maiactl(&["cluster", "restart", "--node", &id])
            .await;
        assert!(
            !output.status.success(),
            "{database} was lost, and the node runs"
        );
        let log = cluster.coordinator_log(1);
        assert!(log.contains("must not vote again under its id"), "{log}");
        drop(std::fs::remove_dir_all(&folder));
        std::fs::rename(&aside, &folder).expect("renamed back");
        cluster.restart_coordinator(1).await;
    }
}

#[tokio::test]
async fn without_a_quorum_a_node_says_so() {
    let cluster = Cluster::start_with(Options::default()).await;
    cluster.place("t", 0, &[1, 2]).await;
    cluster.kill_coordinator(0).await;
    cluster.kill_coordinator(1).await;
    let health = cluster.api(2, Method::GET, "/v1/replication/health");
    let body = wait_value(SOON, "the node notices", || async {
        let answer = cluster.client.send(&health).await;
        (answer.status == 503).then(|| answer.json())
    })
    .await;
    assert_eq!(body["status"], "unhealthy", "{body}");
    assert!(
        body["leaderless"]
            .as_array()
            .is_some_and(|l| l.contains(&json!(0))),
        "{body}"
    );
    let ready = cluster
        .client
        .send(&cluster.api(2, Method::GET, "/readyz"))
        .await;
    assert_eq!(ready.status, 503, "{}", ready.text());
}

#[tokio::test]
async fn a_repeated_placement_gets_its_answer_again() {
    let cluster = Cluster::start().await;
    let spec: Value = json!({"primary_region": cluster.region(0).name});
    let put = cluster
        .api(1, Method::PUT, "/v1/placements/t")
        .header("if-none-match", "*")
        .header("idempotency-key", "p1")
        .json(&spec);
    let first = cluster
        .client
        .send(&put)
        .await
        .expect_success("placed")
        .json();
    let again = cluster
        .client
        .send(&put)
        .await
        .expect_success("repeated")
        .json();
    assert_eq!(first["version"], again["version"]);
    let delete = cluster
        .api(2, Method::DELETE, "/v1/placements/t")
        .header("idempotency-key", "d1");
    cluster.client.send(&delete).await.expect_success("deleted");
    cluster
        .client
        .send(&delete)
        .await
        .expect_success("deleted, asked again");
}
