//! `make show-03`: the replicated log keeps its word. So far:
//!
//! 1. [`simulation`]: seeds of the deterministic simulation, counts of faults and acknowledgements.
//! 2. [`appends`]: single-entry appends beside etcd's puts, in one run, in turn.
//!
//! `SHOW_SEEDS` makes it smaller for a first look; such a run proves nothing.

mod appends;
mod etcd;

use super::{Report, sized};
use crate::cluster::binary;

const SEEDS: usize = 10_000;

/// Runs all of it.
pub async fn run(report: &mut Report) {
    simulation(report).await;
    appends::run(report).await;
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
