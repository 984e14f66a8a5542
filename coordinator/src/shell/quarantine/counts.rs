//! What became of entries, counted by strategy and outcome.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use maia_common::limits;
use maia_common::wire::record as wire;

use crate::core::quarantine::{Acknowledged, Resolution, Waiting};

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Another node has it, which is a member of its tenant's group.
    HandedOver,
    /// Nobody was told that it is safe, and its time is over, or the quarantine was full.
    Expired,
}

impl Outcome {
    /// All of them, for metrics.
    pub const ALL: [Outcome; 10] = [
        Self::Won,
        Self::Lost,
        Self::Merged,
        Self::Repeated,
        Self::Committed,
        Self::TenantDeleted,
        Self::Waits,
        Self::Dropped,
        Self::HandedOver,
        Self::Expired,
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
            Self::HandedOver => "handed-over",
            Self::Expired => "expired",
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

/// What a look at all entries found, and left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// By [`Acknowledged::ALL`].
    entries: [u64; Acknowledged::ALL.len()],
    /// By [`Waiting::ALL`].
    waiting: [u64; Waiting::ALL.len()],
    bytes: u64,
}

impl Totals {
    pub(super) fn add(&mut self, of: Acknowledged, size_bytes: u64) {
        self.entries[nth(of)] += 1;
        self.bytes += size_bytes;
    }

    pub(super) fn add_waiting(&mut self, why: Waiting) {
        self.waiting[nth_why(why)] += 1;
    }

    /// One goes that nobody was told is safe.
    pub(super) fn remove_other(&mut self, size_bytes: u64) {
        for cell in [
            &mut self.entries[nth(Acknowledged::No)],
            &mut self.waiting[nth_why(Waiting::NotAcknowledged)],
        ] {
            *cell = cell.saturating_sub(1);
        }
        self.bytes = self.bytes.saturating_sub(size_bytes);
    }

    /// Whether there is more than there should be.
    pub(super) fn is_over(&self) -> bool {
        self.is_beyond(8)
    }

    /// Whether there is more than is left of what makes room: an eighth is for what comes until the next look.
    pub(super) fn leaves_too_little(&self) -> bool {
        self.is_beyond(7)
    }

    /// Whether there is more than so many eighths of what there may be.
    fn is_beyond(&self, eighths: u64) -> bool {
        let entries: u64 = self.entries.iter().sum();
        entries > limits::MAX_QUARANTINE_ENTRIES / 8 * eighths
            || self.bytes > limits::MAX_QUARANTINE_BYTES / 8 * eighths
    }
}

fn nth(of: Acknowledged) -> usize {
    let found = Acknowledged::ALL.iter().position(|a| *a == of);
    found.unwrap_or_default()
}

fn nth_why(why: Waiting) -> usize {
    let found = Waiting::ALL.iter().position(|w| *w == why);
    found.unwrap_or_default()
}

/// What other nodes had handed over since the start at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Intake {
    pub(super) entries: u64,
    bytes: u64,
}

/// The counters. Relaxed: they are for people, and for rough bounds.
#[derive(Debug, Default)]
pub struct Counts {
    entries: [AtomicU64; Acknowledged::ALL.len()],
    waiting: [AtomicU64; Waiting::ALL.len()],
    bytes: AtomicU64,
    full: AtomicBool,
    /// Until now, and what of that a look has counted; none: nobody has looked since the start.
    came: Mutex<(Intake, Option<Intake>)>,
    outcomes: [[AtomicU64; Outcome::ALL.len()]; STRATEGIES.len()],
}

