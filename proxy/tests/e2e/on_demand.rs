//! A proxy that holds only the tenants that it is asked for.

use maia_common::wire::feed::{self as wire, up};

use crate::support::coordinator::tenant;
use crate::support::{Stage, eventually, request};

const ON_DEMAND: &str = "proxy.table=on-demand";

fn put(tenant: &str) -> String {
    request("PUT", "/v1/x", tenant, "", "body")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_looked_up_once_and_follows_the_deltas() {
    let stage = Stage::new(&[ON_DEMAND]).await;
    let Some(up::Kind::Hello(hello)) = stage.coordinator.heard().remove(0).kind else {
        panic!("a hello first");
    };
    assert!(hello.topology_only);
    assert_eq!(
        stage.proxy.explain("tenant=here").await["decision"],
        "lookup"
    );
    for _ in 0..3 {
        assert_eq!(stage.proxy.ask(&put("here")).await.status, 200);
        assert_eq!(stage.proxy.ask(&put("there")).await.status, 307);
        assert_eq!(
            stage.proxy.ask(&put("nobody")).await.code(),
            "unknown_tenant"
        );
    }
    let asked: Vec<String> = stage
        .coordinator
        .lookups()
        .into_iter()
        .map(|l| l.tenant)
        .collect();
    assert_eq!(asked, ["here", "there", "nobody"]);
    let answered = "maia_proxy_lookups_total{outcome=\"answered\"}";
    assert_eq!(stage.proxy.metric(answered).await, 3);
    // Both the one that was there and the one that was not.
    let moved = wire::Changes {
        tenants: vec![tenant("here", 2), tenant("nobody", 1)],
        ..Default::default()
    };
    stage.coordinator.commit(moved).await;
    eventually("the changes are in force", || async {
        stage.proxy.metric("maia_proxy_revision").await == 11
    })
    .await;
    eventually("the tenants follow", || async {
        stage.proxy.explain("tenant=nobody&method=PUT").await["decision"] == "local"
            && stage.proxy.explain("tenant=here&method=PUT").await["decision"] == "redirect"
    })
    .await;
    assert_eq!(stage.proxy.ask(&put("nobody")).await.status, 200);
    assert_eq!(stage.proxy.ask(&put("here")).await.status, 307);
    assert_eq!(stage.coordinator.lookups().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_for_one_tenant_ask_once() {
    let stage = Stage::new(&[ON_DEMAND, "threads=2"]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = stage.proxy.client().await;
        client.send(put("here")).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(stage.coordinator.lookups().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_coordinator_what_is_known_is_served_and_the_rest_is_told_to_come_back() {
    let mut stage = Stage::new(&[ON_DEMAND]).await;
    assert_eq!(stage.proxy.ask(&put("here")).await.status, 200);
    stage.coordinator.stop();
    eventually("the coordinator is lost", || async {
        stage.proxy.readyz("feed_connected").await == false
    })
    .await;
    assert_eq!(stage.proxy.ask(&put("here")).await.status, 200);
    let missed = stage.proxy.ask(&put("there")).await;
    assert_eq!(
        (missed.status, missed.code().as_str()),
        (503, "unavailable")
    );
    assert_eq!(missed.header("retry-after"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_without_an_answer_ends() {
    let stage = Stage::new(&[ON_DEMAND]).await;
    stage.coordinator.hang(true);
    let missed = stage.proxy.ask(&put("here")).await;
    assert_eq!(
        (missed.status, missed.code().as_str()),
        (503, "unavailable")
    );
    stage.coordinator.hang(false);
    assert_eq!(stage.proxy.ask(&put("here")).await.status, 200);
}

/// A snapshot makes all that is known old: what is held is looked up again, and held on.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_write_outlives_a_snapshot() {
    let stage = Stage::new(&[ON_DEMAND, "proxy.hold_budget=20s"]).await;
    let mut client = stage.proxy.client().await;
    client.send(put("moving")).await;
    eventually("it is held", || async {
        stage.proxy.explain("tenant=moving&method=PUT").await["decision"] == "hold"
    })
    .await;
    let gap = wire::Delta {
        from_revision: 50,
        revision: 51,
        committed_unix_us: 1,
        changes: None,
    };
    stage.coordinator.tell(wire::down::Kind::Delta(gap)).await;
    eventually("it is looked up again", || async {
        stage.coordinator.lookups().len() == 2
    })
    .await;
    let mut moved = tenant("moving", 2);
    moved.version = 6;
    let moved = wire::Changes {
        tenants: vec![moved],
        ..Default::default()
    };
    stage.coordinator.commit(moved).await;
    assert_eq!(client.response().await.status, 307);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_coordinator_it_is_not_ready() {
    let mut stage = Stage::new(&[ON_DEMAND]).await;
    eventually("the placements are saved", || async {
        !stage.proxy.readyz("snapshot_age_ms").await.is_null()
    })
    .await;
    stage.coordinator.stop();
    stage.proxy.restart().await;
    eventually("what is on disk is in force", || async {
        stage.proxy.readyz("placements").await == "disk"
    })
    .await;
    assert_eq!(stage.proxy.admin("/readyz").await.unwrap().status, 503);
}
