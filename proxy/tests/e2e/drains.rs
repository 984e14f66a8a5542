//! `drained`: said of a held tenant once its writes that were in flight are through.

use maia_common::wire::feed::{self as wire, drained::What, up::Kind};

use crate::support::coordinator::{Coordinator, tenant};
use crate::support::{Stage, eventually, request};

fn drained(coordinator: &Coordinator) -> Vec<(String, u64)> {
    let heard = coordinator.heard().into_iter();
    let drained = heard.filter_map(|up| match up.kind {
        Some(Kind::Drained(wire::Drained {
            what: Some(What::Tenant(tenant)),
            version,
        })) => Some((tenant, version)),
        _ => None,
    });
    drained.collect()
}

fn held(name: &str, version: u64) -> wire::Changes {
    let mut tenant = tenant(name, 1);
    (tenant.version, tenant.holding) = (version, true);
    wire::Changes {
        tenants: vec![tenant],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_tenant_is_drained_when_its_writes_are_through() {
    let stage = Stage::new(&["proxy.hold_budget=20s"]).await;
    eventually("what was held at the start is said", || async {
        drained(&stage.coordinator) == [("moving".to_owned(), 4)]
    })
    .await;
    let mut slow = stage.proxy.client().await;
    slow.send(request("PUT", "/slow", "here", "", "body")).await;
    eventually("the origin is asked", || async {
        stage.origin.asked().len() == 1
    })
    .await;
    let revision = stage.coordinator.commit(held("here", 5)).await;
    // Another tenant's word comes at once, and after the hold is in force.
    stage.coordinator.commit(held("there", 7)).await;
    eventually("the other tenant is drained", || async {
        drained(&stage.coordinator).contains(&("there".to_owned(), 7))
    })
    .await;
    assert!(stage.proxy.metric("maia_proxy_revision").await > revision);
    let here = ("here".to_owned(), 5);
    assert!(!drained(&stage.coordinator).contains(&here), "in flight");
    let mut late = stage.proxy.client().await;
    late.send(request("PUT", "/v1/x", "here", "", "body")).await;
    eventually("a later write is held", || async {
        stage.proxy.metric("maia_proxy_held_requests").await == 1
    })
    .await;
    stage.origin.state.release.notify_one();
    assert_eq!(slow.response().await.status, 200);
    eventually("the tenant is drained", || async {
        drained(&stage.coordinator).contains(&here)
    })
    .await;
    assert_eq!(stage.origin.asked().len(), 1, "the later one still waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_not_in_flight_and_a_read_never_is() {
    let stage = Stage::new(&[]).await;
    let mut read = stage.proxy.client().await;
    read.send(request("GET", "/never", "here", "", "")).await;
    let mut write = stage.proxy.client().await;
    let half =
        "PUT /v1/x HTTP/1.1\r\nHost: a\r\nX-MAIA-Tenant-ID: here\r\nContent-Length: 9\r\n\r\nb";
    write.send(half).await;
    eventually("the read is at the origin", || async {
        !stage.origin.asked().is_empty()
    })
    .await;
    stage.coordinator.commit(held("here", 5)).await;
    drop(write);
    eventually("the tenant is drained", || async {
        drained(&stage.coordinator).contains(&("here".to_owned(), 5))
    })
    .await;
}
