//! Many proxies on the feed, simulated in this process: they speak the real protocol over a few
//! connections, while placements change through the API; measures from the commit of each change to
//! its arrival at each of them. One may stop reading midway. Called by the program `feed_load` and by
//! the shows.
//!
//! Commit and arrival are read from one machine's clock: coordinators and simulation share it.

mod client;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use maia_common::ids::{NodeId, ProxyId};
use maia_common::limits;
use maia_common::rpc::{Party, RpcChannel, Target};
use maia_common::wire::feed::feed_client::FeedClient;
use reqwest::Method;
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use crate::cluster::Cluster;
use crate::metrics::Metrics;
use crate::wait::{wait_until, wait_value};
use client::{Crowd, Sample};

/// A client of the feed.
pub type Client = FeedClient<RpcChannel>;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Plan {
    pub clients: usize,
    /// Shared by all clients, spread over the coordinators.
    pub connections: usize,
    pub changes_per_s: u32,
    pub lasts: Duration,
    /// Tenants that are placed before the clients come.
    pub tenants: usize,
    /// Whether one client stops reading midway.
    pub one_stops: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            clients: 1000,
            connections: 30,
            changes_per_s: 50,
            lasts: Duration::from_secs(30),
            tenants: 500,
            one_stops: true,
        }
    }
}

/// Latencies from commit to arrival.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Latency {
    pub count: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub clients: usize,
    pub tenants: usize,
    /// From the first Hello to the moment at which every client has its snapshot.
    pub all_have_snapshots_ms: u64,
    /// Placement changes that were acknowledged.
    pub changes: usize,
    pub refused_changes: usize,
    pub all: Latency,
    /// Of changes committed before one client stopped, and after.
    pub before_stop: Latency,
    pub after_stop: Latency,
    /// From its stop to its being cut off; none: nobody stopped, or it was not cut off in time.
    pub cut_off_after_ms: Option<u64>,
    /// What the client that stopped reads at last.
    pub cut_off_status: Option<String>,
    /// Clients that did not reach the last change, the one that stopped aside.
    pub behind: usize,
    /// Gaps, and revisions that went back.
    pub faults: u64,
    /// Streams that ended and were opened again.
    pub reconnects: u64,
    /// Of one core, by coordinator, while changes were made.
    pub coordinator_cpu_percent: Vec<f64>,
}

/// Microseconds since 1970.
fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// Carries the plan out.
///
/// # Panics
/// When the cluster does not do its part at all.
pub async fn run(cluster: &Cluster, plan: &Plan) -> Report {
    place_all(cluster, plan.tenants).await;
    // Who shares a connection shares a certificate, and that names so many at most.
    let fewest = plan.clients.div_ceil(limits::MAX_CERTIFICATE_PROXIES);
    let count = plan.connections.max(fewest);
    let mut connections = Vec::new();
    for n in 0..count {
        let sharing: Vec<String> = (n..plan.clients).step_by(count).map(simulated).collect();
        if !sharing.is_empty() {
            connections.push(connect(cluster, n % cluster.regions().len(), &sharing).await);
        }
    }
    let began = Instant::now();
    let crowd = Crowd::start(&connections, plan.clients);
    let patience = Duration::from_secs(120);
    wait_until(patience, "all clients have a snapshot", || async {
        crowd.with_snapshot() == plan.clients
    })
    .await;
    let mut report = Report {
        clients: plan.clients,
        tenants: plan.tenants,
        all_have_snapshots_ms: began.elapsed().as_millis() as u64,
        ..Report::default()
    };
    let (cpu, measured) = (cpu_ticks(cluster), Instant::now());
    let changes = change(cluster, plan);
    let (outcome, stop) = tokio::join!(changes, stop_one(cluster, &crowd, plan));
    (report.changes, report.refused_changes) = (outcome.0, outcome.1);
    let seconds = measured.elapsed().as_secs_f64();
    report.coordinator_cpu_percent = cpu_ticks(cluster)
        .iter()
        .zip(&cpu)
        .map(|(after, before)| (after - before) / seconds)
        .collect();
    let newest = newest_revision(cluster).await;
    let reached = tokio::time::timeout(Duration::from_secs(15), async {
        while crowd.behind(newest) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    drop(reached.await);
    report.behind = crowd.behind(newest);
    (report.faults, report.reconnects) = crowd.faults();
    if let Some(stop) = &stop {
        report.cut_off_after_ms = stop.cut_off_after.map(|d| d.as_millis() as u64);
        report.cut_off_status = crowd.resume().await;
    }
    let samples = crowd.samples();
    let stopped_at = stop.map_or(u64::MAX, |stop| stop.at_unix_us);
    report.all = latency(&samples, |_| true);
    report.before_stop = latency(&samples, |s| s.committed_unix_us < stopped_at);
    report.after_stop = latency(&samples, |s| s.committed_unix_us >= stopped_at);
    report
}

/// The id of a simulated proxy.
fn simulated(n: usize) -> String {
    format!("simulated-{n}")
}

/// A connection to a coordinator's feed, for these proxies.
///
/// # Panics
/// When the coordinator does not listen.
pub async fn connect(cluster: &Cluster, at: usize, proxies: &[String]) -> Client {
    let party = |id: &String| Party::Proxy(ProxyId::new(id.as_str()).expect("a legal id"));
    let rpc = cluster.rpc(&proxies.iter().map(party).collect::<Vec<_>>());
    let node = Target::Node(NodeId::new(cluster.region(at).coordinator_id));
    let address = format!("http://{}", cluster.region(at).rpc_addr);
    let endpoint = Endpoint::from_shared(address).expect("an address");
    let channel = rpc.connect(&endpoint, node).await;
    let channel = channel.expect("a coordinator is there");
    FeedClient::new(channel).max_decoding_message_size(limits::MAX_RPC_BYTES)
}

fn tenant(n: usize) -> String {
    format!("load-{n}")
}

async fn place_all(cluster: &Cluster, count: usize) {
    let spec = json!({"primary_region": cluster.region(0).name});
    wait_value(
        Duration::from_secs(30),
        "a placement is accepted",
        || async {
            let answer = cluster.put_placement(0, &tenant(0), &spec).await;
            answer.is_success().then_some(())
        },
    )
    .await;
    let mut requests = JoinSet::new();
    for n in 1..count {
        while requests.len() >= 64 {
            requests.join_next().await;
        }
        let path = format!("/v1/placements/{}", tenant(n));
        let request = cluster.api(0, Method::PUT, &path).json(&spec);
        let client = cluster.client.clone();
        requests.spawn(async move {
            let answer = client.send(&request).await;
            answer.expect_success("a placement");
        });
    }
    while let Some(done) = requests.join_next().await {
        done.expect("every tenant is placed");
    }
}

/// How many changes were acknowledged, and how many were not.
async fn change(cluster: &Cluster, plan: &Plan) -> (usize, usize) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / plan.changes_per_s);
    let total = plan.lasts.as_millis() as usize * plan.changes_per_s as usize / 1000;
    let changed = plan.tenants.min(500);
    let mut requests = JoinSet::new();
    for n in 0..total {
        ticks.tick().await;
        // Each change is another one than those shortly before it, in whatever order they arrive.
        let round = n / changed;
        let routing = ["forward", "redirect"][round % 2];
        let strategy = ["merge", "reject", "last-write-wins"][round % 3];
        let spec = json!({
            "primary_region": cluster.region(0).name,
            "write_routing": routing,
            "conflict_strategy": strategy,
        });
        let path = format!("/v1/placements/{}", tenant(n % changed));
        let at = n % cluster.regions().len();
        let request = cluster.api(at, Method::PUT, &path).json(&spec);
        let client = cluster.client.clone();
        requests.spawn(async move {
            let answer = client.try_send(&request).await;
            answer.is_ok_and(|answer| answer.is_success())
        });
    }
    let (mut made, mut refused) = (0, 0);
    while let Some(done) = requests.join_next().await {
        match done {
            Ok(true) => made += 1,
            _ => refused += 1,
        }
    }
    (made, refused)
}

