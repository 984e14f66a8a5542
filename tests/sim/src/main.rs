//! `sim`: one seed with its trace (`SIM_SEED=7 sim`), or many of them (`sim 1000` from a fresh seed,
//! `sim 1000 5` from seed 5), which exit with 1 on a violation; or every planted bug (`sim planted`), which
//! exits with 1 when one is not caught.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use maia_sim::report::Counts;
use maia_sim::{Bug, Plan, caught, run};

fn main() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if let Some(seed) = number(std::env::var("SIM_SEED").ok()) {
        let report = run(Plan {
            traced: true,
            ..Plan::of(seed)
        });
        out.write_all(report.trace.as_bytes())?;
        writeln!(out, "{report}")?;
        return Ok(ExitCode::from(u8::from(report.violation.is_some())));
    }
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().is_some_and(|word| word == "planted") {
        return planted(&mut out);
    }
    let seeds = number(arguments.next()).unwrap_or(100);
    let first = number(arguments.next()).unwrap_or_else(|| u64::from(fastrand::u32(..)));
    let (mut counts, mut steps, begin) = (Counts::default(), 0, Instant::now());
    for seed in first..first + seeds {
        let report = run(Plan::of(seed));
        if report.violation.is_some() {
            writeln!(out, "{report}")?;
            return Ok(ExitCode::FAILURE);
        }
        counts += report.counts;
        steps += report.steps;
    }
    let seconds = begin.elapsed().as_secs_f32();
    let last = first + seeds - 1;
    writeln!(
        out,
        "seeds {first} to {last} in {seconds:.1} s: {steps} steps, {counts}"
    )?;
    writeln!(out, "{} faults", counts.faults())?;
    Ok(ExitCode::SUCCESS)
}

/// By which seed each planted bug is caught.
fn planted(out: &mut impl Write) -> io::Result<ExitCode> {
    let mut missed = 0;
    for bug in Bug::ALL {
        let report = caught(bug);
        match report
            .as_ref()
            .and_then(|r| r.violation.as_ref().map(|v| (r.seed, v)))
        {
            Some((seed, violation)) => {
                writeln!(out, "{bug:?}: caught by seed {seed}: {violation}")?;
            }
            None => {
                missed += 1;
                writeln!(out, "{bug:?}: NOT CAUGHT")?;
            }
        }
    }
    Ok(ExitCode::from(missed))
}

fn number(text: Option<String>) -> Option<u64> {
    text?.parse().ok()
}
