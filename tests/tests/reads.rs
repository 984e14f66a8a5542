//! What a read sees: with a consistency token the write that it names, with `consistency=strong` all
//! that was acknowledged, and otherwise what the replica has, which says how old that may be.

use std::time::{Duration, Instant};

use maia_tests::client::{Answer, Request};
use maia_tests::cluster::SOON;
use maia_tests::{Cluster, wait_until};
use reqwest::Method;

const TOKEN: &str = "x-maia-consistency-token";
const LAG: &str = "x-maia-replica-lag-ms";
const PATH: &str = "/v1/data/notes/1";
/// Each write is read at once in another region: without a token most of these would be too early.
const ROUNDS: usize = 40;

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.place("acme", 0, &[1, 2]).await;
    cluster
}

fn at_api(cluster: &Cluster, i: usize, method: Method, path: &str) -> Request {
    cluster
        .api(i, method, path)
        .header("x-maia-tenant-id", "acme")
}

/// Writes through the primary region's proxy; returns the token of the write.
async fn write(cluster: &Cluster, path: &str, body: &str) -> String {
    let put = cluster
        .through(0, "acme", Method::PUT, path)
        .body(body.to_owned());
    let answer = cluster.client.follow(&put).await.expect_success("put");
    answer.header(TOKEN).expect("a token").to_owned()
}

fn lag_ms(answer: &Answer) -> u64 {
    let lag = answer.header(LAG).expect("how far it is behind");
    lag.parse().expect("milliseconds")
}

#[tokio::test]
async fn a_token_shows_ones_own_write_in_every_region() {
    let cluster = cluster().await;
    for n in 0..ROUNDS {
        let path = format!("/v1/data/notes/{n}");
        let token = write(&cluster, &path, &n.to_string()).await;
        for i in [1, 2] {
            let read = cluster.through(i, "acme", Method::GET, &path);
            let answer = cluster.client.send(&read.header(TOKEN, &token)).await;
            let answer = answer.expect_success("a read of one's own write");
            assert_eq!(answer.body, n.to_string().into_bytes());
            assert_eq!(
                answer.header("x-maia-region"),
                Some(cluster.region(i).name.as_str()),
                "served by the replica that was asked"
            );
        }
        let id = n.to_string();
        let list = format!("/v1/data/notes?prefix={id}&limit=1");
        let read = cluster.through(1, "acme", Method::GET, &list);
        let answer = cluster.client.send(&read.header(TOKEN, &token)).await;
        assert_eq!(answer.json()["items"][0]["id"], id.as_str());
    }
}

#[tokio::test]
async fn a_strong_read_at_a_follower_sees_what_was_acknowledged() {
    let cluster = cluster().await;
    for n in 0..ROUNDS {
        write(&cluster, PATH, &n.to_string()).await;
        for i in 0..3 {
            let path = format!("{PATH}?consistency=strong");
            let read = at_api(&cluster, i, Method::GET, &path);
            let answer = cluster.client.send(&read).await.expect_success("strong");
            assert_eq!(answer.body, n.to_string().into_bytes());
        }
    }
}

#[tokio::test]
async fn a_token_that_is_not_the_tenants_is_refused() {
    let cluster = cluster().await;
    let token = write(&cluster, PATH, "1").await;
    let read = |tenant: &str, token: &str| {
        let read = cluster.through(1, tenant, Method::GET, PATH);
        read.header(TOKEN, token)
    };
    cluster.place("other", 0, &[1, 2]).await;
    let mut forged = token.clone();
    forged.replace_range(20..21, if &token[20..21] == "A" { "B" } else { "A" });
    for (tenant, token) in [("other", token.as_str()), ("acme", &forged), ("acme", "x")] {
        let answer = cluster.client.send(&read(tenant, token)).await;
        answer.expect_problem(400, "invalid_request");
    }
    let twice = read("acme", &token).header(TOKEN, "x");
    let answer = cluster.client.send(&twice).await;
    answer.expect_problem(400, "invalid_request");

    // In another group nothing is known of what was written in the first.
    let delete = cluster.api(0, Method::DELETE, "/v1/placements/acme");
    cluster.client.send(&delete).await.expect_success("delete");
    cluster.place("acme", 1, &[]).await;
    let answer = cluster.client.send(&read("acme", &token)).await;
    answer.expect_problem(409, "diverged_history");
}

/// A replica that slept through a write, and is all that is left.
#[tokio::test]
async fn a_replica_without_the_tokens_write_says_so() {
    let cluster = Cluster::start().await;
    let group = cluster.place("acme", 0, &[1, 2]).await["group"].clone();
    let leader = cluster.leader_of(&group).await;
    let behind = (leader + 1) % 3;
    let others = [leader, (leader + 2) % 3];
    let first = write(&cluster, PATH, "old").await;
    let read = |token: &str| at_api(&cluster, behind, Method::GET, PATH).header(TOKEN, token);
    let answer = cluster.client.send(&read(&first)).await;
    let answer = answer.expect_success("it keeps up");
    assert!(lag_ms(&answer) < 1000, "{:?}", answer.headers);

    let id = cluster.region(behind).coordinator_id.to_string();
    cluster.run(&["cluster", "stop", "--node", &id]).await;
    let second = write(&cluster, PATH, "new").await;
    for i in others {
        cluster.kill_coordinator(i).await;
    }
    cluster.run(&["cluster", "cont", "--node", &id]).await;

    let asked = Instant::now();
    let answer = cluster.client.send(&read(&second)).await;
    answer.expect_problem(503, "not_yet");
    assert!(answer.header("retry-after").is_some());
    assert!(asked.elapsed() < Duration::from_secs(11), "bounded");
    let answer = cluster.client.send(&read(&first)).await;
    let answer = answer.expect_success("what it has is shown, and how old it is");
    assert_eq!(answer.body, b"old");
    wait_until(SOON, "it says how far it is behind", || async {
        lag_ms(&cluster.client.send(&read(&first)).await) > 2000
    })
    .await;

    for i in others {
        let id = cluster.region(i).coordinator_id.to_string();
        cluster
            .run(&["cluster", "restart", "--no-wait", "--node", &id])
            .await;
    }
    wait_until(SOON, "it has caught up", || async {
        let answer = cluster.client.send(&read(&second)).await;
        answer.is_success() && answer.body == b"new"
    })
    .await;
}