struct Stopped {
    at_unix_us: u64,
    cut_off_after: Option<Duration>,
}

async fn stop_one(cluster: &Cluster, crowd: &Arc<Crowd>, plan: &Plan) -> Option<Stopped> {
    if !plan.one_stops {
        return None;
    }
    let before = cut_offs(cluster).await;
    tokio::time::sleep(plan.lasts / 2).await;
    crowd.stop_reading.store(true, Ordering::Relaxed);
    let (at_unix_us, began) = (unix_us(), Instant::now());
    let cut_off = async {
        while cut_offs(cluster).await <= before {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        began.elapsed()
    };
    let cut_off = tokio::time::timeout(Duration::from_secs(30), cut_off).await;
    Some(Stopped {
        at_unix_us,
        cut_off_after: cut_off.ok(),
    })
}

async fn metrics(cluster: &Cluster, at: usize) -> Metrics {
    let request = cluster.api(at, Method::GET, "/metrics");
    let answer = cluster.client.send(&request).await;
    Metrics::parse(&answer.expect_success("metrics").text())
}

async fn cut_offs(cluster: &Cluster) -> f64 {
    let mut sum = 0.0;
    for i in 0..cluster.regions().len() {
        sum += metrics(cluster, i)
            .await
            .sum("maia_feed_cut_off_total", &[]);
    }
    sum
}

async fn newest_revision(cluster: &Cluster) -> u64 {
    let events = cluster.api_get(0, "/admin/events?limit=1000").await;
    let mut newest = 0;
    let mut page = events;
    loop {
        let events = page["events"].as_array().cloned().unwrap_or_default();
        newest = events
            .iter()
            .filter_map(|e| e["revision"].as_u64())
            .fold(newest, u64::max);
        match page["next"].as_u64() {
            Some(next) => {
                let path = format!("/admin/events?limit=1000&after={next}");
                page = cluster.api_get(0, &path).await;
            }
            None => return newest,
        }
    }
}

/// User and system time of each coordinator, in hundredths of a second.
fn cpu_ticks(cluster: &Cluster) -> Vec<f64> {
    let pids = cluster.regions().iter().map(|r| r.coordinator_pid);
    pids.map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
        ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)
    })
    .collect()
}

fn latency(samples: &[Sample], of: impl Fn(&Sample) -> bool) -> Latency {
    let chosen = samples.iter().filter(|sample| of(sample));
    let mut us: Vec<u32> = chosen.map(|sample| sample.latency_us).collect();
    us.sort_unstable();
    let ms = |at: usize| {
        us.get(at.min(us.len().saturating_sub(1)))
            .map_or(0.0, |us| f64::from(*us) / 1e3)
    };
    Latency {
        count: us.len(),
        p50_ms: ms(us.len() / 2),
        p99_ms: ms(us.len() * 99 / 100),
        max_ms: ms(us.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_chosen_samples() {
        let samples: Vec<Sample> = (1..=200)
            .map(|n| Sample {
                committed_unix_us: n,
                latency_us: n as u32 * 1000,
            })
            .collect();
        let half = latency(&samples, |s| s.committed_unix_us <= 100);
        assert_eq!(half.count, 100);
        assert!((half.p99_ms - 100.0).abs() < 0.01 && (half.max_ms - 100.0).abs() < 0.01);
        assert_eq!(latency(&samples, |_| false), Latency::default());
    }
}
