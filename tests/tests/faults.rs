//! A short run of faults with a fixed seed; the long ones are in `make soak` and `make show-03`.

use std::time::Duration;

use maia_tests::Options;
use maia_tests::faults::{Stage, run};

/// Under faults; starting, healing and reading back come on top.
const LASTING: Duration = Duration::from_secs(20);

fn seed() -> u64 {
    let seed = std::env::var("FAULTS_SEED").ok();
    seed.and_then(|text| text.parse().ok()).unwrap_or(7)
}

fn lasting() -> Duration {
    let seconds = std::env::var("FAULTS_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    seconds.map_or(LASTING, Duration::from_secs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whatever_breaks() {
    let stage = Stage::start(Options::default()).await;
    let found = run(&stage, seed(), lasting()).await;
    println!("{}", found.told());
    println!("refused: {:?}", found.refusals);
    assert!(
        found.violations.is_empty(),
        "{}",
        found.violations.join("\n\n")
    );
    assert_eq!(found.undecided, 0);
    let acknowledged = found.acknowledged.values();
    assert!(acknowledged.clone().all(|n| *n > 20), "the load did little");
}
