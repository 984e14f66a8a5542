//! The witness: how far it is sent entries, by the product's rule, and the oracle's look at it.

use std::time::Duration;

use maia_common::position::Index;
use maia_coordinator::core::witness::{FollowerFacts, Patience};

use super::Role;
use crate::plan::{Bug, ELECTION_MIN, Micros, REPLICA_TIMEOUT};
use crate::world::World;

impl World {
    /// With a witness: the leader's other data member.
    fn data_follower(&self, n: usize) -> Option<usize> {
        let mut others = self.plan.data_members().filter(|node| *node != n);
        others.next().filter(|_| self.plan.has_witness)
    }

    fn follower_facts(&self, n: usize, local: Micros) -> Option<FollowerFacts> {
        let follower = self.data_follower(n)?;
        let Role::Leader(lead) = &self.nodes[n].raft.role else {
            return None;
        };
        let ago = |at: Micros| Duration::from_micros(local.saturating_sub(at));
        Some(FollowerFacts {
            flushed: lead.matched.get(&follower).map(|at| Index::new(*at)),
            silent: lead.answered.get(&follower).map(|at| ago(*at)),
            // Here a follower that answers takes records, too.
            stuck: Duration::ZERO,
            own: Some(Index::new(lead.flushed)),
            sent: lead.sent_to_witness().map(Index::new),
            led: ago(lead.since),
        })
    }

    pub(super) fn watch_follower(&mut self, n: usize, local: Micros) {
        let Some(facts) = self.follower_facts(n, local) else {
            return;
        };
        let Role::Leader(lead) = &mut self.nodes[n].raft.role else {
            return;
        };
        let patience = Patience {
            replica_timeout: Duration::from_micros(REPLICA_TIMEOUT),
            election_timeout: Duration::from_micros(ELECTION_MIN),
        };
        let before = lead.witness;
        lead.witness = before.next(facts, patience);
        let after = lead.witness;
        if before != after {
            self.trace(|| format!("node {n}'s witness is {after:?}"));
        }
    }

    /// The last entry that may be sent to a member.
    pub(super) fn limit(&self, n: usize, to: usize, local: Micros) -> u64 {
        let all = u64::MAX;
        if self.plan.is_data(to) || self.plan.has(Bug::WitnessAhead) {
            return all;
        }
        let Role::Leader(lead) = &self.nodes[n].raft.role else {
            return all;
        };
        let facts = self.follower_facts(n, local);
        let limit = facts.map(|facts| lead.witness.limit(facts));
        limit.map_or(all, |last| last.map_or(0, Index::get))
    }

    /// The leader has sent a member entries, or a snapshot, up to here.
    pub(super) fn note_sent(&mut self, n: usize, to: usize, sent: u64) {
        let is_data = self.plan.is_data(to);
        if let Role::Leader(lead) = &mut self.nodes[n].raft.role
            && !is_data
        {
            lead.witness_sent = lead.witness_sent.max(sent);
        }
    }

    /// The oracle's look at the witness rule, on what is synced on both.
    pub(super) fn check_witness(&mut self, n: usize, matched: u64) {
        let Some(follower) = self.data_follower(n) else {
            return;
        };
        let Role::Leader(lead) = &self.nodes[n].raft.role else {
            return;
        };
        let own = matched > 0 && self.nodes[n].disk.now.term_at(matched) == Some(lead.term);
        let runs_free = !own || lead.witness.is_free();
        let witness = self.nodes[n].position(matched);
        let synced = &self.nodes[follower].disk.synced;
        self.oracle.witness(witness, synced.last(), runs_free);
    }
}
