//! How far a load is: a bar on a terminal, elsewhere a line every few seconds.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::send::Done;
use crate::cli::print;

/// Without a terminal: how often a line is printed.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one load.
pub struct Progress {
    bar: Option<ProgressBar>,
    size_bytes: Option<u64>,
    bytes: u64,
    begun: Instant,
    printed: Instant,
}

impl Progress {
    /// Nothing is done yet. `size_bytes`: of the file, if that is known.
    ///
    /// # Errors
    /// When the bar's template is illegal.
    pub fn new(size_bytes: Option<u64>) -> anyhow::Result<Self> {
        let bar = if std::io::stderr().is_terminal() {
            let (bar, template) = match size_bytes {
                Some(size) => (
                    ProgressBar::new(size),
                    "{bar:30} {percent:>3} %  {msg}  {elapsed} gone, {eta} to go",
                ),
                None => (ProgressBar::no_length(), "{spinner} {msg}  {elapsed} gone"),
            };
            bar.set_style(ProgressStyle::with_template(template)?);
            Some(bar)
        } else {
            None
        };
        let now = Instant::now();
        Ok(Self {
            bar,
            size_bytes,
            bytes: 0,
            begun: now,
            printed: now,
        })
    }

    /// The file is done up to this byte, or further.
    pub fn advance(&mut self, until_byte: u64) {
        self.bytes = self.bytes.max(until_byte);
        if let Some(bar) = &self.bar {
            bar.set_position(self.bytes);
        }
    }

    /// Shows where the load is, and what it waits for.
    pub fn show(&mut self, done: &Done, trouble: Option<&str>) {
        let rate = done.lines as f64 / self.begun.elapsed().as_secs_f64().max(1e-3);
        let mut text = format!("{} tenants, {rate:.0}/s", done.lines);
        if done.failed > 0 {
            text = format!("{text}, {} failed", done.failed);
        }
        if let Some(trouble) = trouble {
            text = format!("{text}, waiting: {trouble}");
        }
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None if self.printed.elapsed() >= LINE_EVERY => {
                self.printed = Instant::now();
                print::complain(&format!("{}{text}{}", self.percent(), self.to_go()));
            }
            None => {}
        }
    }

    fn percent(&self) -> String {
        let size = self.size_bytes.filter(|size| *size > 0);
        size.map_or_else(String::new, |size| {
            format!("{} %: ", self.bytes * 100 / size)
        })
    }

    fn to_go(&self) -> String {
        let left = self.size_bytes.map(|size| size.saturating_sub(self.bytes));
        let Some(left) = left.filter(|_| self.bytes > 0) else {
            return String::new();
        };
        let per_byte = self.begun.elapsed().as_secs_f64() / self.bytes as f64;
        format!(", {:.0} s to go", left as f64 * per_byte)
    }

    /// A line that stays.
    pub fn complain(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| print::complain(text)),
            None => print::complain(text),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
