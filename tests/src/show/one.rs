//! `make show-01`: what the first slice must show, run against a real cluster.
//!
//! 1. Routing: a write at the wrong region, followed; a read with a preference; why.
//! 2. Placement changes at any coordinator, in force at every proxy: p99 over 200 changes.
//! 3. kill -9 of a group's leader under a small load, ten times: time to the next accepted write;
//!    acknowledged writes that are gone afterwards.
//!
//! `SHOW_COLD=1` also runs `make demo` and `make test` in a fresh Debian (`scripts/cold.sh`).

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::{Report, sized};
use crate::cluster::SOON;
use crate::load::Writer;
use crate::metrics::Histogram;
use crate::{Cluster, wait_until};

const CHANGES: usize = 200;
const APPLY_TARGET: Duration = Duration::from_millis(20);
const TENANT: &str = "shown";

/// Runs all of it.
pub async fn run(report: &mut Report) {
    let cluster = Cluster::start().await;
    let placement = cluster.place(TENANT, 1, &[0, 2]).await;
    routing(&cluster, report).await;
    apply(&cluster, report).await;
    failover(&cluster, &placement["group"], report).await;
    drop(cluster);
    cold(report);
}

async fn routing(cluster: &Cluster, report: &mut Report) {
    let path = "/v1/data/notes/shown?x=%2F";
    let write = cluster
        .through(0, TENANT, Method::PUT, path)
        .json(&json!({"n": 1}));
    let answer = cluster.client.send(&write).await;
    let expected = format!("{}{path}", cluster.region(1).proxy_url);
    let location = answer.header("location").unwrap_or("none").to_owned();
    let exact = answer.status == 307 && location == expected;
    report.line(
        "a misrouted write",
        &format!("{} to {location}", answer.status),
        exact,
    );

    let answer = cluster.client.follow(&write).await;
    let region = answer
        .header("x-maia-region")
        .unwrap_or("nobody")
        .to_owned();
    let stored = answer.is_success() && region == cluster.region(1).name;
    report.line(
        "followed, body kept",
        &format!("{} by {region}", answer.status),
        stored,
    );

    let name = &cluster.region(1).name;
    let read = cluster.through(0, TENANT, Method::GET, path);
    let read = read.header("x-maia-preferred-region", name);
    let answer = cluster.client.follow(&read).await;
    let region = answer
        .header("x-maia-region")
        .unwrap_or("nobody")
        .to_owned();
    let landed = region == *name && answer.json() == json!({"n": 1});
    report.line(
        "a read that prefers it",
        &format!("{} by {region}", answer.status),
        landed,
    );

    let why = cluster
        .explain(0, TENANT, "PUT", "/v1/data/notes/shown", None)
        .await
        .to_string();
    report.line("why", &why, why.contains("write-to-primary"));
}

async fn apply(cluster: &Cluster, report: &mut Report) {
    let before = apply_seconds(cluster).await;
    let mut seen = Vec::new();
    for n in 0..CHANGES {
        let spec = json!({
            "primary_region": cluster.region(1).name,
            "replicas": [cluster.region(0).name, cluster.region(2).name],
            "write_routing": if n % 2 == 0 { "forward" } else { "redirect" },
        });
        let answer = cluster.put_placement(n % 3, TENANT, &spec).await;
        let answered = Instant::now();
        let answer = answer.expect_success("a placement change");
        cluster.in_force(TENANT, &answer.json()["version"]).await;
        seen.push(answered.elapsed());
    }
    let observed = apply_seconds(cluster).await.since(&before);
    let p99 = observed.quantile_bound(0.99);
    let figure = format!(
        "p50 ≤ {} ms, p99 ≤ {} ms over {CHANGES} changes at all coordinators, {} observations",
        observed.quantile_bound(0.5) * 1e3,
        p99 * 1e3,
        observed.count()
    );
    let all_seen = observed.count() >= (CHANGES * 3) as f64;
    let holds = all_seen && p99 <= APPLY_TARGET.as_secs_f64();
    report.line(
        "in force at every proxy (maia_proxy_apply_seconds)",
        &figure,
        holds,
    );
    seen.sort();
    let slow = seen.iter().filter(|took| **took > APPLY_TARGET).count();
    let p99 = seen[CHANGES * 99 / 100];
    let figure = format!(
        "p50 {:?}, p99 {p99:?}, {slow} above {APPLY_TARGET:?} (answer to the PUT → /explain of every proxy)",
        seen[CHANGES / 2]
    );
    report.line(
        "the same, measured by the client",
        &figure,
        p99 <= APPLY_TARGET,
    );
}