impl Counts {
    /// Entries when last looked at, by whether a client counts on them; of those that have rotted one
    /// can't know.
    pub fn entries(&self) -> impl Iterator<Item = (Acknowledged, u64)> + '_ {
        let cells = Acknowledged::ALL.into_iter().zip(&self.entries);
        cells.map(|(acknowledged, n)| (acknowledged, n.load(Ordering::Relaxed)))
    }

    /// Whether there is room for one more of another node within an `n`th of what there may be, with all that
    /// came since the last look began. None before the first look has ended: nobody knows what is there.
    pub(super) fn has_room(&self, n: u64) -> Option<bool> {
        let (came, seen) = *self.lock();
        let seen = seen?;
        let entries: u64 = self.entries().map(|(_, n)| n).sum();
        let bytes = self.bytes() + (came.bytes - seen.bytes);
        let few = entries + (came.entries - seen.entries) <= limits::MAX_QUARANTINE_ENTRIES / n;
        Some(few && bytes <= limits::MAX_QUARANTINE_BYTES / n)
    }

    /// What other nodes handed over until now.
    pub(super) fn came(&self) -> Intake {
        self.lock().0
    }

    fn lock(&self) -> MutexGuard<'_, (Intake, Option<Intake>)> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more came.
    pub(super) fn add_came(&self, size_bytes: u64) {
        let came = &mut self.lock().0;
        came.entries += 1;
        came.bytes += size_bytes;
    }

    /// Those of them that wait for the operator, by why.
    pub fn waiting(&self) -> impl Iterator<Item = (Waiting, u64)> + '_ {
        let cells = Waiting::ALL.into_iter().zip(&self.waiting);
        cells.map(|(why, n)| (why, n.load(Ordering::Relaxed)))
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

    /// Bytes of the entries when last looked at.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether there was more than there should be when last looked at, and all of it such as clients
    /// were told, or may have been told, is safe.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// A look has ended that began when `seen` had come. What came meanwhile it may have found or not: that
    /// counts twice until the next one.
    pub(super) fn set_totals(&self, totals: Totals, seen: Intake) {
        for (cell, n) in self.entries.iter().zip(totals.entries) {
            cell.store(n, Ordering::Relaxed);
        }
        for (cell, n) in self.waiting.iter().zip(totals.waiting) {
            cell.store(n, Ordering::Relaxed);
        }
        self.bytes.store(totals.bytes, Ordering::Relaxed);
        self.full.store(totals.is_over(), Ordering::Relaxed);
        self.lock().1 = Some(seen);
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
        let totals = Totals {
            entries: [1, 2, 3],
            waiting: [0, 5, 0, 0, 0, 0, 0],
            bytes: 9,
        };
        counts.set_totals(totals, Intake::default());
        let named = counts.entries().map(|(of, n)| (of.name(), n));
        let expected = [("no", 1), ("perhaps", 2), ("yes", 3)];
        assert_eq!(named.collect::<Vec<_>>(), expected);
        let waiting = counts.waiting().find(|(_, n)| *n > 0);
        assert_eq!(waiting, Some((Waiting::Rejected, 5)));
    }

    #[test]
    fn there_is_too_much_by_number_or_by_size() {
        let mut totals = Totals {
            entries: [0, 0, limits::MAX_QUARANTINE_ENTRIES],
            bytes: limits::MAX_QUARANTINE_BYTES,
            ..Totals::default()
        };
        assert!(!totals.is_over());
        totals.add(Acknowledged::No, 0);
        assert!(totals.is_over() && totals.leaves_too_little());
        totals.add_waiting(Waiting::NotAcknowledged);
        totals.remove_other(0);
        assert_eq!(totals.waiting, [0; Waiting::ALL.len()]);
        totals.bytes += 1;
        let counts = Counts::default();
        counts.set_totals(totals, Intake::default());
        assert!(totals.is_over() && counts.is_full());
        counts.set_totals(Totals::default(), Intake::default());
        assert!(!counts.is_full());
    }

    #[test]
    fn what_came_since_the_look_began_takes_room() {
        let counts = Counts::default();
        assert_eq!(counts.has_room(1), None, "nobody has looked yet");
        let has_room = |n| counts.has_room(n) == Some(true);
        counts.add_came(limits::MAX_QUARANTINE_BYTES);
        let seen = counts.came();
        counts.set_totals(Totals::default(), seen);
        assert!(has_room(1), "the look would have found it");
        counts.add_came(limits::MAX_QUARANTINE_BYTES / 2);
        assert!(has_room(2));
        counts.add_came(2);
        assert!(has_room(1) && !has_room(2));
        counts.set_totals(Totals::default(), counts.came());
        for _ in 0..=limits::MAX_QUARANTINE_ENTRIES {
            assert!(has_room(1));
            counts.add_came(1);
        }
        assert!(!has_room(1));
        let full = Totals {
            entries: [0, limits::MAX_QUARANTINE_ENTRIES / 2 + 1, 0],
            ..Totals::default()
        };
        counts.set_totals(full, counts.came());
        assert!(has_room(1) && !has_room(2));
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
