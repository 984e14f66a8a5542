//! Following the feed: in force quickly, acknowledged, from whoever lives.

use maia_common::wire::feed::{self as wire, down::Kind, up};

use crate::support::coordinator::{Coordinator, World, tenant};
use crate::support::origin::FakeOrigin;
use crate::support::{ProxyProcess, Stage, eventually, request};

fn place(name: &str, group: u64) -> wire::Changes {
    wire::Changes {
        tenants: vec![tenant(name, group)],
        ..Default::default()
    }
}

fn applied(coordinator: &Coordinator) -> Vec<u64> {
    let heard = coordinator.heard();
    let applied = heard.into_iter().filter_map(|u| match u.kind {
        Some(up::Kind::Applied(a)) => Some(a.revision),
        _ => None,
    });
    applied.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_comes_into_force_and_is_acknowledged() {
    let stage = Stage::new(&[]).await;
    let revision = stage.coordinator.commit(place("new", 1)).await;
    eventually("the change is acknowledged", || async {
        applied(&stage.coordinator).contains(&revision)
    })
    .await;
    assert_eq!(
        stage
            .proxy
            .ask(&request("PUT", "/v1/x", "new", "", ""))
            .await
            .status,
        200
    );
    assert_eq!(
        stage.proxy.metric("maia_proxy_apply_seconds_count").await,
        1
    );
    assert_eq!(stage.proxy.metric("maia_proxy_table_tenants").await, 6);
    assert_eq!(stage.proxy.metric("maia_proxy_revision").await, revision);
    assert!(
        stage
            .proxy
            .metric_seconds("maia_proxy_placement_age_seconds")
            .await
            < 2.0
    );
    let gone = wire::Changes {
        removed_tenants: vec!["new".into()],
        ..Default::default()
    };
    let revision = stage.coordinator.commit(gone).await;
    eventually("the removal is acknowledged", || async {
        applied(&stage.coordinator).contains(&revision)
    })
    .await;
    assert_eq!(
        stage
            .proxy
            .ask(&request("PUT", "/v1/x", "new", "", ""))
            .await
            .code(),
        "unknown_tenant"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_snapshot_nothing_is_served() {
    let origin = FakeOrigin::start().await;
    let (_kept, nobody) = crate::support::nobody();
    let proxy = ProxyProcess::start(&[nobody], origin.address, &[]).await;
    eventually("the admin listener answers", || async {
        proxy.admin("/livez").await.is_some()
    })
    .await;
    let ready = proxy.admin("/readyz").await.unwrap();
    assert_eq!(
        (ready.status, &ready.json()["latches"]["placements_known"]),
        (503, &false.into())
    );
    let response = proxy.ask(&request("GET", "/v1/x", "here", "", "")).await;
    assert_eq!(
        (response.status, response.code().as_str()),
        (503, "unavailable")
    );
    assert!(origin.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_coordinator_takes_over_from_one_that_dies() {
    let mut first = Coordinator::start(World::three_regions()).await;
    let second = Coordinator::start(World::three_regions()).await;
    let origin = FakeOrigin::start().await;
    let proxy = ProxyProcess::start(&[first.address, second.address], origin.address, &[]).await;
    proxy.ready().await;
    first.commit(place("new", 1)).await;
    second.commit(place("new", 1)).await;
    first.stop();
    eventually("the second is followed", || async {
        second.subscribers() == 1
    })
    .await;
    eventually("the second hears how far the proxy is", || async {
        applied(&second).contains(&11)
    })
    .await;
    second.commit(place("newer", 1)).await;
    eventually("the second's changes are in force", || async {
        proxy.explain("tenant=newer&method=PUT").await["decision"] == "local"
    })
    .await;
    let hello = second.heard().remove(0);
    let Some(up::Kind::Hello(hello)) = hello.kind else {
        panic!("a hello first");
    };
    assert_eq!(
        (hello.last_revision, hello.generation, hello.proxy.as_str()),
        (11, 1, "proxy-a")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_falls_silent_or_knows_less_is_left() {
    let mut first = Coordinator::start(World::three_regions()).await;
    let mut old = World::three_regions();
    old.revision = 3;
    old.changes.tenants.clear();
    let behind = Coordinator::start(old).await;
    let third = Coordinator::start(World::three_regions()).await;
    let origin = FakeOrigin::start().await;
    let all = [first.address, behind.address, third.address];
    let proxy = ProxyProcess::start(&all, origin.address, &[]).await;
    proxy.ready().await;
    first.fall_silent();
    eventually("the third is followed", || async {
        third.subscribers() == 1
    })
    .await;
    let asked = |up: &wire::Up| matches!(up.kind, Some(up::Kind::Hello(_)));
    let hellos = behind.heard().iter().filter(|up| asked(up)).count();
    assert_eq!(hellos, 1, "asked, and left");
    let explained = proxy.explain("tenant=here&method=PUT").await;
    assert_eq!(explained["facts"]["revision"], 10, "never back (I4)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_leads_to_a_snapshot() {
    let stage = Stage::new(&[]).await;
    let gap = wire::Delta {
        from_revision: 50,
        revision: 51,
        committed_unix_us: 1,
        changes: Some(place("ghost", 1)),
    };
    stage.coordinator.tell(Kind::Delta(gap)).await;
    let hellos = || {
        let heard = stage.coordinator.heard();
        heard
            .into_iter()
            .filter(|u| matches!(&u.kind, Some(up::Kind::Hello(h)) if h.last_revision == 0))
            .count()
    };
    eventually("a snapshot is asked for", || async { hellos() == 2 }).await;
    stage.coordinator.commit(place("new", 1)).await;
    eventually("the feed goes on", || async {
        stage.proxy.explain("tenant=new&method=PUT").await["decision"] == "local"
    })
    .await;
    assert_eq!(
        stage.proxy.explain("tenant=ghost").await["error"],
        "unknown_tenant"
    );
}

/// Two proxies of one id push each other out: each at once, without end.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_end_at_once_are_not_asked_for_at_once() {
    let mut world = World::three_regions();
    world.ends = true;
    let coordinator = Coordinator::start(world).await;
    let origin = FakeOrigin::start().await;
    let _proxy = ProxyProcess::start(&[coordinator.address], origin.address, &[]).await;
    eventually("it is asked", || async { !coordinator.heard().is_empty() }).await;
    let began = std::time::Instant::now();
    let hellos = || {
        let heard = coordinator.heard().into_iter();
        heard
            .filter(|u| matches!(u.kind, Some(up::Kind::Hello(_))))
            .count()
    };
    eventually("it is asked again and again", || async { hellos() >= 5 }).await;
    // 25, 50, 100 and 200 ms at least.
    assert!(began.elapsed().as_millis() >= 300, "{:?}", began.elapsed());
}

/// A coordinator that is cut off itself knows no more than we do.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_without_a_leader_is_told_of_and_does_not_vouch() {
    let mut stage = Stage::new(&[]).await;
    stage.coordinator.fall_silent(); // but for what is told here
    let mut age = 0.0;
    for _ in 0..3 {
        let alive = wire::Alive {
            revision: 10,
            leaderless: true,
        };
        stage.coordinator.tell(Kind::Alive(alive)).await;
        eventually("it is told", || async {
            stage.proxy.readyz("feed_leaderless").await == true
        })
        .await;
        let name = "maia_proxy_placement_age_seconds";
        let now = stage.proxy.metric_seconds(name).await;
        assert!(now > age, "it grows: {now} after {age}");
        age = now;
    }
    assert_eq!(stage.proxy.metric("maia_proxy_feed_leaderless").await, 1);
}
