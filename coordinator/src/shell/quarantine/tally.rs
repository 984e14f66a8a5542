//! What one look at the quarantine says in the log: a line for each group and matter, with how many
//! entries and which one for example. Entries come by the thousand when a leader is cut off; a line for each
//! would bury all else, and an operator has `maiactl quarantine list` for them. Filled by the look.
//!
//! Invariant: I12 (so many lines, however many entries, groups and matters there are).

use std::collections::BTreeMap;

use maia_common::ids::GroupId;

use super::Outcome;
use crate::core::quarantine::{EntryId, Waiting};

/// Lines of one look; there are at most as many groups, and few of them are in trouble at once.
const MAX_LINES: usize = 64;

/// What is said of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Matter {
    /// It can't be read any more.
    Damaged,
    /// It waits for the operator from now on.
    Waits(Waiting),
    /// It was not decided in this look.
    Later,
    /// It was dealt with.
    Gone(Outcome),
}

/// What is said of entries of one group in one matter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) count: u64,
    pub(super) example: EntryId,
    /// Of the example, where the matter does not say all.
    pub(super) why: String,
}

/// The lines of one look.
#[derive(Debug, Default)]
pub(super) struct Tally {
    lines: BTreeMap<(Matter, GroupId), Line>,
    unsaid: u64,
}

impl Tally {
    /// One more entry; `why` is only asked of a line's first.
    pub(super) fn note(&mut self, matter: Matter, id: EntryId, why: impl FnOnce() -> String) {
        let has_room = self.lines.len() < MAX_LINES;
        match self.lines.get_mut(&(matter, id.group)) {
            Some(line) => line.count += 1,
            None if !has_room => self.unsaid += 1,
            None => {
                let line = Line {
                    count: 1,
                    example: id,
                    why: why(),
                };
                self.lines.insert((matter, id.group), line);
            }
        }
    }

    /// Writes the lines into the log.
    pub(super) fn say(&self) {
        for (
            (matter, group),
            Line {
                count,
                example,
                why,
            },
        ) in &self.lines
        {
            match matter {
                Matter::Damaged => tracing::error!(
                    %group, count, %example, %why,
                    "entries of the quarantine are damaged"
                ),
                Matter::Waits(waiting) => tracing::warn!(
                    %group, count, %example, why = waiting.name(),
                    "cut-off records wait for the operator: maiactl quarantine list"
                ),
                Matter::Later => tracing::info!(
                    %group, count, %example, %why,
                    "cut-off records will be looked at again"
                ),
                Matter::Gone(outcome) => tracing::info!(
                    %group, count, %example, outcome = outcome.name(),
                    "cut-off records were dealt with"
                ),
            }
        }
        if self.unsaid > 0 {
            tracing::warn!(
                count = self.unsaid,
                "there is more to be said of cut-off records than has room"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(group: u64, index: u64) -> EntryId {
        format!("{group}-1-{index}").parse().unwrap()
    }

    #[test]
    fn a_group_has_one_line_for_each_matter_however_many_entries() {
        let mut tally = Tally::default();
        for index in 1..=2300 {
            let why = || format!("reason {index}");
            tally.note(Matter::Waits(Waiting::Rejected), id(3, index), String::new);
            tally.note(Matter::Later, id(3, index), why);
        }
        tally.note(Matter::Waits(Waiting::TooOld), id(3, 9), String::new);
        tally.note(Matter::Waits(Waiting::Rejected), id(4, 9), String::new);
        assert_eq!(tally.lines.len(), 4);
        let line = &tally.lines[&(Matter::Later, GroupId::new(3))];
        let expected = Line {
            count: 2300,
            example: id(3, 1),
            why: "reason 1".into(),
        };
        assert_eq!(*line, expected);
    }

    #[test]
    fn there_are_so_many_lines_and_no_more() {
        let mut tally = Tally::default();
        for group in 0..1000 {
            tally.note(Matter::Later, id(group, 1), String::new);
        }
        assert_eq!(tally.lines.len(), MAX_LINES);
        assert_eq!(tally.unsaid, 1000 - MAX_LINES as u64);
    }
}
