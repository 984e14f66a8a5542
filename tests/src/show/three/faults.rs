//! Half an hour of faults on real processes, in sets of a few minutes: each a cluster of its own and a
//! seed of the clock. A set that finds something prints it whole.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Options;
use crate::faults::{Found, run_alone};
use crate::show::{Report, sized};

const MINUTES: usize = 30;
const SET: Duration = Duration::from_secs(180);

/// Runs as many sets as it takes.
pub async fn run(report: &mut Report) {
    let wanted = Duration::from_secs(60 * sized("SHOW_FAULT_MINUTES", MINUTES) as u64);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut seed = now.map_or(0, |now| now.as_secs());
    let mut all = Found::default();
    while all.lasted < wanted {
        let lasting = SET.min(wanted.saturating_sub(all.lasted));
        let found = run_alone(Options::default(), seed, lasting).await;
        let is_well = found.violations.is_empty() && found.undecided == 0;
        report.line("faults", &found.told(), is_well);
        for violation in &found.violations {
            report.note(violation);
        }
        all.add(found);
        seed += 1;
    }
    let lost: usize = all.lost.values().sum();
    let figure = format!(
        "{} s under faults, {} faults, {} acknowledged, {} lost",
        all.lasted.as_secs(),
        all.faults.values().sum::<usize>(),
        all.acknowledged.values().sum::<usize>(),
        lost
    );
    report.line("acknowledged writes under faults", &figure, lost == 0);
}
