//! Coordinators come and go: added while others work, removed dead or alive, refused when they are not
//! who they were. And groups: empty ones go by themselves.

use std::time::Duration;

use maia_tests::client::Request;
use maia_tests::cluster::SOON;
use maia_tests::load::Writer;
use maia_tests::{Cluster, Extra, Options, wait_until, wait_value};
use reqwest::Method;
use serde_json::{Value, json};

/// The row of a node as a coordinator that answers has it; null when there is none.
async fn node(cluster: &Cluster, id: u64) -> Value {
    for i in 0..cluster.regions().len() {
        let request = cluster.api(i, Method::GET, "/admin/nodes");
        let Ok(answer) = cluster.client.try_send(&request).await else {
            continue;
        };
        let answer = answer.json();
        let rows = answer["nodes"].as_array().cloned().unwrap_or_default();
        return rows
            .into_iter()
            .find(|row| row["id"] == id)
            .unwrap_or_default();
    }
    Value::Null
}

async fn votes(cluster: &Cluster, id: u64) {
    wait_until(SOON, "the node votes in the metastore", || async {
        node(cluster, id).await["metastore"] == "voter"
    })
    .await;
}

async fn metastore_works(cluster: &Cluster, at: usize, tenant: &str) {
    let spec = json!({"primary_region": cluster.region(at).name});
    wait_value(SOON, "a placement is accepted", || async {
        let answer = cluster.put_placement(at, tenant, &spec).await;
        answer.is_success().then_some(())
    })
    .await;
}

fn delete(cluster: &Cluster, at: usize, id: u64) -> Request {
    cluster.api(at, Method::DELETE, &format!("/admin/nodes/{id}"))
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_new_coordinator_takes_the_place_of_a_dead_one() {
    let cluster = Cluster::start().await;
    cluster.place("t", 0, &[1, 2]).await;
    let mut fourth = Extra::new(&cluster, 4, 2, 0);
    fourth.start();
    wait_until(SOON, "it waits to be added", || async {
        fourth.log().contains("waiting to be added")
    })
    .await;
    assert_eq!(fourth.readiness(&cluster).await["ready"], false);
    let added = fourth.add(&cluster, &["--wait"]).await;
    assert!(added.status.success(), "{}", said(&added));
    votes(&cluster, 4).await;
    fourth.ready(&cluster).await;

    let writer = Writer::new(&cluster, "t", &[0, 1], "w");
    let removal = async {
        cluster.kill_coordinator(2).await;
        cluster
            .run(&["node", "remove", "3", "--yes", "--wait"])
            .await;
        assert_eq!(node(&cluster, 3).await, Value::Null);
        let goal = writer.acked().len() + 50;
        wait_until(SOON, "writes go on", || async {
            writer.acked().len() >= goal
        })
        .await;
    };
    tokio::select! { () = removal => {}, () = writer.run() => {} }
    let missing = writer.missing(&cluster, 1).await;
    assert!(missing.is_empty(), "{missing:?}");
    let election = cluster.api_get(0, "/admin/replication/election").await;
    assert_eq!(election["groups"][0]["voters"], json!([1, 2]), "{election}");

    // It comes back, is told, and takes no part.
    cluster
        .run(&["cluster", "restart", "--no-wait", "--node", "3"])
        .await;
    wait_until(SOON, "the removed one knows", || async {
        cluster
            .coordinator_log(2)
            .contains("was removed from the cluster")
    })
    .await;
    let ready = Request::new(Method::GET, format!("{}/readyz", cluster.region(2).api_url));
    let ready = cluster.client.send(&ready).await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["latches"]["member"], false, "{}", ready.text());

    only_its_quarantine_answers(&cluster).await;
    let again = cluster.client.send(&delete(&cluster, 0, 3)).await;
    assert_eq!(again.status, 204, "{}", again.text());

    // Of 1, 2 and 4 one more may go.
    cluster.kill_coordinator(1).await;
    metastore_works(&cluster, 0, "alone").await;
}