/// Of all proxies together.
async fn apply_seconds(cluster: &Cluster) -> Histogram {
    let mut sum = Histogram::default();
    for i in 0..cluster.regions().len() {
        let metrics = cluster.proxy_metrics(i).await;
        sum = sum.plus(&metrics.histogram("maia_proxy_apply_seconds"));
    }
    sum
}

async fn failover(cluster: &Cluster, group: &serde_json::Value, report: &mut Report) {
    let kills_wanted = sized("SHOW_KILLS", 10);
    let mut gaps = Vec::new();
    let writer = Writer::new(cluster, TENANT, &[0, 1, 2], "w");
    let kills = async {
        for _ in 0..kills_wanted {
            let goal = writer.acked().len() + fastrand::usize(50..80);
            wait_until(SOON, "writes go on", || async {
                writer.acked().len() >= goal
            })
            .await;
            let leader = cluster.leader_of(group).await;
            let began = Instant::now();
            cluster.kill_coordinator(leader).await;
            // A write that began before it was dead may have been its last.
            let dead = Instant::now();
            wait_until(SOON, "writes resume", || async {
                writer.first_begun_after(dead).is_some()
            })
            .await;
            gaps.push(gap(&writer, began));
            cluster.restart_coordinator(leader).await;
            caught_up(cluster, &writer, leader).await;
        }
    };
    tokio::select! { () = kills => {}, () = writer.run() => {} }
    gaps.sort();
    let each: Vec<String> = gaps.iter().map(|gap| gap.as_millis().to_string()).collect();
    let figure = format!(
        "p50 {} ms, worst {} ms of {kills_wanted}: {} (ms without an accepted write)",
        gaps[gaps.len() / 2].as_millis(),
        gaps[gaps.len() - 1].as_millis(),
        each.join(" ")
    );
    report.line("kill -9 of the leader", &figure, gaps.len() == kills_wanted);
    let mut lost = Vec::new();
    for i in 0..cluster.regions().len() {
        lost.extend(writer.missing(cluster, i).await);
    }
    let figure = format!(
        "{} lost of {} acknowledged, read back in every region; {} attempts were not acknowledged",
        lost.len(),
        writer.acked().len(),
        writer.refused().len()
    );
    report.line("acknowledged writes", &figure, lost.is_empty());
}

/// From the last acknowledgement before the kill took effect to the next one after it: what a
/// client sees. Bounded below by the pause between two writes.
fn gap(writer: &Writer, killed: Instant) -> Duration {
    let acked = writer.acked();
    let around = acked
        .iter()
        .position(|write| write.answered >= killed)
        .unwrap_or(0)
        .max(1);
    let pairs = acked[around - 1..].windows(2);
    pairs
        .map(|pair| pair[1].answered - pair[0].answered)
        .max()
        .unwrap_or_default()
}

/// Waits until the node that came back serves the newest write from its own copy.
async fn caught_up(cluster: &Cluster, writer: &Writer, i: usize) {
    let newest = writer.acked().last().expect("writes went on").id.clone();
    let read = cluster.through(i, TENANT, Method::GET, &format!("/v1/data/load/{newest}"));
    wait_until(SOON, "the node has caught up", || async {
        cluster
            .client
            .try_send(&read)
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await;
}

fn cold(report: &mut Report) {
    if std::env::var_os("SHOW_COLD").is_none() {
        report.skipped(
            "`make demo` and `make test` in a fresh Debian",
            "`make cold`, or SHOW_COLD=1: an hour on two cores, RocksDB is compiled from its sources",
        );
        return;
    }
    let began = Instant::now();
    let status = std::process::Command::new("scripts/cold.sh").status();
    let holds = status.is_ok_and(|status| status.success());
    let minutes = began.elapsed().as_secs() / 60;
    report.line(
        "from nothing, in a fresh Debian",
        &format!("{minutes} minutes"),
        holds,
    );
}
