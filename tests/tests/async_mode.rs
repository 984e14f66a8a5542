//! In async mode a write is answered when it is on its leader's disk. A leader that is cut off while it
//! does so comes back, and each write that it acknowledged is found again: nothing is silent (I3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use maia_tests::client::{Client, Request};
use maia_tests::cluster::SOON;
use maia_tests::metrics::Metrics;
use maia_tests::{Cluster, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const TENANT: &str = "acme";
const TOKEN: &str = "x-maia-consistency-token";
const CLIENTS: usize = 8;
/// Acknowledged before anything is cut off.
const WARM_UP_WRITES: usize = 20;

async fn metrics(cluster: &Cluster, i: usize) -> Metrics {
    let request = cluster.api(i, Method::GET, "/metrics");
    let answer = cluster.client.send(&request).await;
    Metrics::parse(&String::from_utf8_lossy(&answer.body))
}

fn request(cluster: &Cluster, i: usize, method: Method, path: &str) -> Request {
    let request = cluster.api(i, method, path);
    request.header("x-maia-tenant-id", TENANT)
}

/// Places the tenant everywhere; returns its group.
async fn place(cluster: &Cluster) -> Value {
    let group = cluster.place(TENANT, 0, &[1, 2]).await["group"].clone();
    let names: Vec<&str> = [1, 2].map(|i| cluster.region(i).name.as_str()).into();
    let spec = json!({
        "primary_region": cluster.region(0).name, "replicas": names, "sync_mode": "async",
    });
    let answer = cluster.put_placement(0, TENANT, &spec).await;
    answer.expect_success("async");
    group
}

/// An acknowledged write, and its token.
type Acked = (String, String);

/// Clients that write one resource after the other, until a write is not acknowledged or they are told.
struct Writers {
    acked: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
    clients: JoinSet<Vec<Acked>>,
}

impl Writers {
    fn start(cluster: &Cluster, at: usize) -> Self {
        let mut writers = Self {
            acked: Arc::default(),
            enough: Arc::default(),
            clients: JoinSet::new(),
        };
        for n in 0..CLIENTS {
            let put = request(cluster, at, Method::PUT, "/v1/data/k").body("1");
            let (acked, enough) = (Arc::clone(&writers.acked), Arc::clone(&writers.enough));
            let client = cluster.client.clone();
            writers.clients.spawn(write(client, put, n, acked, enough));
        }
        writers
    }

    async fn end(self) -> Vec<Acked> {
        self.enough.store(true, Ordering::Relaxed);
        self.clients.join_all().await.concat()
    }
}

async fn write(
    client: Client,
    put: Request,
    name: usize,
    count: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
) -> Vec<Acked> {
    let mut acked = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        let id = format!("w{name}-{}", acked.len());
        let mut put = put.clone();
        put.url = format!("{}/{id}", put.url);
        match client.try_send(&put).await {
            Ok(answer) if answer.is_success() => {
                let token = answer.header(TOKEN).expect("a token").to_owned();
                acked.push((id, token));
                count.fetch_add(1, Ordering::Relaxed);
            }
            _ => break,
        }
    }
    acked
}

/// How the leader loses its followers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Killed: what was on its way to them is gone.
    Killed,
    /// Stopped: what was on its way still arrives.
    Stopped,
}

impl Loss {
    async fn strike(self, cluster: &Cluster, i: usize) {
        match self {
            Self::Killed => cluster.kill_coordinator(i).await,
            Self::Stopped => signal(cluster, i, "stop").await,
        }
    }

    async fn mend(self, cluster: &Cluster, i: usize) {
        match self {
            Self::Killed => {
                let id = cluster.region(i).coordinator_id.to_string();
                let restart = ["cluster", "restart", "--no-wait", "--node", &id];
                cluster.run(&restart).await;
            }
            Self::Stopped => signal(cluster, i, "cont").await,
        }
    }
}

async fn signal(cluster: &Cluster, i: usize, verb: &str) {
    let id = cluster.region(i).coordinator_id.to_string();
    cluster.run(&["cluster", verb, "--node", &id]).await;
}