/// What stands in a removed node's quarantine is nowhere else, and can still be had; all else is
/// refused. The node was killed under load, so records may stand there: the one decided on is of a term
/// that never was.
async fn only_its_quarantine_answers(cluster: &Cluster) {
    wait_until(SOON, "it says what to export", || async {
        cluster
            .coordinator_log(2)
            .contains("maiactl quarantine export")
    })
    .await;
    let entries = "/admin/replication/quarantine";
    for (path, status) in [(entries, 200), ("/v1/placements", 503)] {
        let answer = cluster
            .client
            .send(&cluster.api(2, Method::GET, path))
            .await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    let decide = |action: &str| {
        let path = format!("{entries}/1-99-3/resolve");
        let body = json!({ "action": action }).to_string();
        cluster.api(2, Method::POST, &path).body(body)
    };
    let dropped = cluster.client.send(&decide("drop")).await;
    assert_eq!(dropped.status, 404, "{}", dropped.text());
    let applied = cluster.client.send(&decide("apply")).await;
    assert_eq!(applied.status, 503, "{}", applied.text());
}

#[tokio::test]
async fn an_addition_survives_a_new_node_that_dies_again_and_again() {
    let cluster = Cluster::start().await;
    let mut fourth = Extra::new(&cluster, 4, 0, 0);
    let added = fourth.add(&cluster, &[]).await;
    assert!(added.status.success(), "{}", said(&added));
    for _ in 0..6 {
        fourth.start();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(20..600))).await;
        fourth.kill();
    }
    // The controller may die as well.
    let election = cluster.api_get(0, "/admin/replication/election").await;
    let leader = election["leader"].as_u64().expect("a leader");
    let i = usize::try_from(leader).expect("small") - 1;
    cluster.kill_coordinator(i).await;
    cluster.restart_coordinator(i).await;
    fourth.start();
    votes(&cluster, 4).await;
    fourth.ready(&cluster).await;
    assert_eq!(node(&cluster, 4).await["state"], "active");

    // Alive, too, it may be taken out; it hears of it.
    let answer = cluster.client.send(&delete(&cluster, 1, 4)).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    wait_until(SOON, "it is out", || async {
        node(&cluster, 4).await == Value::Null
    })
    .await;
    wait_until(SOON, "it knows", || async {
        fourth.readiness(&cluster).await["latches"]["member"] == false
    })
    .await;
    fourth.kill();
    fourth.start();
    wait_until(SOON, "it knows for ever", || async {
        fourth.readiness(&cluster).await["latches"]["member"] == false
    })
    .await;
}

#[tokio::test]
async fn a_living_leader_is_taken_out_and_work_goes_on() {
    let cluster = Cluster::start().await;
    let three = cluster.place("three", 0, &[1, 2]).await;
    let two = cluster.place("two", 0, &[1]).await;
    assert_eq!(cluster.leader_of(&three["group"]).await, 0);
    let writer = Writer::new(&cluster, "three", &[1, 2], "w");
    let removal = async {
        cluster
            .run(&["node", "remove", "1", "--yes", "--wait"])
            .await;
        let removed = std::time::Instant::now();
        wait_until(SOON, "writes go on", || async {
            writer.first_begun_after(removed).is_some()
        })
        .await;
    };
    tokio::select! { () = removal => {}, () = writer.run() => {} }
    for i in [1, 2] {
        let missing = writer.missing(&cluster, i).await;
        assert!(missing.is_empty(), "{missing:?}");
    }
    let election = cluster.api_get(1, "/admin/replication/election").await;
    for (placement, voters) in [(three, json!([2, 3])), (two, json!([2]))] {
        let groups = election["groups"].as_array().cloned().unwrap_or_default();
        let group = groups
            .into_iter()
            .find(|g| g["group"] == placement["group"]);
        assert_eq!(group.unwrap_or_default()["voters"], voters, "{election}");
    }
    wait_until(SOON, "it knows", || async {
        let ready = Request::new(Method::GET, format!("{}/readyz", cluster.region(0).api_url));
        cluster.client.send(&ready).await.json()["latches"]["member"] == false
    })
    .await;
    let asked = cluster.api(0, Method::GET, "/admin/nodes");
    let answer = cluster.client.send(&asked).await;
    answer.expect_problem(503, "unavailable");
    metastore_works(&cluster, 1, "after").await;
}

