//! `proxy.unknown_tenant` as a placement: a tenant is placed at its first write, never by a read.

use crate::support::coordinator::{Coordinator, World};
use crate::support::{Stage, request};

const PLACED: &str = r#"proxy.unknown_tenant={"primary_region":"a","replicas":["b"]}"#;

fn put(tenant: &str) -> String {
    request("PUT", "/v1/x", tenant, "", "body")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_write_places_its_tenant_and_waits_until_that_is_in_force() {
    for table in ["proxy.table=full", "proxy.table=on-demand"] {
        let stage = Stage::new(&[PLACED, table]).await;
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
