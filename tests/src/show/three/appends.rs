//! Single-entry appends: 64 clients, values of 256 bytes, three nodes on this machine, every write on
//! disk at a majority before it is answered. Ours by HTTP at the leader (semi-sync, one follower),
//! etcd's puts by gRPC at its leader, each with the client that goes with it in this one process;
//! in turn, round by round, so that what else the machine does falls on both.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;

use super::etcd::Etcd;
use crate::client::Request;
use crate::show::Report;
use crate::show::two::process::cpu_time;
use crate::{Client, Cluster};

const CLIENTS: usize = 64;
const VALUE: [u8; 256] = [b'v'; 256];
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
const KEYS: usize = 100_000;
const TARGET: f64 = 3.0;
const TENANT: &str = "appends";

/// What one side did in one round, or in all.
#[derive(Default)]
struct Seen {
    latencies_us: Vec<u64>,
    refused: usize,
    cpu: Duration,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.latencies_us.extend(other.latencies_us);
        self.refused += other.refused;
        self.cpu += other.cpu;
    }

    fn per_second(&self) -> f64 {
        self.latencies_us.len() as f64 / ROUND.as_secs_f64()
    }

    /// Throughput over all rounds, latencies, processor time of the three nodes.
    fn tell(&mut self) -> String {
        self.latencies_us.sort_unstable();
        let count = self.latencies_us.len().max(1);
        let at = |share: f64| {
            let place = (count as f64 * share) as usize;
            let us = self.latencies_us.get(place.min(count - 1));
            us.copied().unwrap_or_default() as f64 / 1000.0
        };
        format!(
            "{:.0} a second, p50 {:.1} ms, p99 {:.1} ms, CPU {:.0} µs each, {} refused",
            self.per_second() / ROUNDS as f64,
            at(0.5),
            at(0.99),
            self.cpu.as_secs_f64() * 1e6 / count as f64,
            self.refused
        )
    }
}

/// Measures, and prints.
pub async fn run(report: &mut Report) {
    let Some(etcd) = Etcd::start().await else {
        let how = "etcd is not installed: scripts/setup.sh peers";
        return report.skipped("appends beside etcd", how);
    };
    let cluster = Cluster::start().await;
    let placement = cluster.place(TENANT, 0, &[1, 2]).await;
    let leader = cluster.leader_of(&placement["group"]).await;
    let (mut ours, mut theirs, mut ratios) = (Seen::default(), Seen::default(), Vec::new());
    for _ in 0..ROUNDS {
        let etcd_round = of_etcd(&etcd).await;
        let our_round = of_ours(&cluster, leader).await;
        ratios.push(our_round.per_second() / etcd_round.per_second().max(1.0));
        ours.add(our_round);
        theirs.add(etcd_round);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    report.line("etcd", &theirs.tell(), theirs.refused == 0);
    report.line("maia-coordinator", &ours.tell(), ours.refused == 0);
    let figure = format!("{ratio:.2} × etcd, median of {ROUNDS} rounds (target {TARGET})");
    report.line("single-entry appends", &figure, ratio >= TARGET);
}

async fn of_etcd(etcd: &Etcd) -> Seen {
    let before = cpu_time(&etcd.pids());
    let client = |_| async {
        let mut client = etcd.client();
        let mut seen = Seen::default();
        let end = Instant::now() + ROUND;
        while Instant::now() < end {
            let began = Instant::now();
            let acknowledged = client.put(&key(), &VALUE).await;
            seen.note(acknowledged, began);
        }
        seen
    };
    gather(join_all((0..CLIENTS).map(client)).await, || {
        cpu_time(&etcd.pids()).saturating_sub(before)
    })
}

async fn of_ours(cluster: &Cluster, leader: usize) -> Seen {
    let regions = cluster.files_now().regions;
    let pids: Vec<i32> = regions.iter().map(|r| r.coordinator_pid).collect();
    let before = cpu_time(&pids);
    let http = Client::default();
    let client = |_| async {
        let mut seen = Seen::default();
        let end = Instant::now() + ROUND;
        while Instant::now() < end {
            let path = format!("/v1/data/appends/{}", key());
            let put: Request = cluster.api(leader, Method::PUT, &path);
            let put = put.header("x-maia-tenant-id", TENANT).body(VALUE);
            let began = Instant::now();
            let answer = http.try_send(&put).await;
            seen.note(answer.is_ok_and(|a| a.is_success()), began);
        }
        seen
    };
    gather(join_all((0..CLIENTS).map(client)).await, || {
        cpu_time(&pids).saturating_sub(before)
    })
}

impl Seen {
    fn note(&mut self, acknowledged: bool, began: Instant) {
        if acknowledged {
            let us = began.elapsed().as_micros();
            self.latencies_us.push(us.try_into().unwrap_or(u64::MAX));
        } else {
            self.refused += 1;
        }
    }
}

fn gather(clients: Vec<Seen>, cpu: impl FnOnce() -> Duration) -> Seen {
    let mut all = Seen::default();
    for seen in clients {
        all.add(seen);
    }
    all.cpu = cpu();
    all
}

fn key() -> String {
    format!("k{}", fastrand::usize(..KEYS))
}
