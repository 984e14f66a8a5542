//! How far a group's log may be dropped: what is too much or too old, but never what its members still
//! need. Asked by the engine for each group now and then; decides, and does nothing.
//!
//! ```text
//!  parts  ├──── 1 ────┼──── 2 ────┼──── 3 ────┼── 4 (grows)
//!           too old     too much ─┘ at most to here; then down to
//!           - the last snapshot (a follower that lacks more gets it; without one: take it first)
//!           - what followers that are caught up with have (until the log has twice its size)
//! ```
//! All logs of a node together are bounded too: see [`share`]. While the disk is nearly as full as when
//! writes are refused, an eighth of each log is kept, and nothing for followers.
//!
//! Safety: dropped is only what a snapshot covers, and before anything is dropped the state that it
//! led to is synced (see the log store's purge).

/// Entries of a log that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The index of the last of them.
    pub last: u64,
    /// Their bytes, about.
    pub bytes: u64,
    /// When the newest of them was written, in milliseconds since 1970; 0: not known, since none of them
    /// is a record.
    pub newest_ms: u64,
}

impl Part {
    fn is_before(self, ms: u64) -> bool {
        self.newest_ms > 0 && self.newest_ms < ms
    }
}

/// Of what is kept otherwise, so much is while the disk has little room.
const TIGHT_PART: u64 = 8;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// So many bytes of a group's log at most, about.
    pub bytes: u64,
    /// Nothing that was written longer ago; in a small log nothing that is twice as old.
    pub age_ms: u64,
}

/// A group's log at one moment.
#[derive(Debug, Clone)]
pub struct LogFacts<'a> {
    /// Its parts, oldest first.
    pub parts: &'a [Part],
    /// The last index that is applied here.
    pub applied: Option<u64>,
    /// The last index that the newest snapshot covers.
    pub snapshot: Option<u64>,
    /// The least index that a follower has which is answering; none: there is none, or none is led.
    pub least_matched: Option<u64>,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// Whether the disk has little room.
    pub is_tight: bool,
}

/// What to do with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Take a snapshot, so that more can be dropped afterwards.
    Snapshot,
    /// Drop all up to this index.
    Purge(u64),
}

/// The next step for a log.
#[must_use]
pub fn next_step(facts: &LogFacts<'_>, kept: Retention) -> Step {
    let most_bytes = if facts.is_tight {
        kept.bytes / TIGHT_PART
    } else {
        kept.bytes
    };
    let bytes: u64 = facts.parts.iter().map(|part| part.bytes).sum();
    // For a small log no snapshot is taken more often than once in an age.
    let is_small = !facts.is_tight && bytes < kept.bytes / 4;
    let may_hold = !facts.is_tight && bytes <= kept.bytes.saturating_mul(2);
    let oldest_ms = facts.now_ms.saturating_sub(kept.age_ms);
    let Some(mut upto) = wish(facts.parts, most_bytes, oldest_ms).min(facts.applied) else {
        return Step::Keep;
    };
    if may_hold && let Some(matched) = facts.least_matched {
        upto = upto.min(matched);
    }
    let first = facts.parts.first();
    let first_end = first.map_or(0, |part| part.last);
    let much_older_ms = oldest_ms.saturating_sub(kept.age_ms);
    let is_much_too_old = first.is_some_and(|part| part.is_before(much_older_ms));
    match facts.snapshot {
        Some(snapshot) if snapshot >= upto => {}
        _ if upto < first_end => return Step::Keep,
        // One that covers some of it: drop that first, the rest follows at a later look.
        Some(snapshot) if snapshot >= first_end => upto = snapshot,
        _ if is_small && !is_much_too_old => return Step::Keep,
        _ => return Step::Snapshot,
    }
    if upto < first_end {
        // Less than a part: it would be asked again and again.
        return Step::Keep;
    }
    Step::Purge(upto)
}

/// The last index that is too much, or too old.
fn wish(parts: &[Part], most_bytes: u64, oldest_ms: u64) -> Option<u64> {
    let (newest, before) = parts.split_last()?;
    // In a quiet group nothing closes the newest part. Without records it has no time.
    let is_closed = newest.is_before(oldest_ms);
    let closed = if is_closed { parts } else { before };
    let mut bytes: u64 = parts.iter().map(|part| part.bytes).sum();
    let mut upto = None;
    for part in closed {
        if bytes <= most_bytes && !part.is_before(oldest_ms) {
            break;
        }
        bytes -= part.bytes;
        upto = Some(part.last);
    }
    upto
}

/// How many bytes each log may have so that all together have at most `budget`: what small ones do
/// not need is the large ones'.
#[must_use]
pub fn share(mut sizes: Vec<u64>, budget: u64) -> u64 {
    sizes.sort_unstable();
    let mut left = budget;
    for (smaller, size) in sizes.iter().enumerate() {
        let share = left / (sizes.len() - smaller) as u64;
        if *size > share {
            return share;
        }
        left -= size;
    }
    u64::MAX
}

