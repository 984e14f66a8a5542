//! `make show-NN`: what an issue must show, run against real clusters. Each line of "Must show" is
//! one function; each figure is printed with PASS or MISS; the program `show` exits non-zero on a
//! miss.

#![expect(clippy::print_stdout, reason = "figures are what this is for")]

pub mod one;
pub mod three;
pub mod two;

/// What was found so far.
#[derive(Debug, Default)]
pub struct Report {
    misses: usize,
}

impl Report {
    /// Prints one figure and whether it is as it must be.
    pub fn line(&mut self, what: &str, figure: &str, holds: bool) {
        self.misses += usize::from(!holds);
        println!(
            "{:<4}  {what}: {figure}",
            if holds { "PASS" } else { "MISS" }
        );
    }

    /// Prints a figure that misses its target, as `docs/misses.md` says.
    pub fn accepted(&mut self, what: &str, figure: &str) {
        println!("miss  {what}: {figure} (accepted in docs/misses.md)");
    }

    /// Prints what was not looked at, and how to.
    pub fn skipped(&mut self, what: &str, how: &str) {
        println!("----  {what}: {how}");
    }

    /// Prints what explains a line, as it is.
    pub fn note(&self, text: &str) {
        println!("{text}");
    }

    /// Prints the sum. True: nothing was missed.
    #[must_use]
    pub fn end(self) -> bool {
        println!("{} missed", self.misses);
        self.misses == 0
    }
}

/// Whether this part is to be run: `SHOW_ONLY` names the only one, for a first look.
fn is_wanted(part: &str) -> bool {
    std::env::var("SHOW_ONLY").map_or(true, |only| only == part)
}

/// A number from the environment, for a smaller run.
fn sized(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
