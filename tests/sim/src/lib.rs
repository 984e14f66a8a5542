//! The deterministic simulation of the replicated log: our pure cores (apply, acknowledgements,
//! hybrid clock, tokens, witness rule, term starts, quarantine and its resolution) on three nodes over a simulated network, disk
//! and clock, with clients, an operator who seals tenants, and faults. One seed fixes everything: the same seed
//! twice gives byte-identical traces.
//!
//! ```text
//!  client ─▶ [net] ─▶ serve ──propose──▶ raft ─▶ disk ─▶ [net] ─▶ raft of others
//!                       │                  └─ commit ─▶ apply (the product's) ─▶ answers
//!                       └── every acknowledgement, commit, apply, read ─▶ oracle: I1…I13
//! ```
//! Raft is modelled by the smallest protocol that has its guarantees ([`raft`]): one leader per term,
//! what is committed is kept, what is not may be cut off or committed later, a deposed leader goes
//! on until it hears of it. openraft itself is outside; the engine's own torture is beside it.
//!
//! A known bug can be planted ([`Bug`]); it is a switch of this crate alone, and each has a test that
//! sees it caught. Read [`plan`], [`world`], then [`serve`] and [`oracle`].

pub mod clients;
pub mod disk;
pub mod faults;
pub mod node;
pub mod oracle;
pub mod plan;
pub mod quarantine;
pub mod raft;
pub mod report;
pub mod serve;
pub mod world;

pub use plan::{Bug, Plan};
pub use report::Report;
pub use world::run;

/// Seeds that a planted bug may take to be caught.
const MOST_SEEDS: u64 = 2000;

/// What the first seed that sees the bug reports, counted from 1; none when 2,000 of them do not.
#[must_use]
pub fn caught(bug: Bug) -> Option<Report> {
    let runs = (1..=MOST_SEEDS).map(|seed| run(Plan::of(seed).with_bug(bug)));
    runs.into_iter().find(|report| report.violation.is_some())
}
