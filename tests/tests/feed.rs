//! The feed as proxies and operators see it, on a real cluster: registration, lists, lookups, the
//! switch between coordinators, and a crowd of which one member stops reading.

use std::time::Duration;

use maia_common::wire::feed::down::Kind;
use maia_common::wire::feed::{self as wire, up};
use maia_tests::cluster::SOON;
use maia_tests::feed_load::{self, Client, Plan, connect};
use maia_tests::{Cluster, wait_value};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// The registered proxies as coordinator `at` lists them, once as wanted.
async fn proxies(cluster: &Cluster, at: usize, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    wait_value(SOON, "the proxies are as they should be", || async {
        let list = cluster.api_get(at, "/admin/proxies").await;
        let list = list["proxies"].as_array().cloned().unwrap_or_default();
        wanted(&list).then_some(list)
    })
    .await
}

fn connected(list: &[Value]) -> usize {
    let there = list.iter().filter(|proxy| proxy["connected_to"].is_u64());
    there.count()
}

async fn registrations(cluster: &Cluster) -> usize {
    let events = cluster.api_get(0, "/admin/events?limit=1000").await;
    let events = events["events"].as_array().cloned().unwrap_or_default();
    let of = events.iter().filter(|e| e["kind"] == "proxy_registered");
    of.count()
}

#[tokio::test]
async fn a_proxy_registers_once_and_every_coordinator_lists_all() {
    let cluster = Cluster::start().await;
    let before = proxies(&cluster, 0, |list| connected(list) == 3).await;
    for at in 1..3 {
        let list = proxies(&cluster, at, |list| connected(list) == 3).await;
        for (one, other) in before.iter().zip(&list) {
            assert_eq!(one["id"], other["id"]);
            assert_eq!(one["connected_to"], other["connected_to"]);
            assert!(other["last_seen_ms"].is_u64() && other["region"].is_string());
        }
    }
    for at in 0..3 {
        cluster.kill_coordinator(at).await;
        cluster.restart_coordinator(at).await;
    }
    let after = proxies(&cluster, 1, |list| connected(list) == 3).await;
    for (one, other) in before.iter().zip(&after) {
        assert_eq!(one["registered_at"], other["registered_at"]);
    }
    assert_eq!(registrations(&cluster).await, 3, "no reconnect is written");
}

#[tokio::test]
async fn a_proxy_is_removed_once_it_is_gone_and_registers_anew_when_it_returns() {
    let cluster = Cluster::start().await;
    proxies(&cluster, 0, |list| connected(list) == 3).await;
    let id = cluster.region(2).proxy_id.clone();
    let path = format!("/admin/proxies/{id}");
    let removal = cluster.api(0, Method::DELETE, &path);
    let refused = cluster.client.send(&removal).await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert_eq!(refused.json()["code"], "proxy_connected");
    cluster.run(&["cluster", "kill", "--node", &id]).await;
    proxies(&cluster, 1, |list| connected(list) == 2).await;
    cluster.run(&["proxy", "remove", &id, "--yes"]).await;
    proxies(&cluster, 1, |list| list.len() == 2).await;
    let unknown = cluster.client.send(&removal).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
    cluster.run(&["cluster", "restart", "--node", &id]).await;
    proxies(&cluster, 1, |list| connected(list) == 3).await;
    let list = cluster.run(&["proxy", "list"]).await;
    assert!(
        list.contains("CONNECTED TO") && list.contains(&id),
        "{list}"
    );
}

async fn follow(
    client: &mut Client,
    last_revision: u64,
) -> Result<(mpsc::Sender<wire::Up>, Streaming<wire::Down>), Status> {
    let (ups, queue) = mpsc::channel(64);
    let hello = wire::Hello {
        format: 1,
        proxy: "tested".into(),
        region: "tested".into(),
        last_revision,
        generation: 1,
        topology_only: false,
    };
    let kind = Some(up::Kind::Hello(hello));
    ups.send(wire::Up { kind }).await.expect("there is room");
    let answer = client.subscribe(ReceiverStream::new(queue)).await?;
    Ok((ups, answer.into_inner()))
}

/// The tenant's version and the revision, once the stream has told of it; and whether a snapshot
/// came on the way.
async fn told_of(
    stream: &mut Streaming<wire::Down>,
    tenant: &str,
    mut at: u64,
) -> (u64, u64, bool) {
    use prost::Message;
    let mut snapshot = false;
    loop {
        let message = tokio::time::timeout(SOON, stream.message()).await;
        let down = message
            .expect("it tells soon")
            .expect("no error")
            .expect("no end");
        let changes = match down.kind {
            Some(Kind::SnapshotStart(start)) => {
                assert!(start.revision >= at, "it went back");
                (at, snapshot) = (start.revision, true);
                continue;
            }
            Some(Kind::SnapshotChunk(chunk)) => {
                wire::Changes::decode(chunk.changes).expect("changes")
            }
            Some(Kind::Delta(delta)) => {
                assert!(delta.from_revision <= at && delta.revision > at, "a gap");
                at = delta.revision;
                delta.changes.unwrap_or_default()
            }
            _ => continue,
        };
        if let Some(found) = changes.tenants.iter().find(|t| t.tenant == tenant) {
            return (found.version, at, snapshot);
        }
    }
}

