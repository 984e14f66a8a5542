//! How far a witness may be sent records, in a group of two data members and one witness. Called by
//! the leader before it sends to the witness, and by the simulation.
//!
//! A witness stores no payload, but it votes: one that is ahead of the data follower could not
//! elect that follower when the leader dies, and a record on leader and witness alone would have one copy
//! (I2). So while the follower answers, the witness follows the follower:
//!
//! ```text
//!               the follower is silent, or stuck, for longer than the patience
//!  following ────────────────────────────────────────────────────────────────▶ free
//!      ▲                                                                        │ ▲
//!      │ the follower has all that the witness has                nearly so     │ │ silent, stuck
//!      └──────────────────────────────────────────────── closing ◀──────────────┘ │
//!                                                             └───────────────────┘
//! ```
//! Free and closing are one state to people: writes may stand on one copy, and an alert says so. While
//! closing the witness gets nothing more: else, under a constant load and with the witness nearer
//! than the follower, it would be ahead for ever. Patience is `replica_timeout`; for a leader whose term the
//! follower has not answered yet, one election timeout.
//!
//! Nor does the witness get what the leader's own disk does not have yet: a leader that loses its last
//! records with its power could not win with a witness that has them.
//!
//! A leader may find a witness that an earlier one left ahead of the follower. Such a follower can't
//! win an election whatever is held back, so holding back would only make writes wait: the new leader goes
//! on where the old one was, once it has had an election timeout to learn how far both are.

use std::time::Duration;

use maia_common::position::Index;

/// The follower lacks at most so many records of what the witness has: about what one message brings.
const NEAR: u64 = 1024;

/// What the leader knows of its data follower and of its witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerFacts {
    /// Up to where the follower's disk agrees with the leader's log; none: nothing known in this term.
    pub flushed: Option<Index>,
    /// How long ago it last answered; none: not in this term.
    pub silent: Option<Duration>,
    /// For how long it has lacked records and has taken none; zero while it has all.
    pub stuck: Duration,
    /// Up to where the leader's own disk has its log.
    pub own: Option<Index>,
    /// The last record that the witness was sent in this term, or is known to have; none: neither.
    pub sent: Option<Index>,
    /// How long this leader has been leading.
    pub led: Duration,
}

impl FollowerFacts {
    fn is_witness_ahead(&self) -> bool {
        self.sent > self.flushed
    }

    fn is_near(&self) -> bool {
        let next = |index: Option<Index>| index.map_or(0, |index| index.get() + 1);
        next(self.sent).saturating_sub(next(self.flushed)) <= NEAR
    }

    fn is_gone(&self, patience: Patience) -> bool {
        let is_silent = match self.silent {
            Some(silent) => silent > patience.replica_timeout,
            None => self.led > patience.election_timeout,
        };
        is_silent || self.stuck > patience.replica_timeout
    }
}

/// How long the follower may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// With one that has answered in this term.
    pub replica_timeout: Duration,
    /// With one that has not.
    pub election_timeout: Duration,
}

/// What a leader has decided about its witness; each term begins anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WitnessRun {
    /// The witness gets what the follower has flushed.
    #[default]
    Following,
    /// The witness gets nothing more until the follower has what it has.
    Closing,
    /// The witness gets what the leader has flushed: writes stand on one copy of their payload, and an alert says so.
    Free,
}

impl WitnessRun {
    /// The decision after a look at the follower.
    #[must_use]
    pub fn next(self, facts: FollowerFacts, patience: Patience) -> Self {
        let knows_both = facts.led > patience.election_timeout;
        let (is_gone, is_ahead) = (facts.is_gone(patience), facts.is_witness_ahead());
        match self {
            _ if is_gone => Self::Free,
            Self::Following if is_ahead && knows_both && facts.is_near() => Self::Closing,
            Self::Following if is_ahead && knows_both => Self::Free,
            Self::Free | Self::Closing if !is_ahead => Self::Following,
            Self::Free if facts.is_near() => Self::Closing,
            unchanged => unchanged,
        }
    }

