//! A million tenants in one proxy: how much memory they take.

use crate::support::coordinator::{World, tenant};
use crate::support::{Stage, eventually};

const TENANTS: u64 = 1_000_000;

fn million(tells_how_many: bool) -> World {
    let mut world = World::three_regions();
    let names = (0..TENANTS).map(|n| tenant(&format!("tenant-{n:08}"), 1 + n % 3));
    world.changes.tenants = names.collect();
    world.tells_how_many = tells_how_many;
    world
}

/// Above an empty proxy, after the whole snapshot came in over the feed, at rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_takes_at_most_64_bytes() {
    let empty = Stage::new(&[]).await.proxy.memory_bytes();
    for tells_how_many in [true, false] {
        let stage = Stage::with(million(tells_how_many), &[]).await;
        let table = "maia_proxy_table_tenants";
        assert_eq!(stage.proxy.metric(table).await, TENANTS);
        let mut each = 0;
        eventually("memory of loading was given back", || {
            each = stage.proxy.memory_bytes().saturating_sub(empty) / TENANTS;
            async move { each <= 64 }
        })
        .await;
        println!("{each} bytes per tenant (told how many: {tells_how_many})");
        let explained = stage.proxy.explain("tenant=tenant-00999999&method=PUT");
        assert_eq!(explained.await["decision"], "local");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_tenants_from_disk_are_served_at_once() {
    let mut stage = Stage::with(million(true), &["proxy.access_log=false"]).await;
    eventually("the placements are saved", || async {
        !stage.proxy.readyz("snapshot_age_ms").await.is_null()
    })
    .await;
    stage.coordinator.stop();
    let started = std::time::Instant::now();
    stage.proxy.restart().await;
    stage.proxy.ready().await;
    let took = started.elapsed();
    println!("serving {took:?} after the start");
    assert!(took < std::time::Duration::from_secs(3), "{took:?}");
    let table = "maia_proxy_table_tenants";
    assert_eq!(stage.proxy.metric(table).await, TENANTS);
}
