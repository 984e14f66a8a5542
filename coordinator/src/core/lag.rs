//! How far a replica is behind its leader, in time. Called where the leader's messages come in and
//! where reads are served (`raft/lag`). Each message says up to where the leader had committed when
//! it was sent; once that is applied here, the replica is known to be as new as the message.
//!
//! ```text
//!  messages    committed 5 ──── 9 ──────── 9 ─────── 14
//!  applied here            5 ────────── 9 ─────────────────┐ now
//!                                          └── behind by ──┘
//! ```
//! The leader's way to say so (half a round trip) comes on top. Never too small otherwise: what is
//! left out for want of room makes it larger.

use std::collections::VecDeque;

use maia_common::position::Index;

/// Messages remembered that are not applied yet (I12); the newest ones are kept as one beyond.
const MAX_SEEN: usize = 512;
/// Messages that come closer together than this count as the first of them.
const STEP_MS: u64 = 5;

/// What the leader said, and when; times are milliseconds of any clock that only grows.
#[derive(Debug, Default)]
pub struct Trail {
    /// The newest message of which all is applied.
    as_of_ms: Option<u64>,
    /// Later messages: what was committed, and when they came. Both grow.
    seen: VecDeque<(Index, u64)>,
}

impl Trail {
    /// A message came, with the index up to which its sender, which is sure of it, had committed; `applied`: up to where
    /// all is applied here.
    pub fn note(&mut self, committed: Index, applied: Index, now_ms: u64) {
        self.catch_up(applied);
        if self.seen.is_empty() && committed <= applied {
            self.as_of_ms = self.as_of_ms.max(Some(now_ms));
            return;
        }
        let is_full = self.seen.len() >= MAX_SEEN;
        let Some(last) = self.seen.back_mut() else {
            self.seen.push_back((committed, now_ms));
            return;
        };
        let is_same = committed <= last.0;
        if is_same || is_full {
            // What was committed by the earlier one needs no waiting for less.
            *last = (committed.max(last.0), now_ms.max(last.1));
        } else if now_ms >= last.1 + STEP_MS {
            self.seen.push_back((committed, now_ms));
        }
    }

    /// How old what is applied here may be; none: nothing was heard yet.
    pub fn lag_ms(&mut self, applied: Index, now_ms: u64) -> Option<u64> {
        self.catch_up(applied);
        self.as_of_ms.map(|as_of| now_ms.saturating_sub(as_of))
    }

    fn catch_up(&mut self, applied: Index) {
        while let Some((committed, at)) = self.seen.front() {
            if *committed > applied {
                return;
            }
            self.as_of_ms = self.as_of_ms.max(Some(*at));
            self.seen.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(index: u64) -> Index {
        Index::new(index)
    }

    #[test]
    fn an_idle_replica_is_as_new_as_the_last_message() {
        let mut trail = Trail::default();
        assert_eq!(trail.lag_ms(at(0), 7), None);
        trail.note(at(5), at(5), 100);
        trail.note(at(5), at(5), 150);
        assert_eq!(trail.lag_ms(at(5), 170), Some(20));
    }

    #[test]
    fn one_that_applies_slowly_is_behind_by_what_it_has_not_applied() {
        let mut trail = Trail::default();
        trail.note(at(5), at(5), 100);
        trail.note(at(9), at(5), 200);
        trail.note(at(14), at(5), 300);
        trail.note(at(14), at(5), 400);
        assert_eq!(trail.lag_ms(at(8), 450), Some(350));
        assert_eq!(trail.lag_ms(at(9), 450), Some(250));
        assert_eq!(trail.lag_ms(at(14), 450), Some(50), "the last that said 14");
    }

    proptest! {
        /// Whatever is left out: the state has all that was committed when it is said to be of.
        #[test]
        fn it_is_never_said_to_be_newer_than_it_is(
            steps in prop::collection::vec((0u64..4, 0u64..4, 0u64..9), 1..2000)
        ) {
            let (mut trail, mut said) = (Trail::default(), Vec::new());
            let (mut committed, mut applied, mut now) = (0, 0, 0);
            for (more, done, passed) in steps {
                committed += more;
                now += passed;
                trail.note(at(committed), at(applied), now);
                said.push((now, committed));
                applied = committed.min(applied + done);
                if let Some(lag) = trail.lag_ms(at(applied), now) {
                    let as_of = now - lag;
                    let before = said.iter().filter(|(when, _)| *when < as_of);
                    let needed = before.map(|(_, committed)| *committed).max();
                    prop_assert!(applied >= needed.unwrap_or(0));
                }
            }
        }
    }
}
