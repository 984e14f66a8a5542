//! `maiactl tenant load`: places many tenants from a file, one JSON object a line, a few requests
//! at a time. Goes on by itself while the cluster changes leaders or a coordinator restarts; what
//! is placed already is found unchanged, so the same file may be loaded again after anything.
//!
//! ```text
//! file ─▶ lines: checked, packed into batches ─▶ up to N requests in flight ─▶ tally ─▶ summary
//! ```

mod batches;
mod progress;
mod send;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::NotWell;
use super::args::{Load, Output};
use super::print;
use super::session::Session;
use batches::{Batch, Batches};
use progress::Progress;
use send::{Done, Sender};

/// Failed lines that are printed, and named in the summary; further ones are counted only.
const FAILURES_SHOWN: usize = 100;
/// How often the progress is looked at, however little happens.
const TICK: Duration = Duration::from_millis(500);

/// Carries the verb out.
///
/// # Errors
/// A line that is no placement, a file that can't be read, a cluster that does not answer for too
/// long; [`NotWell`] when tenants could not be placed as asked.
pub async fn run(session: &Session, load: &Load) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (batches, size_bytes) = Batches::open(&load.file).await?;
    let mut whole = Whole {
        progress: Progress::new(size_bytes)?,
        done: Done::default(),
        covered: Covered::default(),
    };
    let sender = Sender::new(&session.api, load.retry_for);
    let ended = whole.carry_out(batches, &sender, load.in_flight).await;
    whole.progress.finish();
    whole.summarize(session.output, begun.elapsed(), ended.as_ref().err());
    ended?;
    if whole.done.failed == 0 {
        Ok(())
    } else {
        Err(NotWell.into())
    }
}

/// The load as a whole.
struct Whole {
    progress: Progress,
    done: Done,
    covered: Covered,
}

impl Whole {
    /// After the first error no further batch is sent, and those in flight are waited for.
    async fn carry_out(
        &mut self,
        mut batches: Batches,
        sender: &Sender<'_>,
        in_flight: usize,
    ) -> anyhow::Result<()> {
        let mut flying = FuturesUnordered::new();
        let mut reading = true;
        let mut ended = Ok(());
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while reading || !flying.is_empty() {
            tokio::select! {
                batch = batches.next(), if reading && flying.len() < in_flight => match batch {
                    Ok(Some(batch)) => flying.push(send(sender, batch)),
                    Ok(None) => reading = false,
                    Err(error) => {
                        reading = false;
                        ended = ended.and(Err(error));
                    }
                },
                Some((batch, result)) = flying.next() => match result {
                    Ok(done) => self.take(&batch, done),
                    Err(error) => {
                        reading = false;
                        ended = ended.and(Err(error.context(format!(
                            "lines {} to {} may or may not be loaded: load the file again",
                            batch.first(),
                            batch.last(),
                        ))));
                    }
                },
                _ = tick.tick() => {}
            }
            self.progress.show(&self.done, sender.trouble().as_deref());
        }
        ended
    }

    fn take(&mut self, batch: &Batch, done: Done) {
        let room = FAILURES_SHOWN.saturating_sub(self.done.failures.len());
        for failure in done.failures.iter().take(room) {
            self.progress.complain(&format!(
                "line {}: tenant `{}`: {}: {}",
                failure.line, failure.tenant, failure.code, failure.detail
            ));
        }
        self.done.add(done, FAILURES_SHOWN);
        self.progress.advance(batch.until_byte);
        self.covered.add(batch);
    }

    fn summarize(&self, output: Output, elapsed: Duration, error: Option<&anyhow::Error>) {
        let done = &self.done;
        let elapsed_s = elapsed.as_secs_f64();
        let rate = done.lines as f64 / elapsed_s.max(1e-3);
        if output == Output::Json {
            print::json(&json!({
                "lines": done.lines,
                "created": done.created,
                "changed": done.changed,
                "unchanged": done.unchanged,
                "failed": done.failed,
                "failures": done.failures,
                "loaded_through_line": self.covered.through,
                "elapsed_s": (elapsed_s * 1000.0).round() / 1000.0,
                "rate_per_s": rate.round(),
                "error": error.map(|error| format!("{error:#}")),
            }));
            return;
        }
        print::line(&format!(
            "{} tenants in {elapsed_s:.1} s ({rate:.0}/s): {} created, {} changed, {} unchanged, \
             {} failed",
            done.lines, done.created, done.changed, done.unchanged, done.failed
        ));
        if error.is_some() {
            print::line(&format!(
                "all lines up to {} were carried out; load the file again to go on",
                self.covered.through
            ));
        }
    }
}

/// Up to which line all are done, although batches end in any order.
#[derive(Debug, Default)]
struct Covered {
    through: usize,
    next: usize,
    beyond: BTreeMap<usize, usize>,
}

impl Covered {
    fn add(&mut self, batch: &Batch) {
        self.beyond.insert(batch.number, batch.last());
        while let Some(last) = self.beyond.remove(&self.next) {
            (self.through, self.next) = (last, self.next + 1);
        }
    }
}

async fn send(sender: &Sender<'_>, batch: Batch) -> (Batch, anyhow::Result<Done>) {
    let result = sender.send(&batch).await;
    (batch, result)
}

/// The file's name in messages.
fn shown(file: &Path) -> String {
    match file.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => file.display().to_string(),
    }
}
