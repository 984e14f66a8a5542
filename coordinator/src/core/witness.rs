//! How far a witness may be sent records, in a group of two data members and one witness. Called by
//! the leader before it sends to the witness, and by the simulation.
//!
//! A witness stores no payload, but it votes: one that is ahead of the data follower could not
//! elect that follower when the leader dies, and a record on leader and witness alone would have one copy
//! (I2). So while the follower answers, the witness follows the follower:
//!
//! ```text
//!              the follower is silent for longer than the patience
//!  following ──────────────────────────────────────────────────────▶ free: an alert
//!      ▲                                                               │
//!      └───────────────── the follower has caught up ──────────────────┘
//! ```
//! Patience is `replica_timeout`; for a leader whose term the follower has not answered yet, one
//! election timeout.

use std::time::Duration;

use maia_common::position::Index;

/// What the leader knows of its data follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerFacts {
    /// Up to where its disk agrees with the leader's log; none: nothing known in this term.
    pub flushed: Option<Index>,
    /// How long ago it last answered; none: not in this term.
    pub silent: Option<Duration>,
    /// How long this leader has been leading.
    pub led: Duration,
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
    /// The witness gets everything: writes stand on one copy of their payload, and an alert says so.
    Free,
}

impl WitnessRun {
    /// The decision after a look at the follower; `last` is the leader's last record.
    #[must_use]
    pub fn next(self, facts: FollowerFacts, last: Index, patience: Patience) -> Self {
        let is_gone = match facts.silent {
            Some(silent) => silent > patience.replica_timeout,
            None => facts.led > patience.election_timeout,
        };
        let is_level = facts.flushed == Some(last);
        match self {
            Self::Following if is_gone => Self::Free,
            Self::Free if is_level && !is_gone => Self::Following,
            unchanged => unchanged,
        }
    }

    /// The last record that the witness may be sent; none: it may be sent all.
    #[must_use]
    pub fn limit(self, facts: FollowerFacts) -> Option<Index> {
        match self {
            Self::Free => None,
            Self::Following => Some(facts.flushed.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        replica_timeout: Duration::from_secs(2),
        election_timeout: Duration::from_millis(300),
    };

    fn facts(flushed: Option<u64>, silent_ms: Option<u64>, led_ms: u64) -> FollowerFacts {
        FollowerFacts {
            flushed: flushed.map(Index::new),
            silent: silent_ms.map(Duration::from_millis),
            led: Duration::from_millis(led_ms),
        }
    }

    #[test]
    fn it_runs_free_only_without_the_follower() {
        use WitnessRun::{Following, Free};
        let cases = [
            (Following, facts(None, None, 300), Following),
            (Following, facts(None, None, 301), Free),
            (Following, facts(Some(3), Some(2000), 9000), Following),
            (Following, facts(Some(3), Some(2001), 9000), Free),
            (Free, facts(Some(8), Some(10), 9000), Free),
            (Free, facts(Some(9), Some(10), 9000), Following),
            (Free, facts(Some(9), Some(3000), 9000), Free),
        ];
        for (before, facts, after) in cases {
            let decided = before.next(facts, Index::new(9), PATIENCE);
            assert_eq!(decided, after, "{before:?} {facts:?}");
        }
    }

    #[test]
    fn it_is_never_ahead_of_a_follower_that_answers() {
        let seen = facts(Some(7), Some(10), 50);
        assert_eq!(WitnessRun::Following.limit(seen), Some(Index::new(7)));
        let unseen = facts(None, None, 50);
        assert_eq!(WitnessRun::Following.limit(unseen), Some(Index::new(0)));
        assert_eq!(WitnessRun::Free.limit(seen), None);
    }
}
