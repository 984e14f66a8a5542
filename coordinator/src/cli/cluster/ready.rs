//! Waiting until processes are ready, and saying who is not and why.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::process::{Process, State};
use crate::cli::print;

const POLL: Duration = Duration::from_millis(25);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Without a terminal nobody sees the progress: what takes longer is said once.
const NOTICE_AFTER: Duration = Duration::from_secs(3);
const SHOWN_CHARS: usize = 300;

/// Asks processes whether they are ready.
#[derive(Debug)]
pub struct Probe(reqwest::Client);

impl Probe {
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new() -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(PROBE_TIMEOUT)
            .build()?;
        Ok(Self(client))
    }

    /// `Ok` when ready, else what it says or why it says nothing.
    pub async fn ask(&self, process: &Process) -> Result<(), String> {
        let url = format!("{}/readyz", process.url);
        let response = match self.0.get(&url).send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Err("does not listen yet".to_owned()),
            Err(error) => return Err(error.without_url().to_string()),
        };
        if response.status().is_success() {
            return Ok(());
        }
        let status = response.status().as_u16();
        let body = response.text().await.unwrap_or_default();
        let shown: String = body.trim().chars().take(SHOWN_CHARS).collect();
        Err(format!("{status} {shown}"))
    }
}

/// Waits until every process is ready, with progress on a terminal.
///
/// # Errors
/// Who is missing and the tail of its log: at the deadline, or at once when a process ends.
pub async fn wait(processes: &[Process], deadline: Duration) -> anyhow::Result<()> {
    let probe = Probe::new()?;
    let end = Instant::now() + deadline;
    let progress = ProgressBar::new(processes.len() as u64);
    progress.set_style(ProgressStyle::with_template(
        "{spinner} {pos}/{len} ready  {wide_msg}",
    )?);
    let mut missing: Vec<&Process> = processes.iter().collect();
    let mut notice = progress.is_hidden().then(|| Instant::now() + NOTICE_AFTER);
    loop {
        let mut waiting = Vec::new();
        for process in missing {
            if process.state() == State::Gone {
                progress.finish_and_clear();
                anyhow::bail!("{} ended\n{}", process.name(), process.log_tail());
            }
            if let Err(why) = probe.ask(process).await {
                waiting.push((process, why));
            }
        }
        if waiting.is_empty() {
            progress.finish_and_clear();
            return Ok(());
        }
        if Instant::now() >= end {
            progress.finish_and_clear();
            anyhow::bail!(
                "not ready after {} s:\n{}",
                deadline.as_secs(),
                list(&waiting)
            );
        }
        progress.set_position((processes.len() - waiting.len()) as u64);
        let awaited = format!("waiting for {}: {}", waiting[0].0.name(), waiting[0].1);
        if notice.is_some_and(|at| Instant::now() >= at) {
            print::complain(&awaited);
            notice = None;
        }
        progress.set_message(awaited);
        missing = waiting.into_iter().map(|(process, _)| process).collect();
        tokio::time::sleep(POLL).await;
    }
}

fn list(waiting: &[(&Process, String)]) -> String {
    let entries = waiting
        .iter()
        .map(|(process, why)| format!("{}: {why}\n{}", process.name(), process.log_tail()));
    entries.collect::<Vec<_>>().join("\n")
}
