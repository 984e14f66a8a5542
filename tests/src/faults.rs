//! Runs of faults against real processes: clients of several tenants write and read in async, semi-sync
//! and sync mode while coordinators are killed and stopped, their links cut and their clocks set wrong; then
//! everything heals, and what was acknowledged is looked for.
//!
//! ```text
//! stage ──▶ load (clients, histories)            ┐
//!   └────▶ plan (seed) ──▶ strike ──▶ heal … ────┴──▶ verify: quiet, digests, last reads, order
//! ```
//!
//! - I2: semi-sync and sync histories are linearizable for each resource, open intervals included.
//! - I3: the last value of an asynchronous resource is not older than an acknowledged one, once
//!   quarantine has nothing left to resolve.
//! - I8: a value has one version for ever: no write takes effect twice.
//! - A node whose clock is wrong hands on what it leads, says why, and takes it back when it is right.
//! - I13: all replicas of a group have one digest at the end.
//!
//! A seed fixes what breaks and when; what the processes make of it is theirs, so a run can't be
//! repeated to the letter.

mod load;
mod plan;
mod relay;
mod source;
mod stage;
mod strike;
mod verify;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;

pub use plan::{Fault, Plan, Round, Target};
pub use stage::{Mode, Stage, Tenant};

use crate::Options;
use load::{Record, Worker};
use strike::Counts;

/// Of each tenant.
const CLIENTS: u64 = 2;

/// What one run found.
#[derive(Debug, Default)]
pub struct Found {
    pub seed: u64,
    pub lasted: Duration,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, usize>,
    /// Those for which this machine gives no right.
    pub skipped: BTreeMap<&'static str, usize>,
    pub operations: usize,
    pub acknowledged: BTreeMap<Mode, usize>,
    pub unknown: usize,
    /// By code.
    pub refusals: BTreeMap<String, usize>,
    pub keys: usize,
    /// Histories whose order was looked for, by one checker and by both.
    pub checked: usize,
    pub checked_twice: usize,
    pub undecided: usize,
    /// Replicas whose digest agreed with the others'.
    pub digests: usize,
    pub lost: BTreeMap<Mode, usize>,
    pub violations: Vec<String>,
}

impl Found {
    /// The sums of both.
    pub fn add(&mut self, other: Found) {
        fn sum<K: Ord>(into: &mut BTreeMap<K, usize>, from: BTreeMap<K, usize>) {
            for (key, count) in from {
                *into.entry(key).or_default() += count;
            }
        }
        sum(&mut self.faults, other.faults);
        sum(&mut self.skipped, other.skipped);
        sum(&mut self.acknowledged, other.acknowledged);
        sum(&mut self.refusals, other.refusals);
        sum(&mut self.lost, other.lost);
        self.lasted += other.lasted;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.keys += other.keys;
        self.checked += other.checked;
        self.checked_twice += other.checked_twice;
        self.undecided += other.undecided;
        self.digests += other.digests;
        self.violations.extend(other.violations);
    }

    /// In a line.
    #[must_use]
    pub fn told(&self) -> String {
        let by_kind = |counts: &BTreeMap<&str, usize>| {
            let each = counts.iter().map(|(kind, n)| format!("{n} {kind}"));
            each.collect::<Vec<_>>().join(", ")
        };
        let by_mode = |counts: &BTreeMap<Mode, usize>| {
            let each = counts
                .iter()
                .map(|(mode, n)| format!("{n} {}", mode.name()));
            each.collect::<Vec<_>>().join(", ")
        };
        format!(
            "seed {}, {} s, {} faults ({}), skipped: {}; acknowledged {}; {} unknown, {} refused; {} resources, order \
             of {} checked ({} by two, {} undecided), {} digests agree; lost {}; {} violations",
            self.seed,
            self.lasted.as_secs(),
            self.faults.values().sum::<usize>(),
            by_kind(&self.faults),
            self.skipped.values().sum::<usize>(),
            by_mode(&self.acknowledged),
            self.unknown,
            self.refusals.values().sum::<usize>(),
            self.keys,
            self.checked,
            self.checked_twice,
            self.undecided,
            self.digests,
            by_mode(&self.lost),
            self.violations.len(),
        )
    }
}

/// One run: this long under faults, then as long as it takes until all is quiet.
pub async fn run(stage: &Stage, seed: u64, lasting: Duration) -> Found {
    run_then(stage, seed, lasting, async {}).await
}

/// As [`run`], with something done between the last operation and the search for what is lost.
pub async fn run_then(
    stage: &Stage,
    seed: u64,
    lasting: Duration,
    then: impl Future<Output = ()>,
) -> Found {
    let began = Instant::now();
    let mut found = Found {
        seed,
        ..Found::default()
    };
    let record = Record::default();
    let clock = record.clock;
    let stop = AtomicBool::new(false);
    let mut counts = Counts::default();
    let mut workers: Vec<Worker<'_>> = (0..stage.tenants.len() as u64 * CLIENTS)
        .map(|n| {
            let tenant = (n / CLIENTS) as usize;
            Worker::new(stage, &record, tenant, seed.wrapping_mul(1000) + n)
        })
        .collect();
    let load = join_all(workers.iter_mut().map(|worker| worker.run(&stop)));
    let breaking = async {
        let mut plan = Plan::new(seed, stage.tenants.len(), stage.cluster.regions().len());
        while began.elapsed() < lasting
            && let Some(round) = plan.next()
        {
            tokio::time::sleep(round.quiet).await;
            strike::carry_out(stage, &round, &mut counts).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    // Every operation that was begun is in the record: none is cut off here.
    tokio::join!(load, breaking);
    drop(workers);
    let noted = record.end();
    (found.faults, found.skipped) = (counts.struck, counts.skipped);
    found.violations = counts.violations;
    found.lasted = began.elapsed();
    then.await;
    verify::verify(stage, noted, clock, &mut found).await;
    found
}

/// A cluster of its own for one seed.
pub async fn run_alone(options: Options, seed: u64, lasting: Duration) -> Found {
    let stage = Stage::start(options).await;
    let mut found = run(&stage, seed, lasting).await;
    if let Some(last) = found.violations.last_mut() {
        let kept = stage.keep().await;
        *last = format!("{last}\nthe cluster's files are kept in {}", kept.display());
    }
    found
}