#[tokio::test]
async fn a_wiped_disk_and_a_used_id_are_refused() {
    let cluster = Cluster::start().await;
    let mut fourth = Extra::new(&cluster, 4, 0, 0);
    fourth.start();
    let added = fourth.add(&cluster, &["--wait"]).await;
    assert!(added.status.success(), "{}", said(&added));
    votes(&cluster, 4).await;
    fourth.kill();
    std::fs::remove_dir_all(fourth.data()).expect("a wiped disk");
    fourth.start();
    assert_ne!(fourth.ended().await, Some(0));
    assert!(
        fourth.log().contains("a wiped disk is a new node"),
        "{}",
        fourth.log()
    );
    fourth.kill();

    // An id that is in use, then one that was.
    let elsewhere = Extra::new(&cluster, 4, 1, 1);
    let refused = elsewhere.add(&cluster, &[]).await;
    assert!(
        said(&refused).contains("node_conflict"),
        "{}",
        said(&refused)
    );
    cluster
        .run(&["node", "remove", "4", "--yes", "--wait"])
        .await;
    let refused = fourth.add(&cluster, &[]).await;
    assert!(
        said(&refused).contains("node_conflict"),
        "{}",
        said(&refused)
    );
    std::fs::remove_dir_all(fourth.data()).expect("a wiped disk");
    fourth.start();
    assert_ne!(fourth.ended().await, Some(0));
    assert!(
        fourth.log().contains("was removed from the cluster"),
        "{}",
        fourth.log()
    );
    let unknown = cluster.client.send(&delete(&cluster, 0, 9)).await;
    unknown.expect_problem(404, "not_found");
    let body = json!({"id": 5, "region": "atlantis-1", "rpc_addr": "h:1", "api_url": "http://h:2"});
    let add = cluster.api(0, Method::POST, "/admin/nodes");
    let unknown = cluster.client.send(&add.json(&body)).await;
    unknown.expect_problem(409, "node_conflict");
}

#[tokio::test]
async fn a_witness_votes_and_holds_nothing() {
    let options = Options::default().argument("--regions").argument("a,b");
    let cluster = Cluster::start_with(options).await;
    let mut witness = Extra::new(&cluster, 3, 1, 0);
    witness.start();
    let added = witness.add(&cluster, &["--witness", "--wait"]).await;
    assert!(added.status.success(), "{}", said(&added));
    votes(&cluster, 3).await;
    // With a witness one of two regions may go.
    cluster.kill_coordinator(1).await;
    metastore_works(&cluster, 0, "one").await;
    // In its own region it is no stand-in for a node with data.
    let spec = json!({"primary_region": "b"});
    let answer = cluster.put_placement(0, "two", &spec).await;
    assert!(!answer.is_success(), "{}", answer.text());
    assert_eq!(node(&cluster, 3).await["groups"], json!([]));
    cluster.restart_coordinator(1).await;
    cluster.place("three", 1, &[0]).await;
    assert_eq!(node(&cluster, 3).await["groups"], json!([]));
    let groups = witness.data().join("snapshots");
    let files = std::fs::read_dir(groups).map_or(0, Iterator::count);
    assert!(files <= 1, "no group but the metastore has files there");
}

