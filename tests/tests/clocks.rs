//! A coordinator whose wall clock is wrong: it stamps nothing by it, hands on what it leads, says so, and
//! may lead again when it is right.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use maia_tests::cluster::SOON;
use maia_tests::{Cluster, Options, wait_until, wait_value};
use reqwest::Method;
use serde_json::Value;

const HOUR_MS: i64 = 3_600_000;

/// Clocks of this machine's processes are one; a record is stamped a moment before it is answered.
const NEAR_MS: u64 = 5_000;

async fn put(cluster: &Cluster, i: usize, n: usize) {
    let path = format!("/v1/data/notes/{n}");
    let put = cluster.through(i, "t", Method::PUT, &path);
    let put = put
        .header("idempotency-key", format!("k{n}"))
        .body(n.to_string());
    wait_until(SOON, "a write is taken", || async {
        let answer = cluster.client.try_follow(&put).await;
        answer.is_ok_and(|answer| answer.is_success())
    })
    .await;
}

/// What a node says of its health, when it names its clock.
async fn complaint(cluster: &Cluster, i: usize) -> Option<Value> {
    // Also while the metastore has no leader, since that was this one: 503.
    let ask = cluster.api(i, Method::GET, "/v1/replication/health");
    let health = cluster.client.send(&ask).await.json();
    let reasons = health["reasons"].as_array().cloned().unwrap_or_default();
    let mut texts = reasons.iter().filter_map(Value::as_str);
    let names_clock = texts.any(|text| text.contains("clock is off"));
    names_clock.then_some(health)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_millis() as u64
}

#[tokio::test]
async fn a_node_whose_clock_jumps_stamps_nothing_by_it_and_hands_on_what_it_leads() {
    let cluster = Cluster::start_with(Options::default().clocks()).await;
    if !cluster.has_clocks() {
        println!("skipped: no libfaketime here");
        return;
    }
    let group = cluster.place("t", 0, &[1, 2]).await["group"].clone();
    let (began_ms, count) = (now_ms(), Cell::new(0));
    for jump_ms in [HOUR_MS, -50 * HOUR_MS] {
        let leader = cluster.leader_of(&group).await;
        cluster.set_clock(leader, jump_ms);
        let health = wait_value(SOON, "it hands on what it leads, and says why", || async {
            count.set(count.get() + 1);
            put(&cluster, leader, count.get()).await;
            let health = complaint(&cluster, leader).await?;
            let groups = health["groups"].as_array()?;
            let leads = groups.iter().any(|group| group["role"] == "leader");
            (!leads).then_some(health)
        })
        .await;
        assert_ne!(health["status"], "healthy", "{health}");
        count.set(count.get() + 1);
        put(&cluster, leader, count.get()).await;
        assert_ne!(cluster.leader_of(&group).await, leader);
        cluster.set_clock(leader, 0);
        wait_until(SOON, "it may lead again", || async {
            complaint(&cluster, leader).await.is_none()
        })
        .await;
    }
    let path = "/v1/replication/entries?tenant=t&limit=1000";
    let page = wait_value(SOON, "all entries are there", || async {
        let page = cluster.api_get(0, path).await;
        (page["entries"].as_array()?.len() > count.get()).then_some(page)
    })
    .await;
    let entries = page["entries"].as_array().expect("entries");
    let right = began_ms - NEAR_MS..now_ms() + NEAR_MS;
    for entry in entries {
        let stamp_ms = entry["hlc"]["physical_ms"].as_u64().expect("a time");
        assert!(right.contains(&stamp_ms), "{right:?}: {entry}");
    }
}
