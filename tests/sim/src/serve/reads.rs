//! Reads: with a token from any data member's state, strong ones at the leader by its lease.

use maia_common::ids::{ResourceId, ResourceType};
use maia_common::position::Position;
use maia_common::wire::record as wire;
use maia_coordinator::core::data;
use maia_coordinator::core::history::Standing;
use maia_coordinator::core::token::Token;
use maia_coordinator::raft::{StateCf, StateView};

use super::Reply;
use super::answers::TOKEN_KEY;
use crate::plan::{Bug, GROUP, LEASE, tenant};
use crate::raft::Role;
use crate::world::World;

/// The part of its lease during which a leader may answer alone, of five.
const LEASE_FIFTHS: u64 = 4;

impl World {
    pub(super) fn read(
        &mut self,
        n: usize,
        of: usize,
        resource: u8,
        token: Option<String>,
    ) -> Reply {
        if !self.plan.is_data(n) {
            return Reply::NotLeader(None);
        }
        if let Some(text) = token {
            let token = Token::decode(&text, &TOKEN_KEY).expect("made here");
            match self.standing(n, &token) {
                Standing::NotYet => return Reply::NotYet,
                Standing::Diverged => {
                    self.oracle.counts.diverged += 1;
                    return Reply::Diverged;
                }
                Standing::Applied => {}
            }
            let history = &self.nodes[n].history;
            self.oracle.token_read(token.position, history);
        } else {
            if !self.may_read_alone(n) {
                return Reply::NotLeader(self.nodes[n].raft.leader.filter(|leader| *leader != n));
            }
            let applied = self.nodes[n].applied;
            self.oracle.strong_read(applied);
        }
        Reply::Value {
            version: self.version(n, of, resource),
        }
    }

    fn standing(&self, n: usize, token: &Token) -> Standing {
        let node = &self.nodes[n];
        if self.plan.has(Bug::CutOffTokenHonoured) {
            return if token.position.index <= node.applied.index {
                Standing::Applied
            } else {
                Standing::NotYet
            };
        }
        token
            .standing(GROUP, node.applied, &node.state)
            .expect("memory can be read")
    }

    /// Whether the leader's applied state has all that was acknowledged so far.
    fn may_read_alone(&self, n: usize) -> bool {
        let local = self.local(n);
        let node = &self.nodes[n];
        let Role::Leader(lead) = &node.raft.role else {
            return false;
        };
        let lives = lead
            .quorum_answered(local)
            .is_some_and(|at| (local - at) * 5 < LEASE * LEASE_FIFTHS);
        let Position { term, index } = node.applied;
        lives && !lead.is_transferring && term.get() == lead.term && index.get() >= node.raft.commit
    }

    fn version(&self, n: usize, of: usize, resource: u8) -> Option<wire::Version> {
        let kind = ResourceType::new("k").expect("a legal type");
        let id = ResourceId::new(format!("r{resource}")).expect("a legal id");
        let key = data::resource_key(GROUP, &tenant(of), &kind, &id);
        let found = self.nodes[n].state.get(StateCf::Data, &key);
        let found = found.expect("memory can be read")?;
        let resource = data::decode_resource(found).expect("written by apply");
        resource.version
    }
}
