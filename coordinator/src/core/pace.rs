//! How fast a follower that lacks much of the log is sent it while clients write: it shares disk,
//! network and processors with them. Called by the leader before each message with records
//! (`raft/catch_up`).
//!
//! ```text
//!  message ──▶ owes its weight ──▶ paid off: 2 for 1 that is written, and a little with time ──▶ next message
//!                                    └─ at once when nobody waits, or when a write may need it ─▶
//! ```
//! Each catch-up ends: for each record that is written more than one is sent, whatever else there is. What a
//! follower is sent in step is never held back, nor what an acknowledgement may need: see [`is_needed`]. A message that
//! took longer than what it owes is followed by the next one at once: there is nothing saved up.

use std::collections::BTreeSet;
use std::time::Duration;

use maia_common::limits::{
    CATCH_UP_BYTES_PER_SECOND, CATCH_UP_HELD_BYTES, CATCH_UP_PER_WRITE, CATCH_UP_QUIET,
    CATCH_UP_RECORD_BYTES, CATCH_UP_RECORDS, CATCH_UP_STUCK,
};
use maia_common::{Index, NodeId};

/// What a record of so many bytes costs, written or sent; in bytes.
#[must_use]
pub fn weight(record_bytes: usize) -> u64 {
    CATCH_UP_RECORD_BYTES.saturating_add(record_bytes as u64)
}

/// Whether a follower that lacks so many records catches up.
#[must_use]
pub fn is_behind(lacks: u64) -> bool {
    lacks > CATCH_UP_RECORDS
}

/// What the leader knows when a message for a follower is ready.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// By any clock that only grows.
    pub now: Duration,
    /// How many records the follower lacks.
    pub lacks: u64,
    /// The weight of all that the leader has ever written to the group's log.
    pub written: u64,
    /// The last record that is committed, and whether there is one after it.
    pub committed: Option<Index>,
    pub is_all_committed: bool,
    /// For how long no client has waited for a write at this node; none: one waits.
    pub quiet: Option<Duration>,
    /// How many messages for followers that catch up are held back at this node, this one included.
    pub sharers: u64,
    /// The bytes of all these messages.
    pub held_bytes: u64,
    /// Whether the follower has answered lately. What is sent to one that has not disturbs nobody; held back,
    /// it would have a share of what those get that are there.
    pub answers: bool,
    /// Whether an acknowledgement may need the follower.
    pub is_needed: bool,
}

/// The pace of one follower of one group.
#[derive(Debug, Default)]
pub struct Pace {
    /// What of the last message has not been paid off.
    owed: u64,
    seen_at: Duration,
    seen_written: u64,
    committed: Option<Index>,
    /// When more was committed, or all was.
    committed_at: Duration,
}

impl Pace {
    /// Whether the message may go now. To be asked again until it may, then [`Pace::sent`].
    pub fn may_send(&mut self, facts: &Facts) -> bool {
        self.settle(facts);
        let is_quiet = facts.quiet.is_some_and(|quiet| quiet >= CATCH_UP_QUIET);
        let since_commit = facts.now.saturating_sub(self.committed_at);
        let is_stuck = since_commit >= CATCH_UP_STUCK;
        let may = self.owed == 0 || facts.is_needed || is_quiet || is_stuck;
        let is_pointless = !facts.answers || facts.held_bytes > CATCH_UP_HELD_BYTES;
        may || is_pointless || !is_behind(facts.lacks)
    }

    /// So much of the message was taken, by weight.
    pub fn sent(&mut self, weight: u64) {
        self.owed = weight;
    }

    /// What has not been paid off.
    #[cfg(test)]
    pub(crate) fn owed(&self) -> u64 {
        self.owed
    }

    fn settle(&mut self, facts: &Facts) {
        let written = facts.written.saturating_sub(self.seen_written);
        let elapsed = facts.now.saturating_sub(self.seen_at).as_micros();
        let share = CATCH_UP_BYTES_PER_SECOND / facts.sharers.max(1);
        let of_time = u128::from(share).saturating_mul(elapsed) / 1_000_000;
        let of_time = u64::try_from(of_time).unwrap_or(u64::MAX);
        let paid = written.saturating_mul(CATCH_UP_PER_WRITE);
        self.owed = self.owed.saturating_sub(paid.saturating_add(of_time));
        (self.seen_at, self.seen_written) = (facts.now, facts.written);
        if self.committed != facts.committed || facts.is_all_committed {
            (self.committed, self.committed_at) = (facts.committed, facts.now);
        }
    }
}

