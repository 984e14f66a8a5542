//! `make show-03`: the replicated log keeps its word.
//!
//! 1. [`simulation`]: the planted bugs with the seeds they took, then fresh seeds, counts of faults and acknowledgements.
//! 2. [`faults`]: half an hour of faults on real processes, in sets of a few minutes.
//! 3. [`locality`]: a tenant of one region has no byte in another one's files.
//! 4. [`appends`]: single-entry appends beside etcd's puts, in one run, in turn.
//! 5. [`witness`]: two copies and a witness, each of the three killed in turn under load.
//! 6. [`catch_up`]: a follower that was away comes back under load, by the log and by a snapshot.
//! 7. [`demo`]: the tour holds, steps 4 and 7 among its own.
//!
//! The engine torture's own planted bugs are run by the Makefile's target, before these.
//!
//! `SHOW_SEEDS`, `SHOW_FAULT_MINUTES`, `SHOW_ROUNDS` and `SHOW_CATCH_UP_ENTRIES` make it smaller for a first
//! look, and `SHOW_ONLY` runs one part, by the names above; such a run proves nothing of the rest.

pub mod appends;
mod catch_up;
mod etcd;
mod faults;
mod puts;
mod witness;

use super::{Report, is_wanted, sized};
use crate::cluster::binary;

const SEEDS: usize = 10_000;

/// Runs all of it.
pub async fn run(report: &mut Report) {
    if is_wanted("simulation") {
        simulation(report).await;
    }
    if is_wanted("faults") {
        faults::run(report).await;
    }
    if is_wanted("locality") {
        locality(report).await;
    }
    if is_wanted("appends") {
        appends::run(report).await;
    }
    if is_wanted("witness") {
        witness::run(report).await;
    }
    if is_wanted("catch_up") {
        catch_up::run(report).await;
    }
    if is_wanted("demo") {
        demo(report).await;
    }
}

async fn simulation(report: &mut Report) {
    let (all_caught, said) = told("sim", &["planted"]).await;
    report.line(
        "planted bugs of the simulation",
        "each by which seed",
        all_caught,
    );
    report.note(&said);
    let seeds = sized("SHOW_SEEDS", SEEDS).to_string();
    let (is_green, said) = told("sim", &[&seeds]).await;
    let said: Vec<&str> = said.lines().collect();
    report.line("fresh seeds of the simulation", &said.join("; "), is_green);
}

/// Whether a program of ours ended well, and what it printed.
async fn told(program: &str, arguments: &[&str]) -> (bool, String) {
    let run = tokio::process::Command::new(binary(program))
        .args(arguments)
        .output()
        .await
        .expect("it starts");
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    (run.status.success(), said)
}

async fn demo(report: &mut Report) {
    let (holds, said) = told("maiactl", &["demo"]).await;
    report.line("`make demo`", "every step, 4 and 7 among them", holds);
    report.note(&said);
}

async fn locality(report: &mut Report) {
    let found = crate::locality::search().await;
    report.line("a tenant of one region", &found.told(), found.holds());
}
