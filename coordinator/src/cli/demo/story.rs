//! How the tour tells itself: numbered steps, what came back, how long each took.

use std::time::{Duration, Instant};

use crate::cli::print;

/// The tour so far.
#[derive(Debug)]
pub struct Story {
    began: Instant,
    step_began: Instant,
    indent: &'static str,
}

impl Story {
    /// The clock starts.
    #[must_use]
    pub fn begin() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            step_began: now,
            indent: "   ",
        }
    }

    /// A step begins.
    pub fn step(&mut self, number: &str, title: &str) {
        print::line(&format!("\n{number}  {title}"));
        self.step_began = Instant::now();
    }

    /// Something happened.
    pub fn tell(&self, text: &str) {
        print::line(&format!("{}{text}", self.indent));
    }

    /// The step held.
    pub fn held(&self) {
        self.tell(&format!("held, {}", ms(self.step_began.elapsed())));
    }

    /// Every step held.
    pub fn end(&self) {
        print::line(&format!(
            "\nevery step held, {} in all",
            ms(self.began.elapsed())
        ));
    }
}

/// A duration as people read it.
#[must_use]
pub fn ms(duration: Duration) -> String {
    match duration.as_micros() {
        micros if micros < 10_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        micros if micros < 10_000_000 => format!("{} ms", duration.as_millis()),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}
