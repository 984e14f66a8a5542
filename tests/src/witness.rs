//! A group with two copies and a witness under load while each of the three is killed in turn: what the
//! end-to-end test checks and `show 03` prints.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;

use crate::cluster::{Cluster, SOON};
use crate::load::Writer;
use crate::wait::{wait_until, wait_value};

/// The region of the witness of a tenant placed in the first region with a replica in the second.
pub const WITNESS: usize = 2;

/// One of the three was killed.
#[derive(Debug, Clone)]
pub struct Kill {
    /// Its part.
    pub part: &'static str,
    /// From then to the first acknowledged write that was begun later.
    pub waited: Duration,
}

/// Whether a leader lists the group under this name in its health.
pub async fn is_listed(cluster: &Cluster, name: &str, group: &Value) -> bool {
    for i in 0..2 {
        let asked = cluster.api(i, Method::GET, "/v1/replication/health");
        let Ok(answer) = cluster.client.try_send(&asked).await else {
            continue;
        };
        let health = answer.json();
        let of = health[name].as_array().cloned().unwrap_or_default();
        if of.contains(group) {
            return true;
        }
    }
    false
}

async fn waited(writer: &Writer, since: Instant) -> Duration {
    let first = wait_value(SOON, "writes go on", || async {
        writer.first_begun_after(since)
    });
    first.await.answered - since
}

/// Kills the witness, the copy that follows and the copy that leads, each after the one before is back
/// and both copies have everything.
pub async fn kill_each(cluster: &Cluster, writer: &Writer, group: &Value) -> Vec<Kill> {
    wait_value(SOON, "the load runs", || async {
        (writer.acked().len() > 50).then_some(())
    })
    .await;
    let mut kills = Vec::new();
    for (part, killed) in [("witness", WITNESS), ("follower", 1), ("leader", 0)] {
        if killed != WITNESS {
            let led = "the first region leads";
            wait_until(SOON, led, || async { cluster.leader_of(group).await == 0 }).await;
        }
        cluster.kill_coordinator(killed).await;
        let waited_for = waited(writer, Instant::now()).await;
        kills.push(Kill {
            part,
            waited: waited_for,
        });
        if killed != WITNESS {
            let free = "the witness stands in";
            wait_until(SOON, free, || is_listed(cluster, "witness_free", group)).await;
        }
        cluster.restart_coordinator(killed).await;
        let level = "both copies have everything";
        wait_until(SOON, level, || async {
            !is_listed(cluster, "witness_free", group).await
        })
        .await;
        waited(writer, Instant::now()).await;
    }
    kills
}
