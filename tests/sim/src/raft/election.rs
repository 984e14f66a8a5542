//! Terms, votes, leaders, and the tick that moves them.

use std::collections::BTreeSet;

use maia_common::position::Position;
use maia_coordinator::core::clocks;

use super::{Body, Lead, Message, Role, is_as_new};
use crate::disk::{Entry, Op, Then};
use crate::plan::{
    ELECTION_MAX, ELECTION_MIN, HEARTBEAT, LEASE, MAX_CLOCK_OFFSET, MEMBERS, Micros,
};
use crate::world::World;

impl World {
    /// Time passes on a node: campaigns, heartbeats, a leader without a quorum gives up.
    pub fn tick(&mut self, n: usize) {
        if self.nodes[n].has_left {
            self.resolve(n);
            return;
        }
        let local = self.local(n);
        let may_lead = self.may_lead(n);
        let node = &mut self.nodes[n];
        match &mut node.raft.role {
            Role::Leader(lead) => {
                let age = lead.quorum_answered(local).map(|at| local - at);
                let is_alone =
                    age.is_none_or(|age| age > 3 * LEASE) && local - lead.since > 3 * LEASE;
                // One that hands over is silent: if the other one does not win, somebody will.
                let is_due = !lead.is_transferring && local - lead.spoke_at >= HEARTBEAT;
                if is_alone || !may_lead {
                    self.step_down(n, "it is alone, or its clock is off");
                } else if is_due {
                    self.speak(n);
                }
            }
            _ if local >= node.raft.campaign_at.max(node.raft.silent_until) => {
                self.rest(n);
                if self.plan.is_data(n) && may_lead {
                    self.campaign(n, false);
                }
            }
            _ => {}
        }
        self.look_at_pending(n);
        self.resolve(n);
    }

    fn may_lead(&self, n: usize) -> bool {
        let local = self.local(n);
        let heard = self.nodes[n].offsets.values();
        let lately = heard.filter(|(_, at)| local < at + 2 * ELECTION_MAX);
        let offsets: Vec<i64> = lately.map(|(offset, _)| *offset).collect();
        clocks::may_lead(&offsets, MEMBERS, MAX_CLOCK_OFFSET)
    }

    /// Sets the time of the next campaign.
    fn rest(&mut self, n: usize) {
        let patience = self.rng.u64(ELECTION_MIN..=ELECTION_MAX);
        self.nodes[n].raft.campaign_at = self.local(n) + patience;
    }

    fn campaign(&mut self, n: usize, is_told: bool) {
        let term = self.nodes[n].disk.now.term + 1;
        self.trace(|| format!("node {n} campaigns in term {term}"));
        let last = self.nodes[n].disk.now.last();
        self.nodes[n].raft.role = Role::Candidate {
            votes: BTreeSet::new(),
            is_told,
        };
        self.nodes[n].raft.leader = None;
        let vote = Op::Vote {
            term,
            voted_for: Some(n),
        };
        // Its own vote counts once it is synced, like any other.
        let own = self.message(n, n, term, Body::Vote { granted: true });
        let mut then = vec![Then::Send(own)];
        for to in (0..MEMBERS).filter(|to| *to != n) {
            let ask = self.message(n, to, term, Body::AskVote { last, is_told });
            then.push(Then::Send(ask));
        }
        self.write(n, vec![vote], then);
    }

    pub(super) fn step_down(&mut self, n: usize, why: &str) {
        if self.nodes[n].leads() {
            self.trace(|| format!("node {n} steps down: {why}"));
            self.drop_pending(n);
            self.rest(n);
        }
        // Others keep their time: a node that can't win must not keep one from campaigning that can.
        self.nodes[n].raft.role = Role::Follower;
    }

    /// A message of a newer term; afterwards this node is in that term.
    fn enter_term(&mut self, n: usize, term: u64) {
        self.step_down(n, "a newer term");
        self.nodes[n].raft.leader = None;
        let op = Op::Vote {
            term,
            voted_for: None,
        };
        self.write(n, vec![op], Vec::new());
    }

