//! Entries on their way: sending, taking, committing.

use maia_common::position::{Index, Position, Term};

use maia_coordinator::core::quarantine::Why;

use super::{Body, Role};
use crate::disk::{Entry, Op, Then};
use crate::plan::{MEMBERS, Micros, WITNESS};
use crate::world::World;

/// Entries in one message.
const MAX_ENTRIES: usize = 16;

impl World {
    /// The leader adds an entry to its log.
    pub fn append(&mut self, n: usize, entry: Entry) -> u64 {
        let term = entry.term;
        let index = self.nodes[n].disk.now.last_index() + 1;
        let then = vec![Then::OwnFlush { term, index }];
        self.write(n, vec![Op::Append(vec![entry])], then);
        self.speak(n);
        index
    }

    /// The leader sends to every member what it lacks.
    pub(super) fn speak(&mut self, n: usize) {
        let local = self.local(n);
        self.watch_follower(n, local);
        for to in (0..MEMBERS).filter(|to| *to != n) {
            self.send_entries(n, to);
        }
        if let Role::Leader(lead) = &mut self.nodes[n].raft.role {
            lead.spoke_at = local;
        }
    }

    fn send_entries(&mut self, n: usize, to: usize) {
        let local = self.local(n);
        let limit = self.limit(n, to, local);
        let Role::Leader(lead) = &self.nodes[n].raft.role else {
            return;
        };
        let (term, next) = (lead.term, lead.next[&to]);
        let node = &self.nodes[n];
        let stored = &node.disk.now;
        let Some(before) = stored.term_at(next - 1) else {
            self.send_snapshot(n, to, local);
            return;
        };
        let until = limit.min(stored.last_index());
        let entries = (next..=until)
            .take(MAX_ENTRIES)
            .filter_map(|at| stored.entry(at))
            .map(|entry| self.for_member(to, entry));
        let body = Body::Append {
            previous: Position::new(Term::new(before), Index::new(next - 1)),
            entries: entries.collect(),
            commit: node.raft.commit,
            sent_at: local,
        };
        self.send(n, to, term, body);
    }

    /// A witness gets no payload (I7).
    fn for_member(&self, to: usize, entry: &Entry) -> Entry {
        let mut entry = entry.clone();
        if !self.plan.is_data(to) {
            entry.record = None;
        }
        entry
    }

    pub(super) fn take_entries(
        &mut self,
        n: usize,
        from: usize,
        (previous, entries): (Position, Vec<Entry>),
        commit: u64,
        sent_at: Micros,
    ) {
        let node = &mut self.nodes[n];
        let stored = &node.disk.now;
        let (term, base) = (stored.term, stored.base.index.get());
        let start = previous.index.get();
        if start >= base && stored.term_at(start) != Some(previous.term.get()) {
            let index = stored.last_index().min(start.saturating_sub(1));
            let agrees = false;
            self.send(
                n,
                from,
                term,
                Body::Appended {
                    agrees,
                    index,
                    sent_at,
                },
            );
            return;
        }
        let end = start + entries.len() as u64;
        let mut new: Vec<Entry> = Vec::new();
        let mut cut_at = None;
        for (at, entry) in (start + 1..).zip(entries) {
            if new.is_empty() && (at <= base || stored.term_at(at) == Some(entry.term)) {
                continue;
            }
            if new.is_empty() && at <= stored.last_index() {
                cut_at = Some(at);
            }
            new.push(entry);
        }
        node.raft.commit = node.raft.commit.max(commit.min(end));
        let mut ops = Vec::new();
        if let Some(at) = cut_at {
            ops.push(Op::Quarantine(self.leaving(n, at, Why::Truncated)));
            ops.push(Op::Truncate(at));
        }
        if !new.is_empty() {
            ops.push(Op::Append(new));
        }
        let index = end;
        let agrees = true;
        let answer = self.message(
            n,
            from,
            term,
            Body::Appended {
                agrees,
                index,
                sent_at,
            },
        );
        if ops.is_empty() && !self.nodes[n].disk.has_waiting() {
            self.post(answer);
        } else {
            self.write(n, ops, vec![Then::Send(answer)]);
        }
        self.plan_apply(n);
    }

    pub(super) fn take_answer(
        &mut self,
        n: usize,
        from: usize,
        (agrees, index): (bool, u64),
        sent_at: Micros,
    ) {
        let Role::Leader(lead) = &mut self.nodes[n].raft.role else {
            return;
        };
        let answered = lead.answered.entry(from).or_insert(sent_at);
        *answered = (*answered).max(sent_at);
        if !agrees {
            let next = lead.next.entry(from).or_insert(1);
            *next = (*next - 1).min(index + 1).max(1);
            self.send_entries(n, from);
            return;
        }
        let matched = lead.matched.entry(from).or_default();
        let has_grown = index > *matched;
        *matched = index.max(*matched);
        let matched = *matched;
        lead.next.insert(from, matched + 1);
        if from == WITNESS && self.plan.has_witness {
            self.check_witness(n, matched);
        }
        self.advance(n);
        if has_grown && self.nodes[n].leads() {
            self.send_entries(n, from);
            if let Some(witness) = self.plan.has_witness.then_some(WITNESS)
                && witness != from
            {
                self.send_entries(n, witness);
            }
        }
    }

    /// The leader commits what a majority has, by counting only in its own term.
    pub fn advance(&mut self, n: usize) {
        let Role::Leader(lead) = &self.nodes[n].raft.role else {
            return;
        };
        let (term, reached) = (lead.term, lead.quorum_matched());
        let node = &mut self.nodes[n];
        if reached > node.raft.commit && node.disk.now.term_at(reached) == Some(term) {
            let known = node.raft.commit;
            node.raft.commit = reached;
            for at in known + 1..=reached {
                if let Some(entry) = self.nodes[n].disk.now.entry(at) {
                    self.oracle.committed(at, term, entry);
                }
            }
            self.plan_apply(n);
        }
        self.look_at_pending(n);
    }
}