/// A member as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    /// Whether it answers and has nearly all.
    pub is_level: bool,
    /// Whether it keeps the data; a witness does not.
    pub holds_data: bool,
}

/// Whether an acknowledgement may need this follower: without it there is no majority, or no other voter
/// that has the data and could lead when the leader is gone; while the voters change, too. Writes that wait for more
/// copies than that say so themselves. `voters`: of each configuration in force; `others`: all members but the leader,
/// which is level.
#[must_use]
pub fn is_needed(
    follower: NodeId,
    leader: NodeId,
    voters: &[BTreeSet<NodeId>],
    others: &[Member],
) -> bool {
    let [only] = voters else {
        return true;
    };
    let mut level = others
        .iter()
        .filter(|other| other.is_level && other.node != follower);
    let has_majority = |voters: &BTreeSet<NodeId>| {
        let has_it =
            |node: &&NodeId| **node == leader || level.clone().any(|member| member.node == **node);
        voters.iter().filter(has_it).count() * 2 > voters.len()
    };
    let could_lead = |member: &Member| member.holds_data && only.contains(&member.node);
    !has_majority(only) || !level.any(could_lead)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MESSAGE: u64 = 1024 * (CATCH_UP_RECORD_BYTES + 256);

    /// A follower far behind, one write waiting, all of them being committed.
    fn facts(now: Duration, written: u64) -> Facts {
        Facts {
            now,
            lacks: 60_000,
            written,
            committed: Some(Index::new(written)),
            is_all_committed: false,
            quiet: None,
            sharers: 1,
            held_bytes: 0,
            answers: true,
            is_needed: false,
        }
    }

    fn owing() -> Pace {
        let mut pace = Pace::default();
        assert!(pace.may_send(&facts(MS, 0)), "the first one");
        pace.sent(MESSAGE);
        pace
    }

    /// How many records are sent in a second in which so many are written, while each message takes so long.
    fn sent_in_a_second(writes: u64, message_ms: u64) -> u64 {
        let (mut pace, mut sent, mut free_at) = (Pace::default(), 0, 0);
        for ms in 0..1000 {
            let now = Duration::from_millis(ms);
            let written = writes * ms / 1000 * weight(256);
            let facts = Facts {
                is_all_committed: writes == 0,
                ..facts(now, written)
            };
            if ms >= free_at && pace.may_send(&facts) {
                pace.sent(MESSAGE);
                sent += 1024;
                free_at = ms + message_ms;
            }
        }
        sent
    }

    #[test]
    fn it_is_sent_more_than_is_written_and_not_at_full_speed() {
        for writes in [0, 100, 1000, 8000, 20_000] {
            let sent = sent_in_a_second(writes, 1);
            let time = CATCH_UP_BYTES_PER_SECOND / weight(256);
            let due = CATCH_UP_PER_WRITE * writes + time;
            let slack = 2 * 1024;
            let least = due * 9 / 10; // looked at every millisecond
            assert!(sent + slack >= least, "{writes} written: {sent}, due {due}");
            assert!(sent <= due + slack, "{writes} written: {sent}, due {due}");
            assert!(2 * sent > 3 * writes, "{writes} written: {sent}");
        }
    }

    #[test]
    fn a_slow_one_is_not_held_back_on_top() {
        assert_eq!(sent_in_a_second(8000, 100), 10 * 1024);
    }

    #[test]
    fn a_message_waits_until_it_is_paid_off() {
        let mut pace = owing();
        assert!(!pace.may_send(&facts(2 * MS, 0)));
        let part = MESSAGE / CATCH_UP_PER_WRITE;
        assert!(!pace.may_send(&facts(2 * MS, part / 2)));
        assert!(pace.may_send(&facts(2 * MS, part + 1)));
    }

    #[test]
    fn only_the_last_message_is_owed() {
        let mut pace = owing();
        for _ in 0..10 {
            pace.sent(MESSAGE); // needed, say
        }
        let part = MESSAGE / CATCH_UP_PER_WRITE;
        assert!(pace.may_send(&facts(2 * MS, part + 1)));
    }

    #[test]
    fn those_that_catch_up_share_what_time_gives() {
        let due = Duration::from_micros(MESSAGE * 1_000_000 / CATCH_UP_BYTES_PER_SECOND);
        let waits = |sharers| {
            let mut pace = owing();
            let mut facts = facts(MS + due + MS, 0);
            facts.sharers = sharers;
            // Nothing is written, so nothing is to be committed.
            facts.is_all_committed = true;
            !pace.may_send(&facts)
        };
        assert!(!waits(1));
        assert!(waits(2));
    }

    #[test]
    fn nothing_is_held_back_that_is_needed_or_disturbs_nobody() {
        let goes = |change: &dyn Fn(&mut Facts)| {
            let mut pace = owing();
            let mut facts = facts(2 * MS, 0);
            change(&mut facts);
            pace.may_send(&facts)
        };
        assert!(!goes(&|_| ()));
        assert!(goes(&|f| f.is_needed = true));
        assert!(goes(&|f| f.answers = false));
        assert!(goes(&|f| f.held_bytes = CATCH_UP_HELD_BYTES + 1));
        assert!(!goes(&|f| f.held_bytes = CATCH_UP_HELD_BYTES));
        assert!(goes(&|f| f.lacks = CATCH_UP_RECORDS));
        assert!(goes(&|f| f.quiet = Some(CATCH_UP_QUIET)));
        assert!(!goes(&|f| f.quiet = Some(CATCH_UP_QUIET / 2)));
    }

    #[test]
    fn what_is_not_committed_for_long_may_need_it() {
        let mut pace = owing();
        pace.sent(1 << 40);
        let stuck = MS + CATCH_UP_STUCK;
        assert!(!pace.may_send(&facts(CATCH_UP_STUCK, 0)));
        assert!(pace.may_send(&facts(stuck, 0)));
        assert!(!pace.may_send(&facts(stuck, 1)), "one more is committed");
        let idle = Facts {
            is_all_committed: true,
            ..facts(stuck * 3, 1)
        };
        assert!(!pace.may_send(&idle), "nothing is to be committed");
    }

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId::new).collect()
    }

    fn member(node: u64, is_level: bool) -> Member {
        Member {
            node: NodeId::new(node),
            is_level,
            holds_data: true,
        }
    }

    /// Of a group with these voters that 1 leads, where 2 catches up.
    fn needs(voters: &[&[u64]], others: &[Member]) -> bool {
        let voters: Vec<_> = voters.iter().map(|nodes| set(nodes)).collect();
        is_needed(NodeId::new(2), NodeId::new(1), &voters, others)
    }

    #[test]
    fn a_third_copy_is_not_needed_unless_the_second_is_away() {
        assert!(!needs(&[&[1, 2, 3]], &[member(2, false), member(3, true)]));
        assert!(needs(&[&[1, 2, 3]], &[member(2, false), member(3, false)]));
        let five = [2, 3, 4, 5].map(|node| member(node, node == 3));
        assert!(needs(&[&[1, 2, 3, 4, 5]], &five), "two of five");
        let five = [2, 3, 4, 5].map(|node| member(node, [3, 4].contains(&node)));
        assert!(!needs(&[&[1, 2, 3, 4, 5]], &five), "three of five");
        assert!(needs(&[&[1, 2, 3, 4]], &five[..2]), "two of four");
    }

    #[test]
    fn the_only_other_copy_is_needed_whoever_votes() {
        let witness = Member {
            holds_data: false,
            ..member(3, true)
        };
        assert!(needs(&[&[1, 2, 3]], &[member(2, false), witness]));
        assert!(needs(&[&[1, 2]], &[member(2, false)]));
        assert!(needs(&[&[1]], &[member(2, false)]), "a learner");
        let learner = [member(2, false), member(3, true)];
        assert!(!needs(&[&[1, 3]], &learner));
    }

    /// A learner never leads: were the leader gone, nobody could be elected.
    #[test]
    fn a_learner_is_no_other_copy() {
        let witness = Member {
            holds_data: false,
            ..member(3, true)
        };
        let others = [member(2, false), witness, member(4, true)];
        assert!(needs(&[&[1, 2, 3]], &others));
        assert!(!needs(&[&[1, 2, 3, 4]], &others), "it votes");
    }

    #[test]
    fn while_voters_change_all_are_needed() {
        let level = [member(2, false), member(3, true), member(4, true)];
        assert!(needs(&[&[1, 2, 3], &[1, 3, 4]], &level));
        assert!(needs(&[], &level), "nothing is known of them");
    }
}
