//! Sends a batch until it is carried out: to the next coordinator after every failure, with growing
//! waits, for as long as the load as a whole makes progress now and then. Safe to repeat, because a
//! tenant that is as asked already is left alone.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use bytes::Bytes;
use maia_common::error_code::ErrorCode;
use maia_common::runtime::Backoff;
use serde::{Deserialize, Serialize};

use super::batches::{Batch, Line};
use crate::cli::api::{Answer, Api, refusal};

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A line that was not carried out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    pub line: usize,
    pub tenant: String,
    pub code: String,
    pub detail: String,
}

/// What became of lines.
#[derive(Debug, Default)]
pub struct Done {
    pub lines: usize,
    pub created: u64,
    pub changed: u64,
    pub unchanged: u64,
    pub failed: u64,
    pub failures: Vec<Failure>,
}

impl Done {
    /// Adds another part's counts, and its failures while there are fewer than `shown`.
    pub fn add(&mut self, other: Done, shown: usize) {
        self.lines += other.lines;
        self.created += other.created;
        self.changed += other.changed;
        self.unchanged += other.unchanged;
        self.failed += other.failed;
        let room = shown.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.into_iter().take(room));
    }
}

/// A coordinator's answer to a load.
#[derive(Debug, Deserialize)]
struct Report {
    created: u64,
    changed: u64,
    unchanged: u64,
    failed: Vec<Failure>,
    #[serde(default)]
    failed_omitted: usize,
}

/// Sends batches; shared by all that are in flight, on one thread.
pub struct Sender<'a> {
    api: &'a Api,
    retry_for: Duration,
    coordinator: Cell<usize>,
    progress_at: Cell<Instant>,
    trouble: RefCell<Option<String>>,
}

impl<'a> Sender<'a> {
    /// Gives up after this long without any progress.
    pub fn new(api: &'a Api, retry_for: Duration) -> Self {
        Self {
            api,
            retry_for,
            coordinator: Cell::new(0),
            progress_at: Cell::new(Instant::now()),
            trouble: RefCell::new(None),
        }
    }

    /// What is being waited for now, if something is.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Returns once every line was carried out or refused for good.
    ///
    /// # Errors
    /// The cluster refuses the request as a whole, or does not carry it out for too long.
    pub async fn send(&self, batch: &Batch) -> anyhow::Result<Done> {
        let mut rest: Vec<Line> = batch.lines.clone();
        let mut done = Done::default();
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        // A repetition of the same lines is answered as the first was, whose answer was lost.
        let mut key = new_key();
        loop {
            let asked = self.coordinator.get();
            let (trouble, waiting) = match self.ask(asked, &rest, &key).await {
                Ok(report) if report.failed_omitted > 0 => {
                    // The answer to a repetition does not name all: as a new request it does.
                    key = new_key();
                    continue;
                }
                Ok(report) => {
                    let waiting = settle(&mut done, report, &mut rest);
                    let Some(first) = waiting.first() else {
                        self.trouble.replace(None);
                        self.progress_at.set(Instant::now());
                        return Ok(done);
                    };
                    key = new_key();
                    let text = format!("tenant `{}`: {}", first.tenant, first.detail);
                    (anyhow!(text), waiting)
                }
                Err(Miss::Refused(error)) => return Err(error),
                Err(Miss::Again(error)) => {
                    // Others in flight may have moved on already.
                    if self.coordinator.get() == asked {
                        self.coordinator.set(asked + 1);
                    }
                    (error, Vec::new())
                }
            };
            let wait = backoff.next(fastrand::f64());
            if self.progress_at.get().elapsed() + wait > self.retry_for {
                if waiting.is_empty() {
                    return Err(trouble.context("gave up after too long without progress"));
                }
                done.fail(waiting);
                return Ok(done);
            }
            self.trouble.replace(Some(format!("{trouble:#}")));
            tokio::time::sleep(wait).await;
        }
    }

    async fn ask(&self, coordinator: usize, lines: &[Line], key: &str) -> Result<Report, Miss> {
        let mut body = Vec::new();
        for line in lines {
            body.extend_from_slice(&line.text);
            body.push(b'\n');
        }
        let path = "/v1/placements";
        let answer = self
            .api
            .post_lines(coordinator, path, key, Bytes::from(body));
        report(answer.await.map_err(Miss::Again)?)
    }
}

fn new_key() -> String {
    format!("load-{:032x}", fastrand::u128(..))
}

/// Why there is no report.
enum Miss {
    /// Trying again may help.
    Again(anyhow::Error),
    /// It would not.
    Refused(anyhow::Error),
}

fn report(answer: Answer) -> Result<Report, Miss> {
    if answer.status.is_success() {
        return serde_json::from_value(answer.body)
            .map_err(|error| Miss::Refused(anyhow!("the answer is no report: {error}")));
    }
    let refused = refusal(answer.status, &answer.body);
    let again = match ErrorCode::parse(&refused.code) {
        Some(code) => code.is_retryable(),
        None => answer.status.is_server_error(),
    };
    if again {
        Err(Miss::Again(refused.into()))
    } else {
        Err(Miss::Refused(refused.into()))
    }
}

/// Counts what is settled; leaves in `rest` the lines that must be sent again, and returns why.
fn settle(done: &mut Done, report: Report, rest: &mut Vec<Line>) -> Vec<Failure> {
    done.lines += rest.len() - report.failed.len().min(rest.len());
    done.created += report.created;
    done.changed += report.changed;
    done.unchanged += report.unchanged;
    let (mut waiting, mut for_good, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for mut failure in report.failed {
        let Some(line) = failure.line.checked_sub(1).and_then(|at| rest.get(at)) else {
            continue;
        };
        failure.line = line.number;
        if ErrorCode::parse(&failure.code).is_some_and(ErrorCode::is_retryable) {
            again.push(line.clone());
            waiting.push(failure);
        } else {
            for_good.push(failure);
        }
    }
    done.fail(for_good);
    *rest = again;
    waiting
}

impl Done {
    fn fail(&mut self, failures: Vec<Failure>) {
        self.lines += failures.len();
        self.failed += failures.len() as u64;
        self.failures.extend(failures);
    }
}