#[tokio::test]
async fn a_removal_that_would_cost_data_or_the_majority_is_refused() {
    let cluster = Cluster::start().await;
    cluster.place("single", 1, &[]).await;
    let refused = cluster.client.send(&delete(&cluster, 0, 2)).await;
    refused.expect_problem(409, "data_loss_refused");
    let plan = cluster
        .client
        .send(&cluster.api(0, Method::DELETE, "/admin/nodes/3?dry_run=true"))
        .await;
    assert_eq!(plan.status, 200, "{}", plan.text());
    assert_eq!(plan.json()["metastore_voters_left"], 2, "{}", plan.text());
    assert_eq!(node(&cluster, 3).await["state"], "active", "a dry run");
    cluster.kill_coordinator(1).await;
    wait_value(SOON, "it is refused", || async {
        let refused = cluster.client.send(&delete(&cluster, 0, 3)).await;
        (refused.code() == "data_loss_refused").then_some(())
    })
    .await;
}

/// All ids of groups that there are now.
async fn groups(cluster: &Cluster) -> Vec<u64> {
    let election = cluster.api_get(0, "/admin/replication/election").await;
    let groups = election["groups"].as_array().cloned().unwrap_or_default();
    groups.iter().filter_map(|g| g["group"].as_u64()).collect()
}

#[tokio::test]
async fn empty_groups_go_and_make_room_for_more_than_the_cap() {
    let cluster = Cluster::start_with(Options::default().set("groups.collect_after=300ms")).await;
    let names: Vec<String> = cluster.regions().iter().map(|r| r.name.clone()).collect();
    let mut specs = Vec::new();
    for primary in 0..3 {
        for set in 0..4 {
            let others = (0..3).filter(|i| *i != primary).enumerate();
            let replicas: Vec<&String> = others
                .filter(|(bit, _)| set >> bit & 1 == 1)
                .map(|(_, i)| &names[i])
                .collect();
            specs.push(json!({"primary_region": names[primary], "replicas": replicas}));
        }
    }
    let mut newest = 0;
    for round in 0..7 {
        for (i, spec) in specs.iter().enumerate() {
            wait_value(SOON, "a placement is accepted", || async {
                let answer = cluster.put_placement(i % 3, &format!("t-{i}"), spec).await;
                answer.is_success().then_some(())
            })
            .await;
        }
        newest = newest.max(groups(&cluster).await.into_iter().max().unwrap_or(0));
        // A group with a tenant stays, however long the others are gone.
        let leave = usize::from(round % 2 == 0);
        for i in leave..specs.len() {
            let path = format!("/v1/placements/t-{i}");
            wait_value(SOON, "a removal is accepted", || async {
                let answer = cluster
                    .client
                    .send(&cluster.api(i % 3, Method::DELETE, &path))
                    .await;
                (answer.is_success() || answer.status == 404).then_some(())
            })
            .await;
        }
        wait_until(SOON, "the empty groups are gone", || async {
            groups(&cluster).await.len() == leave
        })
        .await;
    }
    assert!(newest > 64, "only {newest} groups were made");
    for i in 0..3 {
        let log = cluster.coordinator_log(i);
        assert!(!log.contains("count of placements says none"), "{log}");
    }
    // What was left in place still works.
    cluster.place("t-0", 0, &[]).await;
}

#[tokio::test]
async fn a_deletion_that_was_interrupted_ends_by_itself() {
    let cluster = Cluster::start().await;
    cluster.place("t", 1, &[]).await;
    cluster.kill_coordinator(1).await;
    let remove = cluster.api(0, Method::DELETE, "/v1/placements/t");
    let answer = wait_value(SOON, "the metastore has a leader", || async {
        let answer = cluster.client.send(&remove).await;
        let path = "/v1/placements/t?consistency=local";
        let state = cluster.api_get(0, path).await["state"].clone();
        (state == "deleting").then_some(answer)
    })
    .await;
    assert!(
        !answer.is_success(),
        "its group has no leader: {}",
        answer.text()
    );
    cluster.restart_coordinator(1).await;
    wait_until(Duration::from_secs(60), "the deletion ends", || async {
        let get = cluster.api(0, Method::GET, "/v1/placements/t");
        cluster.client.send(&get).await.status == 404
    })
    .await;
}
