//! `proxy.unknown_tenant` as a placement: a tenant is placed at its first write, never by a read.

use crate::support::coordinator::{Coordinator, World};
use crate::support::{Stage, request};

const PLACED: &str = r#"proxy.unknown_tenant={"primary_region":"a","replicas":["b"]}"#;

/// Longer than a busy machine takes; what is placed in time is not what these tests look at.
const PATIENT: &str = "proxy.hold_budget=10s";

fn put(tenant: &str) -> String {
    request("PUT", "/v1/x", tenant, "", "body")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_write_places_its_tenant_and_waits_until_that_is_in_force() {
    for table in ["proxy.table=full", "proxy.table=on-demand"] {
        let stage = Stage::new(&[PLACED, PATIENT, table]).await;
        let read = stage
            .proxy
            .ask(&request("GET", "/v1/x", "new", "", ""))
            .await;
        assert_eq!((read.status, read.code().as_str()), (404, "unknown_tenant"));
        let placing = |coordinator: &Coordinator| {
            let lookups = coordinator.lookups().into_iter();
            lookups
                .filter(|l| !l.create_under.is_empty())
                .collect::<Vec<_>>()
        };
        assert!(
            placing(&stage.coordinator).is_empty(),
            "a read places nobody"
        );
        let write = stage.proxy.ask(&put("new")).await;
        assert_eq!(write.status, 200, "{write:?}");
        assert_eq!(write.json()["body_bytes"], 4);
        let lookups = placing(&stage.coordinator);
        assert_eq!((lookups.len(), lookups[0].tenant.as_str()), (1, "new"));
        let spec: serde_json::Value = serde_json::from_str(&lookups[0].create_under).unwrap();
        assert_eq!(spec["replicas"], serde_json::json!(["b"]));
        assert_eq!(stage.proxy.ask(&put("new")).await.status, 200);
        assert_eq!(placing(&stage.coordinator).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_write_without_a_coordinator_is_told_to_come_back() {
    let mut stage = Stage::with(World::three_regions(), &[PLACED, "proxy.hold_budget=300ms"]).await;
    stage.coordinator.hang(true);
    for _ in 0..2 {
        let write = stage.proxy.ask(&put("new")).await;
        assert_eq!((write.status, write.code().as_str()), (503, "unavailable"));
        assert_eq!(write.header("retry-after"), Some("1"));
        stage.coordinator.stop();
    }
    assert!(stage.origin.asked().is_empty());
}

/// Each is a record for good on every voter: names that somebody makes up must not make many.
#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_placed_at_a_bounded_rate_and_others_are_served() {
    let stage = Stage::new(&[PLACED, PATIENT, "proxy.placings_per_second=1"]).await;
    let explained = stage.proxy.explain("tenant=new&method=PUT").await;
    assert_eq!(explained["decision"], "place");
    let mut clients = Vec::new();
    for number in 0..25 {
        let mut client = stage.proxy.client().await;
        client.send(put(&format!("new{number}"))).await;
        clients.push(client);
    }
    let mut limited = 0;
    for client in &mut clients {
        let response = client.response().await;
        if response.status == 503 {
            assert_eq!(response.code(), "unavailable");
            limited += 1;
        }
    }
    assert!((5..=15).contains(&limited), "{limited} of 25, 10 at once");
    let placings = |outcome| format!("maia_proxy_placings_total{{outcome=\"{outcome}\"}}");
    assert_eq!(stage.proxy.metric(&placings("limited")).await, limited);
    assert_eq!(stage.proxy.metric(&placings("placed")).await, 25 - limited);
    assert_eq!(stage.proxy.ask(&put("here")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn first_writes_of_one_tenant_place_it_once() {
    let stage = Stage::new(&[PLACED, PATIENT]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = stage.proxy.client().await;
        client.send(put("new")).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
    }
    assert_eq!(stage.coordinator.lookups().len(), 1);
}
