//! The simulation under test: fixed seeds and fresh ones hold every invariant; the same seed twice
//! gives the same trace, byte by byte; and every planted bug is caught, so that each checker has
//! proven itself. Set `SIM_SECONDS` to look at fresh seeds for longer than 15 s.

use std::time::{Duration, Instant};

use maia_sim::report::Counts;
use maia_sim::{Bug, Plan, Report, caught, run};

/// Seeds that are always run.
const FIXED: std::ops::Range<u64> = 1..151;

fn demand_clean(report: &Report) {
    assert!(report.violation.is_none(), "{report}");
}

#[test]
fn fixed_seeds_hold_every_invariant() {
    run_all("fixed", FIXED);
}

#[test]
fn fresh_seeds_hold_every_invariant() {
    let seconds = std::env::var("SIM_SECONDS").ok();
    let seconds = seconds.and_then(|s| s.parse().ok()).unwrap_or(15);
    let end = Instant::now() + Duration::from_secs(seconds);
    let first = u64::from(fastrand::u32(..));
    run_all("fresh", (first..).take_while(|_| Instant::now() < end));
}

#[expect(
    clippy::print_stderr,
    reason = "what was covered belongs to the test's output"
)]
fn run_all(what: &str, seeds: impl IntoIterator<Item = u64>) {
    let (mut counts, mut steps, mut all) = (Counts::default(), 0, Vec::new());
    for seed in seeds {
        let report = run(Plan::of(seed));
        demand_clean(&report);
        counts += report.counts;
        steps += report.steps;
        all.push(seed);
    }
    let (first, last) = (all.first(), all.last());
    eprintln!(
        "{what} seeds {first:?} to {last:?}: {steps} steps, {} faults; {counts}",
        counts.faults()
    );
    // A run in which nothing happens proves nothing.
    let met = [
        counts.acks,
        counts.early,
        counts.diverged,
        counts.quarantined,
        counts.resolved,
        counts.overwritten,
        counts.proven,
        counts.leavings,
        counts.installs,
    ];
    assert!(all.len() < 20 || met.iter().all(|n| *n > 0), "{counts}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..9 {
        let traced = || {
            run(Plan {
                traced: true,
                ..Plan::of(seed)
            })
        };
        let (one, two) = (traced(), traced());
        assert!(one.trace.lines().count() > 50, "seed {seed} has a trace");
        assert_eq!(one.trace, two.trace, "seed {seed}");
        assert_eq!((one.steps, one.counts), (two.steps, two.counts));
    }
    assert_ne!(run(Plan::of(1)).steps, run(Plan::of(3)).steps);
}

macro_rules! planted {
    ($($name:ident: $bug:ident by $($invariant:literal)|+;)*) => {
        $(#[test]
        fn $name() {
            let report = caught(Bug::$bug).expect("a seed sees it");
            let by = report.violation.as_ref().map(|v| v.invariant.name());
            assert!([$(Some($invariant)),+].contains(&by), "{report}");
        })*

        #[test]
        fn every_bug_has_a_test() {
            assert_eq!(Bug::ALL, [$(Bug::$bug),*]);
        }
    };
}

planted! {
    an_acknowledgement_before_fsync: AckBeforeFsync by "no-acked-loss";
    an_early_answer_behind_an_unapplied_seal: EarlyBehindSeal by "async-accounted";
    a_witness_counted_as_a_copy: WitnessAsCopy by "no-acked-loss";
    conditions_on_uncommitted_state: UncommittedVisible by "no-acked-loss";
    a_clock_that_restarts_low: ClockRestartedLow by "monotone";
    outcomes_lost_in_a_snapshot: DedupLostInSnapshot by "state-of-log" | "exactly-once";
    another_body_under_a_key: SameKeyOtherBody by "exactly-once";
    a_token_of_a_cut_off_term: CutOffTokenHonoured by "read-your-writes";
    a_witness_ahead_of_the_follower: WitnessAhead by "no-acked-loss";
    a_record_dropped_at_truncation: DroppedAtTruncation by "async-accounted";
    a_record_dropped_under_a_snapshot: DroppedUnderSnapshot by "async-accounted";
    a_committed_record_quarantined_and_applied_twice: AppliedTwice by "exactly-once";
    a_resolution_by_the_order_of_arrival: ResolvedByArrival by "async-accounted" | "exactly-once";
}
