//! `faults [SEED] [SECONDS]`: one run of faults on real processes, as in `make show-03`; see
//! [`maia_tests::faults`]. Exits non-zero when it finds something.

#![expect(clippy::print_stdout, reason = "what it found is what this is for")]

use std::process::ExitCode;
use std::time::Duration;

use maia_tests::Options;
use maia_tests::faults::run_alone;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().ok());
    let seed = numbers.next().flatten().unwrap_or(7);
    let seconds = numbers.next().flatten().unwrap_or(60);
    let found = run_alone(Options::default(), seed, Duration::from_secs(seconds)).await;
    println!("{}\nrefused: {:?}", found.told(), found.refusals);
    for violation in &found.violations {
        println!("\n{violation}");
    }
    if found.violations.is_empty() && found.undecided == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
