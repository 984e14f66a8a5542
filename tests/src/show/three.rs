//! `make show-03`: the replicated log keeps its word. So far:
//!
//! 1. [`simulation`]: seeds of the deterministic simulation, counts of faults and acknowledgements.
//! 2. [`faults`]: half an hour of faults on real processes, in sets of a few minutes.
//! 3. [`locality`]: a tenant of one region has no byte in another one's files.
//! 4. [`appends`]: single-entry appends beside etcd's puts, in one run, in turn.
//! 5. [`witness`]: two copies and a witness, each of the three killed in turn under load.
//! 6. [`catch_up`]: a follower that was away comes back under load, by the log and by a snapshot.
//!
//! `SHOW_SEEDS`, `SHOW_FAULT_MINUTES`, `SHOW_ROUNDS` and `SHOW_CATCH_UP_ENTRIES` make it smaller for a first
//! look; such a run proves nothing.

pub mod appends;
mod catch_up;
mod etcd;
mod faults;
mod puts;
mod witness;

use super::{Report, sized};
use crate::cluster::binary;

const SEEDS: usize = 10_000;

/// Runs all of it.
pub async fn run(report: &mut Report) {
    simulation(report).await;
    faults::run(report).await;
    locality(report).await;
    appends::run(report).await;
    witness::run(report).await;
    catch_up::run(report).await;
}

/// Fresh seeds: the first one is of the clock.
async fn simulation(report: &mut Report) {
    let seeds = sized("SHOW_SEEDS", SEEDS).to_string();
    let run = tokio::process::Command::new(binary("sim"))
        .arg(&seeds)
        .output()
        .await
        .expect("the simulation starts");
    let said = String::from_utf8_lossy(&run.stdout);
    let said: Vec<&str> = said.lines().collect();
    report.line("simulation", &said.join("; "), run.status.success());
}

async fn locality(report: &mut Report) {
    let found = crate::locality::search().await;
    report.line("a tenant of one region", &found.told(), found.holds());
}