/// What time it is for retention: the clock's, but forward at most twice as fast as time goes by, so that a
/// clock that jumps does not empty the logs.
#[must_use]
pub fn steady(known_ms: u64, clock_ms: u64, elapsed_ms: u64) -> u64 {
    clock_ms.min(known_ms.saturating_add(elapsed_ms.saturating_mul(2)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEPT: Retention = Retention {
        bytes: 100,
        age_ms: 1000,
    };

    /// Parts of ten entries and 40 bytes each, one every 100 ms from time 0.
    fn parts(count: u64) -> Vec<Part> {
        let part = |n| Part {
            last: n * 10 + 9,
            bytes: 40,
            newest_ms: 1 + n * 100,
        };
        (0..count).map(part).collect()
    }

    fn facts(parts: &[Part]) -> LogFacts<'_> {
        LogFacts {
            parts,
            applied: Some(1_000),
            snapshot: Some(1_000),
            least_matched: None,
            now_ms: 0,
            is_tight: false,
        }
    }

    #[test]
    fn what_is_too_much_goes_and_the_rest_stays() {
        let parts = parts(5);
        assert_eq!(next_step(&facts(&parts), KEPT), Step::Purge(29));
        assert_eq!(next_step(&facts(&parts[..2]), KEPT), Step::Keep);
    }

    #[test]
    fn what_is_too_old_goes_but_not_the_newest_part() {
        let parts = parts(2);
        let mut facts = facts(&parts);
        facts.now_ms = 1002;
        assert_eq!(next_step(&facts, KEPT), Step::Purge(9));
        facts.now_ms = 1_000_000;
        assert_eq!(
            next_step(&facts, KEPT),
            Step::Purge(19),
            "nor is a quiet group's newest"
        );
        let blank = [Part {
            last: 2,
            bytes: 3,
            newest_ms: 0,
        }];
        facts.parts = &blank;
        assert_eq!(next_step(&facts, KEPT), Step::Keep, "it has no record");
    }

    #[test]
    fn on_a_full_disk_a_small_log_is_cut_and_no_follower_is_waited_for() {
        let parts = parts(2);
        let mut facts = facts(&parts);
        (facts.least_matched, facts.snapshot) = (Some(0), None);
        assert_eq!(next_step(&facts, KEPT), Step::Keep);
        facts.is_tight = true;
        assert_eq!(next_step(&facts, KEPT), Step::Snapshot);
        facts.snapshot = Some(15);
        assert_eq!(next_step(&facts, KEPT), Step::Purge(9));
    }

    #[test]
    fn all_logs_together_have_their_bound() {
        assert_eq!(share(vec![10, 20, 30], 60), u64::MAX);
        assert_eq!(share(vec![100, 10, 100], 110), 50);
        assert_eq!(share(vec![7; 40], 100), 2);
        assert_eq!(share(Vec::new(), 0), u64::MAX);
    }

    #[test]
    fn a_clock_that_jumps_is_followed_slowly() {
        assert_eq!(steady(1_000, 1_002, 2), 1_002);
        assert_eq!(steady(1_000, 90_000_000, 2_000), 5_000);
        assert_eq!(steady(1_000, 500, 2), 500);
    }

    #[test]
    fn only_what_a_snapshot_covers_goes_and_one_is_taken_for_more() {
        let parts = parts(5);
        let mut facts = facts(&parts);
        facts.snapshot = Some(19);
        assert_eq!(next_step(&facts, KEPT), Step::Purge(19));
        facts.snapshot = Some(4);
        assert_eq!(next_step(&facts, KEPT), Step::Snapshot);
        facts.snapshot = None;
        assert_eq!(next_step(&facts, KEPT), Step::Snapshot);
    }

    #[test]
    fn followers_are_waited_for_until_the_log_has_twice_its_size() {
        let parts = parts(6);
        let mut facts = facts(&parts[..5]);
        facts.least_matched = Some(12);
        assert_eq!(next_step(&facts, KEPT), Step::Purge(12));
        facts.least_matched = Some(3);
        assert_eq!(next_step(&facts, KEPT), Step::Keep);
        facts.parts = &parts;
        assert_eq!(next_step(&facts, KEPT), Step::Purge(39));
    }

    proptest! {
        /// Whatever the facts: nothing goes that is not applied, covered by a snapshot, and behind the
        /// newest part, unless that is too old; and what is dropped makes the next step another one.
        #[test]
        fn nothing_goes_that_is_needed(
            sizes in proptest::collection::vec((1..20u64, 0..80u64, 0..2000u64), 0..12),
            applied in proptest::option::of(0..200u64),
            snapshot in proptest::option::of(0..200u64),
            least_matched in proptest::option::of(0..200u64),
            now_ms in 0..4000u64,
            is_tight in proptest::bool::ANY,
        ) {
            let mut last = 0;
            let mut parts: Vec<Part> = Vec::new();
            for (entries, bytes, newest_ms) in sizes {
                last += entries;
                parts.push(Part { last, bytes, newest_ms });
            }
            let facts = LogFacts { parts: &parts, applied, snapshot, least_matched, now_ms, is_tight };
            if let Step::Purge(upto) = next_step(&facts, KEPT) {
                prop_assert!(Some(upto) <= applied && Some(upto) <= snapshot);
                let newest = parts.last().copied();
                let is_old = newest.is_some_and(|part| part.newest_ms + KEPT.age_ms < now_ms);
                let bound = if is_old { newest } else { parts.iter().rev().nth(1).copied() };
                prop_assert!(bound.is_some_and(|part| upto <= part.last));
                let left: Vec<Part> = parts.iter().copied().filter(|p| p.last > upto).collect();
                prop_assert!(left.len() < parts.len(), "it drops something");
            }
        }
    }
}
