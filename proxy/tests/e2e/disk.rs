//! The snapshot on disk: a proxy that starts alone serves what it knew; a damaged file is refused.

use std::time::{Duration, Instant};

use maia_common::wire::feed::{self as wire, up};

use crate::lifecycle::exit_code;
use crate::support::coordinator::{Coordinator, World, tenant};
use crate::support::{ProxyProcess, Stage, eventually, request};

const FROM_DISK: &str = "maia_proxy_placements_source{source=\"disk\"}";

async fn saved(proxy: &ProxyProcess) {
    eventually("the placements are saved", || async {
        !proxy.readyz("snapshot_age_ms").await.is_null()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_alone_serves_what_it_knew_and_catches_up() {
    let mut stage = Stage::new(&[]).await;
    assert_eq!(stage.proxy.readyz("placements").await, "feed");
    saved(&stage.proxy).await;
    let new = wire::Changes {
        tenants: vec![tenant("new", 1)],
        ..Default::default()
    };
    stage.coordinator.commit(new).await;
    eventually("the change is in force", || async {
        stage.proxy.metric("maia_proxy_revision").await == 11
    })
    .await;
    let address = stage.coordinator.address;
    stage.coordinator.stop();
    stage.proxy.signal("TERM");
    assert_eq!(exit_code(&mut stage.proxy).await, Some(0));

    stage.proxy.restart().await;
    stage.proxy.ready().await;
    let put = |tenant| request("PUT", "/v1/x", tenant, "", "");
    let here = stage.proxy.ask(&put("new")).await;
    assert_eq!(here.status, 200, "saved at the end");
    assert_eq!(stage.proxy.ask(&put("there")).await.status, 307);
    assert_eq!(stage.proxy.readyz("placements").await, "disk");
    assert_eq!(stage.proxy.readyz("feed_connected").await, false);
    assert_eq!(stage.proxy.metric(FROM_DISK).await, 1);
    let age = stage.proxy.readyz("placement_age_ms").await;
    assert!(age.as_u64().is_some_and(|ms| ms < 60_000), "{age}");
    let source = &stage.proxy.explain("tenant=new").await["facts"]["source"];
    assert_eq!(source, "disk");

    let mut world = World::three_regions();
    world.revision = 12;
    world.changes.tenants.push(tenant("newer", 1));
    let back = Coordinator::start_at(address, world).await;
    eventually("the proxy has caught up", || async {
        stage.proxy.explain("tenant=newer&method=PUT").await["decision"] == "local"
    })
    .await;
    assert_eq!(stage.proxy.readyz("placements").await, "feed");
    assert_eq!(stage.proxy.metric(FROM_DISK).await, 0);
    let Some(up::Kind::Hello(hello)) = back.heard().remove(0).kind else {
        panic!("a hello first");
    };
    assert_eq!((hello.last_revision, hello.generation), (11, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_knows_less_than_the_disk_is_left() {
    let mut stage = Stage::new(&[]).await;
    saved(&stage.proxy).await;
    let address = stage.coordinator.address;
    stage.coordinator.stop();
    stage.proxy.restart().await;
    let mut old = World::three_regions();
    old.revision = 3;
    old.changes.tenants.clear();
    let behind = Coordinator::start_at(address, old).await;
    eventually("it is asked, and asked again", || async {
        behind.heard().len() >= 2
    })
    .await;
    let explained = stage.proxy.explain("tenant=here&method=PUT").await;
    assert_eq!(explained["facts"]["revision"], 10, "never back (I4)");
    assert_eq!(explained["facts"]["source"], "disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_refused_and_written_anew() {
    let mut stage = Stage::new(&[]).await;
    saved(&stage.proxy).await;
    let path = stage.proxy.dir.path().join("placements.snapshot");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    stage.proxy.restart().await;
    assert!(
        stage
            .proxy
            .log()
            .contains("the snapshot on disk is refused")
    );
    stage.proxy.ready().await;
    assert_eq!(stage.proxy.readyz("placements").await, "feed");
    saved(&stage.proxy).await;
    let rebuilt = std::fs::read(&path).unwrap();
    assert_eq!(rebuilt.len(), bytes.len());
    assert!(path.with_extension("snapshot.refused").exists());
}

/// The tenant moved while the proxy was away: it must not pass a single write to the old home.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_disk_waits_for_a_coordinator_that_answers() {
    let mut stage = Stage::new(&[]).await;
    saved(&stage.proxy).await;
    let address = stage.coordinator.address;
    stage.coordinator.stop();
    let mut world = World::three_regions();
    world.revision = 12;
    world.delay = Duration::from_millis(500);
    world.changes.tenants.retain(|t| t.tenant != "here");
    world.changes.tenants.push(tenant("here", 2));
    let _back = Coordinator::start_at(address, world).await;
    stage.proxy.restart().await;
    let put = request("PUT", "/v1/x", "here", "", "");
    let mut first = stage.proxy.ask(&put).await;
    while first.status == 503 {
        first = stage.proxy.ask(&put).await;
    }
    assert_eq!(first.status, 307);
    assert_eq!(stage.proxy.readyz("placements").await, "feed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_says_nothing_is_waited_for_a_second() {
    let mut stage = Stage::new(&[]).await;
    saved(&stage.proxy).await;
    let address = stage.coordinator.address;
    stage.coordinator.stop();
    let mut world = World::three_regions();
    world.delay = Duration::from_secs(60);
    let _deaf = Coordinator::start_at(address, world).await;
    stage.proxy.restart().await;
    let began = Instant::now();
    stage.proxy.ready().await;
    let took = began.elapsed();
    assert!((500..2900).contains(&took.as_millis()), "{took:?}");
    assert_eq!(stage.proxy.readyz("placements").await, "disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_for_one_proxy() {
    let stage = Stage::new(&[]).await;
    let dir = format!("dir={}", stage.proxy.dir.path().display());
    let coordinators = [stage.coordinator.address];
    let mut other = ProxyProcess::spawn(&coordinators, stage.origin.address, &[&dir]);
    assert_eq!(exit_code(&mut other).await, Some(64));
    assert!(other.log().contains("another proxy uses"));
}