#[tokio::test]
async fn a_switch_between_coordinators_never_goes_back() {
    let cluster = Cluster::start().await;
    cluster.place("acme", 0, &[1, 2]).await;
    let mut first = connect(&cluster, 0, &["tested".to_owned()]).await;
    let (ups, mut stream) = follow(&mut first, 0).await.expect("it is served");
    let (version, at, snapshot) = told_of(&mut stream, "acme", 0).await;
    assert!(snapshot);
    drop((ups, stream));
    cluster.kill_coordinator(0).await;
    let spec = json!({
        "primary_region": cluster.region(0).name,
        "replicas": [cluster.region(1).name, cluster.region(2).name],
        "write_routing": "forward",
    });
    wait_value(SOON, "the others go on", || async {
        let answer = cluster.put_placement(1, "acme", &spec).await;
        answer.is_success().then_some(())
    })
    .await;
    let mut second = connect(&cluster, 2, &["tested".to_owned()]).await;
    let (ups, mut stream) = follow(&mut second, at).await.expect("it is served");
    let (newer, at, snapshot) = told_of(&mut stream, "acme", at).await;
    assert!(newer > version && !snapshot, "only what was missed");
    drop((ups, stream));
    let refused = follow(&mut second, at + 1000)
        .await
        .expect_err("it is behind");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}

#[tokio::test]
async fn a_lookup_answers_one_tenant_and_places_it_when_told_to() {
    let cluster = Cluster::start().await;
    let mut client = connect(&cluster, 1, &["tested".to_owned()]).await;
    let mut request = wire::LookupRequest {
        proxy: "tested".into(),
        tenant: "newcomer".into(),
        generation: 1,
        at_least_revision: 1,
        create_under: String::new(),
    };
    let answer = client.lookup(request.clone()).await.expect("an answer");
    assert_eq!(answer.into_inner().tenant, None);
    request.create_under = json!({"primary_region": cluster.region(2).name}).to_string();
    let answer = wait_value(SOON, "it is placed", || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.lookup(request).await.ok() }
    })
    .await;
    let placed = answer.into_inner();
    let tenant = placed.tenant.expect("it has a placement now");
    assert_eq!((tenant.version, tenant.holding), (1, false));
    let shown = cluster.api_get(0, "/v1/placements/newcomer").await;
    assert_eq!(shown["home_region"], json!(cluster.region(2).name));
    request.at_least_revision = placed.revision;
    let mut elsewhere = connect(&cluster, 0, &["tested".to_owned()]).await;
    let again = elsewhere.lookup(request.clone()).await.expect("an answer");
    assert_eq!(again.into_inner().tenant, Some(tenant));
    request.at_least_revision = placed.revision + 10_000;
    let behind = client.lookup(request.clone()).await.expect_err("not yet");
    assert_eq!(behind.code(), Code::FailedPrecondition, "{behind}");
    request.at_least_revision = 0;
    request.tenant = "another".into();
    request.create_under = json!({"primary_region": "nowhere"}).to_string();
    let refused = client
        .lookup(request.clone())
        .await
        .expect_err("no such region");
    assert!(
        refused.message().contains("placement_conflict"),
        "{refused}"
    );
    request.create_under = "{".into();
    let refused = client.lookup(request).await.expect_err("no JSON");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

#[tokio::test]
async fn one_of_a_crowd_stops_reading_and_is_cut_off() {
    let cluster = Cluster::start().await;
    let plan = Plan {
        clients: 60,
        connections: 6,
        lasts: Duration::from_secs(4),
        tenants: 20,
        ..Plan::default()
    };
    let report = feed_load::run(&cluster, &plan).await;
    assert_eq!((report.faults, report.behind), (0, 0), "{report:?}");
    assert_eq!(report.refused_changes, 0, "{report:?}");
    assert!(report.all.count >= report.changes * 59, "{report:?}");
    let cut_off = report.cut_off_after_ms.expect("it was cut off");
    assert!((5_000..20_000).contains(&cut_off), "{report:?}");
    let status = report.cut_off_status.expect("it is told");
    assert!(status.contains("cut off"), "{status}");
}
