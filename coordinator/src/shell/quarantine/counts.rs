//! What became of entries, counted by strategy and outcome.

use std::sync::atomic::{AtomicU64, Ordering};

use maia_common::wire::record as wire;

use crate::core::quarantine::{Acknowledged, Resolution};

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its write is what is there now.
    Won,
    /// What is there is newer.
    Lost,
    /// Parts of both, or of several resources some.
    Merged,
    /// Its idempotency key was known: a retry had taken its place.
    Repeated,
    /// It was committed after all.
    Committed,
    /// Its tenant was deleted.
    TenantDeleted,
    /// It waits for the operator.
    Waits,
    /// The operator dropped it.
    Dropped,
}

impl Outcome {
    /// All of them, for metrics.
    pub const ALL: [Outcome; 8] = [
        Self::Won,
        Self::Lost,
        Self::Merged,
        Self::Repeated,
        Self::Committed,
        Self::TenantDeleted,
        Self::Waits,
        Self::Dropped,
    ];

    /// The name in answers and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Merged => "merged",
            Self::Repeated => "repeated",
            Self::Committed => "committed",
            Self::TenantDeleted => "tenant-deleted",
            Self::Waits => "waits",
            Self::Dropped => "dropped",
        }
    }

    pub(super) fn of(done: &wire::Reconciled) -> Self {
        match (done.fate, done.won, done.lost, done.merged) {
            (2, ..) => Self::Repeated,
            (3, ..) => Self::Committed,
            (_, 0, _, 0) => Self::Lost,
            (_, _, 0, 0) => Self::Won,
            _ => Self::Merged,
        }
    }
}

/// How an entry was treated: by one of the resolutions, or without any.
const STRATEGIES: [Option<Resolution>; 4] = [
    None,
    Some(Resolution::LastWriteWins),
    Some(Resolution::Merge),
    Some(Resolution::Overwrite),
];

/// The counters. Relaxed: they are for people.
#[derive(Debug, Default)]
pub struct Counts {
    entries: [AtomicU64; Acknowledged::ALL.len()],
    outcomes: [[AtomicU64; Outcome::ALL.len()]; STRATEGIES.len()],
}

impl Counts {
    /// Entries when last looked at, by whether a client counts on them; of those that have rotted one
    /// can't know.
    pub fn entries(&self) -> impl Iterator<Item = (Acknowledged, u64)> + '_ {
        let cells = Acknowledged::ALL.into_iter().zip(&self.entries);
        cells.map(|(acknowledged, n)| (acknowledged, n.load(Ordering::Relaxed)))
    }

    /// How often each strategy had each outcome.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, Outcome, u64)> + '_ {
        let rows = STRATEGIES.iter().zip(&self.outcomes);
        rows.flat_map(|(how, row)| {
            let name = how.map_or("none", Resolution::name);
            let cells = Outcome::ALL.into_iter().zip(row);
            cells.map(move |(outcome, n)| (name, outcome, n.load(Ordering::Relaxed)))
        })
    }

    pub(super) fn set_entries(&self, entries: [u64; Acknowledged::ALL.len()]) {
        for (cell, n) in self.entries.iter().zip(entries) {
            cell.store(n, Ordering::Relaxed);
        }
    }

    pub(super) fn count(&self, how: Option<Resolution>, outcome: Outcome) {
        let row = STRATEGIES.iter().position(|s| *s == how);
        if let Some(row) = row {
            self.outcomes[row][outcome as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_told_apart() {
        let of = |fate, won, lost, merged| {
            Outcome::of(&wire::Reconciled {
                fate,
                won,
                lost,
                merged,
            })
        };
        assert_eq!(of(1, 2, 0, 0), Outcome::Won);
        assert_eq!(of(1, 0, 1, 0), Outcome::Lost);
        assert_eq!(of(1, 1, 1, 0), Outcome::Merged);
        assert_eq!(of(2, 0, 0, 0), Outcome::Repeated);
        assert_eq!(of(3, 0, 0, 0), Outcome::Committed);
    }

    #[test]
    fn entries_are_told_apart_by_who_counts_on_them() {
        let counts = Counts::default();
        counts.set_entries([1, 2, 3]);
        let named = counts.entries().map(|(of, n)| (of.name(), n));
        let expected = [("no", 1), ("perhaps", 2), ("yes", 3)];
        assert_eq!(named.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn each_cell_is_counted_by_itself() {
        let counts = Counts::default();
        counts.count(Some(Resolution::Merge), Outcome::Dropped);
        counts.count(None, Outcome::Won);
        let some: Vec<_> = counts.outcomes().filter(|(.., n)| *n > 0).collect();
        let expected = [("none", Outcome::Won, 1), ("merge", Outcome::Dropped, 1)];
        assert_eq!(some, expected);
    }
}
