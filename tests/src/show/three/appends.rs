//! Single-entry appends: 64 clients, values of 256 bytes, three nodes on this machine, every write on
//! disk at a majority before it is answered. Ours by HTTP at the leader (semi-sync, one follower),
//! etcd's puts by gRPC at its leader, each with a client of its own protocol in this one process; in
//! turn, round by round, so that what else the machine does falls on both. The clients share the
//! processors with the nodes, so what they take is told, too.

use std::time::{Duration, Instant};

use futures::future::join_all;

use super::etcd::Etcd;
use super::puts::Puts;
use crate::Cluster;
use crate::show::Report;
use crate::show::two::process::cpu_time;

pub(super) const CLIENTS: usize = 64;
pub(super) const VALUE: [u8; 256] = [b'v'; 256];
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
    /// Of the three nodes.
    cpu: Duration,
    /// Of this process.
    own_cpu: Duration,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.latencies_us.extend(other.latencies_us);
        self.refused += other.refused;
        self.cpu += other.cpu;
        self.own_cpu += other.own_cpu;
    }

    fn per_second(&self) -> f64 {
        self.latencies_us.len() as f64 / ROUND.as_secs_f64()
    }

    /// Throughput over all rounds, latencies, processor time of the three nodes and of the clients.
    fn tell(&mut self) -> String {
        self.latencies_us.sort_unstable();
        let count = self.latencies_us.len().max(1);
        let at = |share: f64| {
            let place = (count as f64 * share) as usize;
            let us = self.latencies_us.get(place.min(count - 1));
            us.copied().unwrap_or_default() as f64 / 1000.0
        };
        let us_each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count as f64;
        format!(
            "{:.0} a second, p50 {:.1} ms, p99 {:.1} ms, CPU {:.0} µs each (clients {:.0} more), \
             {} refused",
            self.per_second() / ROUNDS as f64,
            at(0.5),
            at(0.99),
            us_each(self.cpu),
            us_each(self.own_cpu),
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
    let before = Used::by(&etcd.pids());
    let clients = join_all((0..CLIENTS).map(client)).await;
    gather(clients, before)
}

async fn of_ours(cluster: &Cluster, leader: usize) -> Seen {
    let files = cluster.files_now();
    let pids: Vec<i32> = files.regions.iter().map(|r| r.coordinator_pid).collect();
    let (url, token) = (&files.regions[leader].api_url, &files.admin_token);
    let connect = |_| async { Puts::connect(url, token, TENANT).await };
    let connections = join_all((0..CLIENTS).map(connect)).await;
    let client = |connection: std::io::Result<Puts>| async {
        let mut client = connection.expect("the leader listens");
        let mut seen = Seen::default();
        let end = Instant::now() + ROUND;
        while Instant::now() < end {
            let path = format!("/v1/data/appends/{}", key());
            let began = Instant::now();
            let put = client.put(&path, &VALUE).await;
            let is_broken = put.is_err();
            seen.note(put.unwrap_or(false), began);
            if is_broken {
                break;
            }
        }
        seen
    };
    let before = Used::by(&pids);
    let clients = join_all(connections.into_iter().map(client)).await;
    gather(clients, before)
}

/// Processor time that was used up to a moment.
struct Used {
    pids: Vec<i32>,
    nodes: Duration,
    own: Duration,
}

impl Used {
    fn by(pids: &[i32]) -> Self {
        Self {
            pids: pids.to_vec(),
            nodes: cpu_time(pids),
            own: cpu_time(&[own_pid()]),
        }
    }
}

pub(super) fn own_pid() -> i32 {
    i32::try_from(std::process::id()).expect("process ids are small")
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

fn gather(clients: Vec<Seen>, before: Used) -> Seen {
    let mut all = Seen::default();
    for seen in clients {
        all.add(seen);
    }
    all.cpu = cpu_time(&before.pids).saturating_sub(before.nodes);
    all.own_cpu = cpu_time(&[own_pid()]).saturating_sub(before.own);
    all
}

pub(super) fn key() -> String {
    format!("k{}", fastrand::usize(..KEYS))
}
