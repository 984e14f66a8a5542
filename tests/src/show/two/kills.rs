//! kill -9 of the metastore's leader during bulk loads: the load goes on by itself, nothing is
//! lost, nothing is applied twice; and how long no placement could be written.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::super::{Report, sized};
use super::tenants;
use crate::client::{Client, Request};
use crate::cluster::SOON;
use crate::{Cluster, wait_until, wait_value};

/// Tenants of one load; another load follows while kills are due.
const LOAD: usize = 200_000;
/// One attempt of the probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs it.
pub async fn run(report: &mut Report) {
    let wanted = sized("SHOW_KILLS", 20).max(1);
    let cluster = Cluster::start().await;
    cluster.place("probe", 0, &[1, 2]).await;
    let probe = Probe::new(&cluster);
    let killing = async {
        let mut gaps = Vec::new();
        while gaps.len() < wanted {
            let before = probe.accepted().len();
            wait_until(SOON, "placements are written", || async {
                probe.accepted().len() > before + 20
            })
            .await;
            gaps.push(kill(&cluster, &probe).await);
        }
        gaps
    };
    let loading = async {
        // Ends when the kills are done, not by itself.
        let mut loads = 0;
        loop {
            let prefix = format!("k{loads}");
            let file = tenants::write_file(&cluster, cluster.dir(), &prefix, LOAD);
            let summary = tenants::load(&cluster, &file).await;
            assert_eq!(summary["failed"], json!(0), "{summary}");
            loads += 1;
            if probe.is_over() {
                return loads;
            }
        }
    };
    let killing = async {
        let gaps = killing.await;
        probe.end();
        gaps
    };
    let (gaps, loads, ()) = tokio::join!(killing, loading, probe.run());
    tell_gaps(report, gaps);
    check(report, &cluster, loads).await;
}

fn tell_gaps(report: &mut Report, mut gaps: Vec<Duration>) {
    gaps.sort();
    let each: Vec<String> = gaps.iter().map(|gap| gap.as_millis().to_string()).collect();
    let figure = format!(
        "p50 {} ms, worst {} ms of {}: {} (ms without a placement written, a bulk load beside)",
        gaps[gaps.len() / 2].as_millis(),
        gaps[gaps.len() - 1].as_millis(),
        gaps.len(),
        each.join(" ")
    );
    report.line("kill -9 of the metastore's leader", &figure, true);
}

async fn check(report: &mut Report, cluster: &Cluster, loads: usize) {
    let mut wrong = Vec::new();
    for load in 0..loads {
        let whole = tenants::Listed {
            tenants: LOAD,
            not_first_version: 0,
        };
        for at in 0..3 {
            let prefix = format!("k{load}-");
            let listed = tenants::list(cluster, at, &prefix).await;
            if listed != whole {
                wrong.push(format!("load {load} at coordinator {at}: {listed:?}"));
            }
        }
    }
    let figure = format!(
        "{loads} loads of {LOAD} tenants, each there once and in its first version at all three \
         coordinators {wrong:?}"
    );
    report.line("nothing lost, nothing twice", &figure, wrong.is_empty());
}

/// Kills the leader of group 0, starts it again, and says for how long no placement was written.
async fn kill(cluster: &Cluster, probe: &Probe) -> Duration {
    let leader = leader_of_metastore(cluster).await;
    cluster.kill_coordinator(leader).await;
    let dead = Instant::now();
    wait_until(SOON, "placements are written again", || async {
        probe.accepted().iter().any(|(began, _)| *began >= dead)
    })
    .await;
    cluster.restart_coordinator(leader).await;
    let accepted = probe.accepted();
    let around = accepted
        .iter()
        .position(|(_, answered)| *answered >= dead)
        .unwrap_or(0)
        .max(1);
    let pairs = accepted[around - 1..].windows(2).take(3);
    pairs
        .map(|pair| pair[1].1 - pair[0].1)
        .max()
        .unwrap_or_default()
}

async fn leader_of_metastore(cluster: &Cluster) -> usize {
    wait_value(SOON, "the metastore has a leader", || async {
        let mut newest = (0, None);
        for i in 0..3 {
            let request = cluster.api(i, Method::GET, "/admin/replication/election");
            let Ok(answer) = cluster.client.try_send(&request).await else {
                continue;
            };
            let answer = answer.json();
            let term = answer["term"].as_u64().unwrap_or_default();
            if term > newest.0 {
                newest = (term, answer["leader"].as_u64());
            }
        }
        let id = newest.1?;
        (0..3).find(|i| cluster.region(*i).coordinator_id == id)
    })
    .await
}

/// Changes one placement again and again, at whichever coordinator takes it.
struct Probe {
    client: Client,
    requests: Vec<[Request; 2]>,
    accepted: std::sync::Mutex<Vec<(Instant, Instant)>>,
    over: std::sync::atomic::AtomicBool,
}

impl Probe {
    fn new(cluster: &Cluster) -> Self {
        let request = |at: usize, routing: &str| {
            let names: Vec<&str> = (0..3).map(|i| cluster.region(i).name.as_str()).collect();
            let spec = json!({
                "primary_region": names[0], "replicas": names[1..], "write_routing": routing,
            });
            cluster
                .api(at, Method::PUT, "/v1/placements/probe")
                .json(&spec)
        };
        Self {
            client: Client::new(PROBE_TIMEOUT),
            requests: (0..3)
                .map(|at| [request(at, "redirect"), request(at, "forward")])
                .collect(),
            accepted: std::sync::Mutex::default(),
            over: std::sync::atomic::AtomicBool::new(false),
        }
    }

    async fn run(&self) {
        let mut at = 0;
        let mut turn = 0;
        while !self.is_over() {
            let began = Instant::now();
            match self.client.try_send(&self.requests[at % 3][turn % 2]).await {
                Ok(answer) if answer.is_success() => {
                    let entry = (began, Instant::now());
                    self.accepted.lock().expect("nobody panicked").push(entry);
                    turn += 1;
                }
                _ => at += 1,
            }
        }
    }

    fn accepted(&self) -> Vec<(Instant, Instant)> {
        self.accepted.lock().expect("nobody panicked").clone()
    }

    fn end(&self) {
        self.over.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.over.load(std::sync::atomic::Ordering::Relaxed)
    }
}