/// The leader loses its followers while it is written to, is stopped itself, and comes back when
/// the others have gone on. Returns it, and what was acknowledged.
async fn cut_off(cluster: &Cluster, group: &Value, loss: Loss) -> (usize, Vec<Acked>) {
    let leader = cluster.leader_of(group).await;
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let writers = Writers::start(cluster, leader);
    wait_until(SOON, "writes get through", || async {
        writers.acked.load(Ordering::Relaxed) >= WARM_UP_WRITES
    })
    .await;
    for other in &others {
        loss.strike(cluster, *other).await;
    }
    wait_until(SOON, "the leader is alone", || async {
        let health = cluster.api(leader, Method::GET, "/v1/replication/health");
        let health = cluster.client.send(&health).await.json();
        let leaderless = health["leaderless"].as_array();
        leaderless.is_some_and(|groups| groups.contains(group))
    })
    .await;
    signal(cluster, leader, "stop").await;
    for other in &others {
        loss.mend(cluster, *other).await;
    }
    let probe = request(cluster, others[0], Method::PUT, "/v1/data/k/probe").body("1");
    wait_until(SOON, "the others go on without it", || async {
        let answer = cluster.client.try_send(&probe).await;
        answer.is_ok_and(|answer| answer.is_success())
    })
    .await;
    writers.enough.store(true, Ordering::Relaxed);
    signal(cluster, leader, "cont").await;
    (leader, writers.end().await)
}

/// Every acknowledged write is there, in every region; returns how many of their tokens are of a position
/// that was cut off.
async fn found(cluster: &Cluster, acked: &[Acked]) -> usize {
    let mut diverged = 0;
    for i in 0..3 {
        for (id, token) in acked {
            let read = request(cluster, i, Method::GET, &format!("/v1/data/k/{id}"));
            wait_until(SOON, &format!("{id} is in region {i}"), || async {
                cluster.client.send(&read).await.status == 200
            })
            .await;
            let answer = cluster.client.send(&read.header(TOKEN, token)).await;
            if answer.status == 409 {
                answer.expect_problem(409, "diverged_history");
                diverged += 1;
            } else {
                answer.expect_success("a read of one's own write");
            }
        }
    }
    diverged
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_commit() {
    let cluster = Cluster::start().await;
    let group = place(&cluster).await;
    let leader = cluster.leader_of(&group).await;
    for n in 0..WARM_UP_WRITES {
        let path = format!("/v1/data/k/{n}");
        let put = request(&cluster, leader, Method::PUT, &path).body("1");
        let answer = cluster.client.send(&put).await.expect_success("a put");
        let token = answer.header(TOKEN).expect("a token");
        let read = request(&cluster, leader, Method::GET, &path).header(TOKEN, token);
        cluster.client.send(&read).await.expect_success("a read");
        let delete = request(&cluster, leader, Method::DELETE, &format!("{path}-not"));
        assert_eq!(cluster.client.send(&delete).await.status, 204);
        let create = request(&cluster, leader, Method::PUT, &format!("{path}-new"))
            .header("if-none-match", "*")
            .body("1");
        let answer = cluster.client.send(&create).await;
        assert_eq!(
            (answer.status, &answer.json()["created"]),
            (201, &json!(true))
        );
    }
    let early = metrics(&cluster, leader).await;
    let early = early.sum("maia_replication_early_total", &[]);
    assert!(early > 0.0, "no write was answered early");
}

#[tokio::test]
async fn what_a_cut_off_leader_acknowledged_is_found_again() {
    let cluster = Cluster::start().await;
    let group = place(&cluster).await;
    let (leader, acked) = cut_off(&cluster, &group, Loss::Killed).await;
    let diverged = found(&cluster, &acked).await;
    assert!(diverged > 0, "nothing was answered while it was cut off");
    let strategy = "strategy=\"last-write-wins\"";
    // Each was read in three regions.
    let cut_off = f64::from(u32::try_from(diverged / 3).expect("few"));
    wait_until(
        SOON,
        "the quarantine is empty, and they are counted",
        || async {
            let metrics = metrics(&cluster, leader).await;
            let labels = [strategy, "outcome=\"won\""];
            let won = metrics.sum("maia_replication_conflicts_total", &labels);
            won >= cut_off && metrics.sum("maia_quarantine_entries", &[]) == 0.0
        },
    )
    .await;
}

#[tokio::test]
async fn what_was_on_its_way_to_stopped_followers_is_not_lost_either() {
    let cluster = Cluster::start().await;
    let group = place(&cluster).await;
    let (_, acked) = cut_off(&cluster, &group, Loss::Stopped).await;
    assert!(acked.len() >= WARM_UP_WRITES);
    found(&cluster, &acked).await;
}
