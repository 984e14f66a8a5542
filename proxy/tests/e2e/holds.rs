//! Holds: released by news, ended by the budget, bounded in number (I11, I12).

use std::time::{Duration, Instant};

use maia_common::wire::feed as wire;

use crate::support::coordinator::{group, tenant};
use crate::support::{Stage, eventually, request};

async fn held(stage: &Stage, count: u64) {
    eventually("the request is held", || async {
        stage.proxy.metric("maia_proxy_held_requests").await == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_with_its_budget() {
    let stage = Stage::new(&["proxy.hold_budget=300ms"]).await;
    for (tenant, code) in [("lost", "group_leaderless"), ("moving", "tenant_held")] {
        let started = Instant::now();
        let response = stage
            .proxy
            .ask(&request("PUT", "/v1/x", tenant, "", "body"))
            .await;
        assert_eq!((response.status, response.code().as_str()), (503, code));
        assert_eq!(response.header("retry-after"), Some("1"));
        let took = started.elapsed();
        assert!((300..2000).contains(&took.as_millis()), "{took:?}");
    }
    assert!(
        stage.origin.asked().is_empty(),
        "never passed on while held (I10)"
    );
    assert_eq!(stage.proxy.metric("maia_proxy_held_requests").await, 0);
    assert_eq!(stage.proxy.metric("maia_proxy_hold_seconds_count").await, 2);
    let counted =
        "maia_proxy_requests_total{class=\"write\",decision=\"hold\",status_class=\"5xx\"}";
    eventually("both are counted", || async {
        stage.proxy.metric(counted).await == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_releases_what_waits_at_once() {
    let stage = Stage::new(&["proxy.hold_budget=20s"]).await;
    let mut here = stage.proxy.client().await;
    here.send(request("PUT", "/v1/x", "lost", "", "body")).await;
    held(&stage, 1).await;
    stage.coordinator.hint(4, 2, "a", false).await;
    let response = here.response().await;
    assert_eq!(response.json()["epoch"], serde_json::json!(["4/2/4"]));
    assert_eq!(response.json()["body_bytes"], 4);

    stage.coordinator.hint(4, 2, "", true).await;
    eventually("the loss is in force", || async {
        stage.proxy.explain("tenant=lost&method=PUT").await["decision"] == "hold"
    })
    .await;
    let mut there = stage.proxy.client().await;
    there
        .send(request("PUT", "/v1/x", "lost", "", "body"))
        .await;
    held(&stage, 1).await;
    stage.coordinator.hint(4, 3, "b", false).await;
    let response = there.response().await;
    assert_eq!(
        response.header("location"),
        Some("http://b.example/base/v1/x")
    );
    assert_eq!(response.header("connection"), Some("keep-alive"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moving_tenant_is_released_to_its_new_home() {
    let stage = Stage::new(&["proxy.hold_budget=20s"]).await;
    let mut connection = stage.proxy.client().await;
    connection
        .send(request("PUT", "/v1/x", "moving", "", "body"))
        .await;
    held(&stage, 1).await;
    let mut moved = tenant("moving", 2);
    moved.version = 6;
    stage
        .coordinator
        .commit(wire::Changes {
            tenants: vec![moved],
            ..Default::default()
        })
        .await;
    assert_eq!(
        connection.response().await.header("location"),
        Some("http://b.example/base/v1/x")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_wait_and_a_client_that_leaves_waits_no_more() {
    let stage = Stage::new(&["proxy.hold_budget=20s", "proxy.hold_max_requests=1"]).await;
    let mut first = stage.proxy.client().await;
    first.send(request("DELETE", "/v1/x", "lost", "", "")).await;
    held(&stage, 1).await;
    let second = stage
        .proxy
        .ask(&request("DELETE", "/v1/x", "lost", "", ""))
        .await;
    assert_eq!(
        (second.status, second.code().as_str()),
        (503, "hold_queue_full")
    );
    drop(first);
    held(&stage, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_waits_for_its_origin_and_a_read_does_not() {
    let mut stage = Stage::new(&["proxy.hold_budget=20s"]).await;
    stage.origin.go_down().await;
    let read = stage
        .proxy
        .ask(&request("GET", "/v1/x", "here", "", ""))
        .await;
    assert_eq!((read.status, read.code().as_str()), (502, "no_origin"));
    let mut write = stage.proxy.client().await;
    write
        .send(request("PUT", "/v1/x", "here", "", "body"))
        .await;
    let refused = "maia_proxy_upstream_errors_total{kind=\"connect\"}";
    eventually("the write has been refused once more", || async {
        stage.proxy.metric(refused).await >= 3
    })
    .await;
    stage.origin.come_back().await;
    assert_eq!(write.response().await.json()["body_bytes"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_origin_never_comes_is_answered_within_the_budget() {
    let mut stage = Stage::new(&["proxy.hold_budget=500ms"]).await;
    stage.origin.go_down().await;
    let started = Instant::now();
    let response = stage
        .proxy
        .ask(&request("PUT", "/v1/x", "here", "", "body"))
        .await;
    assert_eq!(
        (response.status, response.code().as_str()),
        (503, "unavailable")
    );
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_primary_moved_away_while_its_origin_was_down_is_redirected() {
    let mut stage = Stage::new(&["proxy.hold_budget=20s"]).await;
    stage.origin.go_down().await;
    let mut write = stage.proxy.client().await;
    write
        .send(request("PUT", "/v1/x", "here", "", "body"))
        .await;
    let refused = "maia_proxy_upstream_errors_total{kind=\"connect\"}";
    eventually("the write has been refused", || async {
        stage.proxy.metric(refused).await >= 1
    })
    .await;
    stage.coordinator.hint(1, 8, "b", false).await;
    let response = write.response().await;
    assert_eq!(
        response.header("location"),
        Some("http://b.example/base/v1/x")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misrouted_write_is_repeated_when_the_news_arrives_and_only_then() {
    let stage = Stage::new(&["proxy.hold_budget=20s"]).await;
    let mut write = stage.proxy.client().await;
    write
        .send(request("POST", "/misrouted", "here", "", "body"))
        .await;
    eventually("the origin said 421", || async {
        stage.origin.asked().len() == 1
    })
    .await;
    held(&stage, 1).await;
    // News of another group changes nothing.
    stage
        .coordinator
        .commit(wire::Changes {
            groups: vec![group(9, &["a"], Some((1, "a")))],
            ..Default::default()
        })
        .await;
    stage
        .origin
        .state
        .accepts
        .store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(stage.origin.asked().len(), 1);
    stage.coordinator.hint(1, 8, "a", false).await;
    let response = write.response().await;
    assert_eq!(
        (response.status, &response.json()["body_bytes"]),
        (200, &4.into())
    );
    assert_eq!(stage.origin.last().all("x-maia-placement-epoch"), ["1/8/4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misrouted_write_without_news_ends_with_503() {
    let stage = Stage::new(&["proxy.hold_budget=300ms"]).await;
    let response = stage
        .proxy
        .ask(&request("POST", "/misrouted", "here", "", "body"))
        .await;
    assert_eq!(
        (response.status, response.code().as_str()),
        (503, "stale_placement")
    );
    assert_eq!(response.header("retry-after"), Some("1"));
    let large = "x".repeat(256 << 10);
    let response = stage
        .proxy
        .ask(&request("POST", "/misrouted", "here", "", &large))
        .await;
    assert_eq!(
        (response.status, response.code().as_str()),
        (503, "stale_placement")
    );
    assert_eq!(
        stage
            .proxy
            .metric("maia_proxy_upstream_errors_total{kind=\"stale\"}")
            .await,
        2
    );
}
