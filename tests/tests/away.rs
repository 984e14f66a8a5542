//! Those who were away for longer than the log is kept, and disks that are small for what is written.

use std::time::Duration;

use maia_tests::client::Answer;
use maia_tests::cluster::SOON;
use maia_tests::disk::SmallDisk;
use maia_tests::{Cluster, Options, wait_until, wait_value};
use reqwest::Method;
use serde_json::{Value, json};

const TENANT: &str = "acme";

async fn put(cluster: &Cluster, id: &str, body: Vec<u8>) -> Answer {
    let path = format!("/v1/data/notes/{id}");
    let put = cluster
        .through(0, TENANT, Method::PUT, &path)
        .body(body)
        .header("idempotency-key", format!("put-{id}-{}", fastrand::u64(..)));
    wait_value(Duration::from_secs(60), "the write is answered", || async {
        cluster.client.try_follow(&put).await.ok()
    })
    .await
}

/// What the node's log of the tenant has no more: the code, if it is so.
async fn code_after(cluster: &Cluster, i: usize, position: &str) -> String {
    let path = format!("/v1/replication/entries?tenant={TENANT}&after={position}");
    let answer = cluster
        .client
        .send(&cluster.api(i, Method::GET, &path))
        .await;
    if answer.is_success() {
        return String::new();
    }
    answer.code()
}

async fn reached(cluster: &Cluster, i: usize) -> String {
    let path = format!("/v1/replication/position?tenant={TENANT}");
    let answer = cluster.api_get(i, &path).await;
    let position = answer["positions"][0]["position"].as_str();
    position.expect("something is applied").to_owned()
}

/// The digests of the group on all nodes, once they are of one position.
async fn one_state(cluster: &Cluster, group: &Value) {
    wait_until(SOON, "all replicas are one (I13)", || async {
        let found = cluster.digests(group).await.unwrap_or_default();
        let parts = |d: &Value| ["term", "index", "digest"].map(|part| d[part].clone());
        found.len() == 3 && found.iter().all(|d| parts(d) == parts(&found[0]))
    })
    .await;
}

#[tokio::test]
async fn a_follower_away_for_longer_than_the_log_is_kept_comes_back_by_a_snapshot() {
    let options = Options::default().set("replication.retention_bytes=1000000");
    let cluster = Cluster::start_with(options).await;
    let placement = cluster.place(TENANT, 0, &[1, 2]).await;
    let group = &placement["group"];
    for n in 0..20 {
        let id = format!("before-{n}");
        put(&cluster, &id, vec![b'1'])
            .await
            .expect_success("before");
    }
    let leader = cluster.leader_of(group).await;
    let away = (leader + 1) % 3;
    let others = [leader, (leader + 2) % 3];
    wait_until(SOON, "it has what was written", || async {
        reached(&cluster, away).await == reached(&cluster, leader).await
    })
    .await;
    let left_at = reached(&cluster, away).await;
    cluster.kill_coordinator(away).await;
    let (mut written, began) = (0, std::time::Instant::now());
    loop {
        let large = vec![b'x'; 400_000];
        let id = format!("while-{}", written % 7);
        put(&cluster, &id, large).await.expect_success("while");
        written += 1;
        assert!(began.elapsed() < 4 * SOON, "the log is kept short");
        let mut gone = 0;
        for i in others {
            gone += u32::from(code_after(&cluster, i, &left_at).await == "not_retained");
        }
        if gone == 2 {
            break;
        }
    }
    cluster.restart_coordinator(away).await;
    let deleted = cluster.through(0, TENANT, Method::DELETE, "/v1/data/notes/before-0");
    let deleted = cluster.client.follow(&deleted).await;
    deleted.expect_success("delete");
    one_state(&cluster, group).await;
    assert_eq!(code_after(&cluster, away, &left_at).await, "not_retained");
    for (id, status) in [("before-0", 404), ("before-19", 200), ("while-0", 200)] {
        let read = cluster
            .api(away, Method::GET, &format!("/v1/data/notes/{id}"))
            .header("x-maia-tenant-id", TENANT);
        // Whoever has all from a snapshot does not know how old that is before the leader's next message.
        let read = wait_value(SOON, "it is read there", || async {
            let read = cluster.client.send(&read).await;
            read.header("x-maia-replica-lag-ms")
                .is_some()
                .then_some(read)
        })
        .await;
        assert_eq!(read.status, status, "{id}");
    }
    let stats = cluster.api_get(away, "/v1/replication/stats").await;
    let groups = stats["groups"].as_array().expect("groups");
    let mine = groups.iter().find(|of| of["group"] == *group);
    let oldest = mine.expect("its group")["oldest"].as_str();
    let index = |at: &str| at.rsplit('/').next().and_then(|i| i.parse::<u64>().ok());
    assert!(
        oldest.and_then(index) > index(&left_at),
        "what came with the snapshot is not in its log: {oldest:?}"
    );
}

/// A megabyte that does not compress.
fn noise() -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    fastrand::Rng::new().fill(&mut bytes);
    bytes
}

/// Three nodes write log and state, in all some times what their disk holds; the state is small: logs are cut and what
/// was dropped leaves the disk. Writes may be refused for want of room, never for good.
#[tokio::test]
#[ignore = "100 s: `make soak` runs it"]
async fn a_small_disk_takes_much_more_than_it_holds() {
    const MEGABYTES: u64 = 1600;
    let Some(disk) = SmallDisk::mount(MEGABYTES) else {
        println!("skipped: no right to mount a small file system");
        return;
    };
    let options = Options {
        dir: Some(disk.path().join("cluster")),
        ..Options::default()
    };
    let cluster = Cluster::start_with(options.set("replication.min_free_bytes=200000000")).await;
    let placement = cluster.place(TENANT, 0, &[1, 2]).await;
    let mut refused = 0;
    for n in 0..MEGABYTES * 3 / 4 {
        let id = format!("blob-{}", n % 10);
        loop {
            let answer = put(&cluster, &id, noise()).await;
            if answer.is_success() {
                break;
            }
            refused += 1;
            assert!(
                [507, 503].contains(&answer.status),
                "{n}: {}",
                answer.text()
            );
            assert!(refused < 1000, "{n}: no room comes back: {}", answer.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    println!("{refused} refused for a while");
    one_state(&cluster, &placement["group"]).await;
    let health = cluster.api_get(0, "/v1/replication/health").await;
    assert_eq!(health["under_replicated"], json!([]), "{health}");
}