    pub fn receive(&mut self, message: Message) {
        let n = message.to;
        let now = self.now;
        let node = &mut self.nodes[n];
        let offset = message.wall_ms as i64 - node.clocks.wall_ms(now) as i64;
        if message.from != n {
            let local = node.clocks.local(now);
            node.offsets.insert(message.from, (offset, local));
        }
        let own = node.disk.now.term;
        if let Body::AskVote { last, is_told } = message.body {
            self.answer_vote(&message, last, is_told);
            return;
        }
        if message.term > own {
            self.enter_term(n, message.term);
        }
        let is_stale = message.term < own;
        match message.body {
            Body::Vote { granted } if !is_stale && granted => self.count_vote(n, message.from),
            Body::Append { .. } | Body::Install { .. } if is_stale => {
                let sent_at = 0;
                let body = Body::Appended {
                    agrees: false,
                    index: 0,
                    sent_at,
                };
                self.send(n, message.from, own, body);
            }
            Body::Append {
                previous,
                entries,
                commit,
                sent_at,
            } => {
                self.hear(n, message.from);
                self.take_entries(n, message.from, (previous, entries), commit, sent_at);
            }
            Body::Install { snapshot, sent_at } => {
                self.hear(n, message.from);
                self.install(n, message.from, snapshot, sent_at);
            }
            Body::Appended {
                agrees,
                index,
                sent_at,
            } if !is_stale => self.take_answer(n, message.from, (agrees, index), sent_at),
            Body::Campaign if !is_stale && self.plan.is_data(n) && !self.is_silent(n) => {
                self.campaign(n, true);
            }
            // Of an earlier term, or nothing to this node.
            Body::AskVote { .. } | Body::Vote { .. } | Body::Appended { .. } | Body::Campaign => {}
        }
    }

    fn hear(&mut self, n: usize, leader: usize) {
        let local = self.local(n);
        let raft = &mut self.nodes[n].raft;
        raft.leader = Some(leader);
        raft.heard_at = Some(local);
        if !matches!(raft.role, Role::Follower) {
            raft.role = Role::Follower;
        }
        self.rest(n);
    }

    fn answer_vote(&mut self, ask: &Message, last: Position, is_told: bool) {
        let n = ask.to;
        let local = self.local(n);
        let node = &self.nodes[n];
        let promised = |at: Micros| local < at + LEASE;
        let is_bound = node.raft.heard_at.is_some_and(promised) || self.holds_lease(n);
        if self.is_silent(n) || (is_bound && !is_told) {
            return;
        }
        if ask.term > node.disk.now.term {
            self.enter_term(n, ask.term);
        }
        let stored = &self.nodes[n].disk.now;
        let is_free = stored.voted_for.is_none_or(|node| node == ask.from);
        let granted = ask.term == stored.term && is_free && is_as_new(last, stored.last());
        let term = stored.term;
        let answer = self.message(n, ask.from, term, Body::Vote { granted });
        let mut ops = Vec::new();
        if granted {
            self.rest(n);
            let voted_for = Some(ask.from);
            ops.push(Op::Vote { term, voted_for });
        }
        self.write(n, ops, vec![Then::Send(answer)]);
    }

    /// Whether it has started too lately to vote or to campaign.
    fn is_silent(&self, n: usize) -> bool {
        self.local(n) < self.nodes[n].raft.silent_until
    }

    /// Whether it leads and a majority has answered lately.
    fn holds_lease(&self, n: usize) -> bool {
        let local = self.local(n);
        match &self.nodes[n].raft.role {
            Role::Leader(lead) => lead
                .quorum_answered(local)
                .is_some_and(|at| local < at + LEASE),
            _ => false,
        }
    }

    fn count_vote(&mut self, n: usize, from: usize) {
        let Role::Candidate { votes, .. } = &mut self.nodes[n].raft.role else {
            return;
        };
        votes.insert(from);
        if votes.len() > MEMBERS / 2 {
            self.lead(n);
        }
    }

    fn lead(&mut self, n: usize) {
        let local = self.local(n);
        let stored = &self.nodes[n].disk.now;
        let (term, last) = (stored.term, stored.last_index());
        self.oracle.elected(term, n, stored);
        self.trace(|| format!("node {n} leads term {term} from {last}"));
        let others = || (0..MEMBERS).filter(|to| *to != n);
        self.nodes[n].raft.leader = Some(n);
        self.nodes[n].raft.role = Role::Leader(Lead {
            term,
            since: local,
            next: others().map(|to| (to, last + 1)).collect(),
            matched: others().map(|to| (to, 0)).collect(),
            ..Lead::default()
        });
        let first = Entry {
            term,
            id: self.next_id(),
            record: None,
        };
        self.append(n, first);
    }

    /// A leader hands over.
    pub fn transfer(&mut self, n: usize, to: usize) {
        let term = self.nodes[n].disk.now.term;
        let Role::Leader(lead) = &mut self.nodes[n].raft.role else {
            return;
        };
        lead.is_transferring = true;
        self.trace(|| format!("node {n} hands over to {to}"));
        self.send(n, to, term, Body::Campaign);
    }
}
