//! What a run found, and how to see it again.

use std::fmt;
use std::ops::AddAssign;

use maia_common::invariants::Violation;

use crate::plan::{MS, Micros};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What happened in a run.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $name: u64,)* }

        impl AddAssign for Counts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }

        impl fmt::Display for Counts {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let parts = [$(format!("{} {}", $text, self.$name)),*];
                f.write_str(&parts.join(", "))
            }
        }
    };
}

counts! {
    /// Answers given after commit.
    acks = "acknowledgements checked",
    early = "of them early",
    degraded = "degraded",
    refusals = "refusals checked",
    reads = "token reads served",
    diverged = "diverged",
    strong = "strong reads",
    committed = "entries committed",
    elections = "elections",
    installs = "snapshots installed",
    quarantined = "quarantined",
    resolved = "resolved",
    overwritten = "overwritten by the operator",
    proven = "proven committed",
    leavings = "leavings",
    seals = "seals",
    kills = "kills",
    cuts = "power cuts",
    partitions = "partitions",
    pauses = "pauses",
    jumps = "clock jumps",
    transfers = "transfers",
    stalls = "disk stalls",
    lost = "messages lost",
    duplicated = "messages duplicated",
}

impl Counts {
    /// Faults of all kinds but messages lost or duplicated.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.kills
            + self.cuts
            + self.partitions
            + self.pauses
            + self.jumps
            + self.transfers
            + self.stalls
    }
}

/// What a run found.
#[derive(Debug, Clone)]
pub struct Report {
    pub seed: u64,
    pub steps: u64,
    pub counts: Counts,
    /// The first violation, after which the run ended.
    pub violation: Option<Violation>,
    /// When it ended.
    pub at: Micros,
    /// Empty unless the plan asked for it.
    pub trace: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, steps) = (self.seed, self.steps);
        match &self.violation {
            None => write!(f, "seed {seed}: {steps} steps, {}", self.counts),
            Some(violation) => write!(
                f,
                "seed {seed}: {violation} (at {} ms; see it again with `make sim SEED={seed}`)",
                self.at / MS
            ),
        }
    }
}
