//! Two copies and a witness, each of the three killed under load: nothing acknowledged is lost, writes go
//! on or wait as the documentation says, and nothing of the tenant is on the witness's disk.

use std::path::Path;

use maia_tests::cluster::SOON;
use maia_tests::load::Writer;
use maia_tests::witness::{WITNESS, is_listed, kill_each};
use maia_tests::{Cluster, Options, wait_until};
use reqwest::Method;
use serde_json::{Value, json};

/// Part of every resource that is written.
const MARK: &str = "payload-of-a-tenant-93kd";

fn stands_in(dir: &Path, needle: &[u8]) -> bool {
    let entries = std::fs::read_dir(dir).expect("a folder");
    entries.flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return stands_in(&path, needle);
        }
        // One that is just being deleted has nothing any more.
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(needle.len()).any(|part| part == needle)
    })
}

#[tokio::test]
async fn each_of_the_three_is_killed_in_turn() {
    let cluster = Cluster::start().await;
    let placed = cluster.place("t", 0, &[1]).await;
    let group = &placed["group"];
    let election = cluster.api_get(0, "/admin/replication/election").await;
    let groups = election["groups"].as_array().cloned().unwrap_or_default();
    let shown = groups.iter().find(|g| g["group"] == *group);
    let shown = shown.expect("the group");
    assert_eq!(shown["witness"], cluster.region(WITNESS).coordinator_id);
    assert_eq!(shown["voters"], json!([1, 2, 3]));
    assert!(!is_listed(&cluster, "without_witness", group).await);

    let writer = Writer::new(&cluster, "t", &[0, 1], MARK);
    tokio::select! {
        kills = kill_each(&cluster, &writer, group) => println!("{kills:?}"),
        () = writer.run() => {}
    }
    for i in [0, 1] {
        let missing = writer.missing(&cluster, i).await;
        assert!(missing.is_empty(), "{missing:?}");
    }
    println!(
        "{} writes acknowledged, {} not",
        writer.acked().len(),
        writer.refused().len()
    );
    let data = |i: usize| cluster.region(i).dir.join("data");
    assert!(stands_in(&data(0), MARK.as_bytes()), "the search finds it");
    assert!(!stands_in(&data(WITNESS), MARK.as_bytes()));
    let read = cluster
        .api(WITNESS, Method::GET, "/v1/data/load/x")
        .header("x-maia-tenant-id", "t");
    let refused = cluster.client.send(&read).await;
    refused.expect_problem(421, "stale_placement");
}

#[tokio::test]
async fn without_a_third_region_there_is_none_and_health_says_so() {
    let options = Options::default().argument("--regions").argument("a,b");
    let cluster = Cluster::start_with(options).await;
    let placed = cluster.place("t", 0, &[1]).await;
    let group = &placed["group"];
    let said = "the leader says so";
    wait_until(SOON, said, || is_listed(&cluster, "without_witness", group)).await;
    let election = cluster.api_get(0, "/admin/replication/election").await;
    let groups = election["groups"].as_array().cloned().unwrap_or_default();
    let shown = groups.iter().find(|g| g["group"] == *group);
    assert_eq!(shown.expect("the group")["witness"], Value::Null);
}
