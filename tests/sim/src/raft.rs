//! Raft by its guarantees, in the smallest form that has them: one vote a term, synced before it is
//! told; a vote only for a log that is not older; a majority commits, and only entries of the leader's own term
//! by counting; who has heard a leader lately votes for nobody else, unless leadership is handed
//! over. Not openraft: what it is for is to make every history that these guarantees allow.
//!
//! `election` has terms and votes, `replication` entries and commit, `snapshots` and `witness` what
//! their names say.

mod election;
mod replication;
mod snapshots;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use maia_common::position::Position;
use maia_coordinator::core::witness::WitnessRun;

use crate::disk::{Entry, Snapshot};
use crate::plan::{MEMBERS, Micros, WITNESS};

/// What a node knows of its group and forgets when it stops.
#[derive(Debug, Default)]
pub struct Raft {
    pub role: Role,
    /// Of this term, if known.
    pub leader: Option<usize>,
    /// When it spoke, by the local clock.
    pub heard_at: Option<Micros>,
    pub silent_until: Micros,
    /// When to campaign unless a leader speaks, by the local clock.
    pub campaign_at: Micros,
    /// The last entry known to be committed.
    pub commit: u64,
}

/// A node's part.
#[derive(Debug, Default)]
pub enum Role {
    #[default]
    Follower,
    /// Who has voted for it; whether it campaigns because it was told to.
    Candidate {
        votes: BTreeSet<usize>,
        is_told: bool,
    },
    Leader(Lead),
}

/// What a leader knows.
#[derive(Debug, Default)]
pub struct Lead {
    pub term: u64,
    /// When it was elected, by the local clock.
    pub since: Micros,
    pub next: BTreeMap<usize, u64>,
    pub matched: BTreeMap<usize, u64>,
    /// When the newest message that the member has answered was sent, by the local clock.
    pub answered: BTreeMap<usize, Micros>,
    /// Up to where its own log is synced.
    pub flushed: u64,
    pub spoke_at: Micros,
    /// For the rest of the term: a transfer can't be called off.
    pub is_transferring: bool,
    pub witness: WitnessRun,
    /// The last entry that the witness was sent in this term.
    pub witness_sent: u64,
}

impl Lead {
    /// The last entry that the witness was sent, or has.
    pub fn sent_to_witness(&self) -> Option<u64> {
        let matched = self.matched.get(&WITNESS).copied().unwrap_or_default();
        Some(matched.max(self.witness_sent)).filter(|last| *last > 0)
    }

    /// When the youngest message was sent that a majority has answered by now; none: never.
    pub fn quorum_answered(&self, local: Micros) -> Option<Micros> {
        let mut times: Vec<Micros> = self.answered.values().copied().collect();
        times.push(local);
        times.sort_unstable();
        times.len().checked_sub(MEMBERS / 2 + 1).map(|at| times[at])
    }

    /// Up to where a majority has the log on disk.
    pub fn quorum_matched(&self) -> u64 {
        let mut matched: Vec<u64> = self.matched.values().copied().collect();
        matched.push(self.flushed);
        matched.sort_unstable();
        matched[MEMBERS - (MEMBERS / 2 + 1)]
    }
}

/// A message between members.
#[derive(Debug, Clone)]
pub struct Message {
    pub from: usize,
    pub to: usize,
    pub term: u64,
    /// The sender's wall clock.
    pub wall_ms: u64,
    pub body: Body,
}

#[derive(Debug, Clone)]
pub enum Body {
    /// `is_told`: the leader of the term before asked for it.
    AskVote {
        last: Position,
        is_told: bool,
    },
    Vote {
        granted: bool,
    },
    Append {
        previous: Position,
        entries: Vec<Entry>,
        commit: u64,
        sent_at: Micros,
    },
    /// `index`: up to where the logs agree and are synced, or may agree.
    Appended {
        agrees: bool,
        index: u64,
        sent_at: Micros,
    },
    Install {
        snapshot: Rc<Snapshot>,
        sent_at: Micros,
    },
    Campaign,
}

/// Raft's order of logs is that of their last positions.
#[must_use]
pub fn is_as_new(last: Position, as_this: Position) -> bool {
    last >= as_this
}