    /// The last record that the witness may be sent; none: no record at all.
    #[must_use]
    pub fn limit(self, facts: FollowerFacts) -> Option<Index> {
        let limit = match self {
            Self::Free => return facts.own,
            Self::Closing => facts.sent.max(facts.flushed),
            Self::Following => facts.flushed,
        };
        limit.min(facts.own)
    }

    /// Whether records may stand on the leader and the witness alone.
    #[must_use]
    pub fn is_free(self) -> bool {
        self != Self::Following
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        replica_timeout: Duration::from_secs(2),
        election_timeout: Duration::from_millis(300),
    };

    fn facts(flushed: Option<u64>, sent: Option<u64>, silent_ms: Option<u64>) -> FollowerFacts {
        FollowerFacts {
            flushed: flushed.map(Index::new),
            silent: silent_ms.map(Duration::from_millis),
            stuck: Duration::ZERO,
            own: Some(Index::new(9000)),
            sent: sent.map(Index::new),
            led: Duration::from_secs(9),
        }
    }

    #[test]
    fn it_runs_free_only_without_the_follower() {
        use WitnessRun::{Closing, Following, Free};
        let young = |led_ms| FollowerFacts {
            led: Duration::from_millis(led_ms),
            ..facts(None, None, None)
        };
        let stuck = |ms| FollowerFacts {
            stuck: Duration::from_millis(ms),
            ..facts(Some(3), Some(3), Some(1))
        };
        let cases = [
            (Following, young(300), Following),
            (Following, young(301), Free),
            (Following, facts(Some(3), Some(3), Some(2000)), Following),
            (Following, facts(Some(3), Some(3), Some(2001)), Free),
            (Following, stuck(2000), Following),
            (Following, stuck(2001), Free),
            (Free, facts(Some(9), Some(2000), Some(10)), Free),
            (Free, facts(Some(1000), Some(2000), Some(10)), Closing),
            (Free, facts(Some(2000), Some(2000), Some(10)), Following),
            (Free, facts(Some(9), Some(9), Some(3000)), Free),
            (Closing, facts(Some(1999), Some(2000), Some(10)), Closing),
            (Closing, facts(Some(2000), Some(2000), Some(10)), Following),
            (Closing, facts(Some(1999), Some(2000), Some(2001)), Free),
        ];
        for (before, facts, after) in cases {
            let decided = before.next(facts, PATIENCE);
            assert_eq!(decided, after, "{before:?} {facts:?}");
        }
    }

    /// The witness that an earlier leader left ahead holds no writes up, but only once the leader has
    /// had time to see how far the follower really is.
    #[test]
    fn a_new_leader_goes_on_where_the_old_one_was() {
        let seen = |led_ms| FollowerFacts {
            led: Duration::from_millis(led_ms),
            ..facts(Some(50), Some(5000), Some(1))
        };
        let decide = |facts| WitnessRun::Following.next(facts, PATIENCE);
        assert_eq!(decide(seen(300)), WitnessRun::Following);
        assert_eq!(decide(seen(301)), WitnessRun::Free);
        let near = facts(Some(4990), Some(5000), Some(1));
        assert_eq!(decide(near), WitnessRun::Closing);
    }

    #[test]
    fn it_is_never_ahead_of_a_follower_that_answers() {
        let upto = |run: WitnessRun, facts| run.limit(facts).map(Index::get);
        let seen = facts(Some(7), Some(5), Some(10));
        assert_eq!(upto(WitnessRun::Following, seen), Some(7));
        let unseen = facts(None, None, None);
        assert_eq!(upto(WitnessRun::Following, unseen), None);
        assert_eq!(upto(WitnessRun::Free, seen), Some(9000));
        let ahead = facts(Some(7), Some(9), Some(10));
        assert_eq!(upto(WitnessRun::Closing, ahead), Some(9));
    }

    #[test]
    fn it_never_has_what_the_leader_may_lose() {
        use WitnessRun::{Closing, Following, Free};
        let unflushed = FollowerFacts {
            own: Some(Index::new(6)),
            ..facts(Some(7), Some(5), Some(10))
        };
        for run in [Following, Closing, Free] {
            assert_eq!(run.limit(unflushed), Some(Index::new(6)), "{run:?}");
        }
    }
}
