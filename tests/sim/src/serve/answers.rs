//! What happens to proposals: answered early, applied, answered, forgotten.

use std::rc::Rc;
use std::time::Duration;

use maia_common::position::Position;
use maia_common::wire::record::data_outcome::What;
use maia_coordinator::core::acks::{self, EarlyFacts, Progress, Verdict};
use maia_coordinator::core::record::{Record, RecordKind};
use maia_coordinator::core::token::{Token, TokenKey};
use maia_coordinator::core::{data, history, hlc};
use maia_coordinator::raft::Mutations;

use super::{Pending, Reply};
use crate::disk::Op;
use crate::oracle::Ack;
use crate::plan::{Bug, GROUP, LEASE};
use crate::raft::Role;
use crate::world::World;

pub const TOKEN_KEY: TokenKey = [7; 32];

/// Entries after which a node keeps its state, and those that it keeps of the log then.
const CHECKPOINT_ENTRIES: u64 = 30;
const KEPT_ENTRIES: u64 = 6;

impl World {
    /// The leader's own log is synced up to an index: what may be answered early is.
    pub fn answer_early(&mut self, n: usize, flushed: u64) {
        let waiting = self.nodes[n].pending.range(..=flushed);
        let waiting = waiting.filter(|(_, p)| !p.is_answered && p.outcome.is_none());
        let waiting: Vec<(u64, Pending)> = waiting.map(|(at, p)| (*at, p.clone())).collect();
        for (at, pending) in waiting {
            if self.plan.has(Bug::UncommittedVisible) {
                self.guess(n, at, &pending);
            }
            let Some(facts) = self.early_facts(n, at, &pending.record) else {
                return;
            };
            if acks::may_answer_early(&pending.record, facts) {
                let position = pending.position;
                self.trace(|| format!("node {n} answers {} early", pending.id));
                self.nodes[n].early.insert(position);
                self.oracle.early(pending.id, position, n);
                self.answered(n, at);
                let token = token_of(&pending.record, position);
                self.reply(n, pending.client, pending.number, Reply::Early { token });
            }
        }
    }

    fn answered(&mut self, n: usize, at: u64) {
        if let Some(pending) = self.nodes[n].pending.get_mut(&at) {
            pending.is_answered = true;
        }
    }

    fn early_facts(&self, n: usize, at: u64, record: &Record) -> Option<EarlyFacts> {
        let local = self.local(n);
        let node = &self.nodes[n];
        let Role::Leader(lead) = &node.raft.role else {
            return None;
        };
        let tenant = record.tenant.as_ref()?;
        let quorum = lead.quorum_answered(local);
        let is_control = |at: u64| {
            let record = node
                .disk
                .now
                .entry(at)
                .and_then(|entry| entry.record.as_ref());
            record.is_some_and(|r| r.kind != RecordKind::Data && r.tenant.as_ref() == Some(tenant))
        };
        let ahead = node.applied.index.get() + 1..at;
        let is_blind = self.plan.has(Bug::EarlyBehindSeal);
        let open = data::is_open(GROUP, tenant, record.placement, &node.state);
        Some(EarlyFacts {
            quorum_ack_age: quorum.map(|at| Duration::from_micros(local - at)),
            lease: Duration::from_micros(LEASE),
            is_transferring: lead.is_transferring,
            has_applied_term_start: node.applied.term.get() == lead.term,
            is_tenant_open: open.expect("memory can be read"),
            has_control_ahead: !is_blind && ahead.into_iter().any(is_control),
            has_room_aside: true,
        })
    }

    /// The planted bug: a refusal by what is in the log, committed or not.
    fn guess(&mut self, n: usize, at: u64, pending: &Pending) {
        let node = &self.nodes[n];
        let mut state = node.state.clone();
        let mut guessed = None;
        for index in node.applied.index.get() + 1..=at {
            let entry = node.disk.now.entry(index);
            let Some(record) = entry.and_then(|entry| entry.record.as_ref()) else {
                continue;
            };
            let mut out = Mutations::default();
            let outcome = data::apply(GROUP, node.position(index), record, &state, &mut out);
            state.write(out);
            guessed = data::decode_outcome(&outcome.expect("memory can be read"));
        }
        if let Some(what @ What::Refused(_)) = guessed {
            let position = pending.position;
            self.oracle.acknowledged(Ack {
                id: pending.id,
                position,
                what: what.clone(),
                copies: None,
            });
            self.answered(n, at);
            let token = token_of(&pending.record, position);
            let reply = Reply::Outcome { what, token };
            self.reply(n, pending.client, pending.number, reply);
        }
    }

    /// Applies what is committed.
    pub fn apply(&mut self, n: usize) {
        self.nodes[n].apply_due = false;
        let commit = self.nodes[n].raft.commit;
        while self.nodes[n].applied.index.get() < commit {
            let node = &mut self.nodes[n];
            let at = node.applied.index.get() + 1;
            let Some(entry) = node.disk.now.entry(at).cloned() else {
                return;
            };
            let position = node.position(at);
            let reading = entry.record.as_ref().map(|record| record.hlc);
            let mut out = Mutations::default();
            history::note(GROUP, position, reading, &node.state, &mut out)
                .expect("memory can be read");
            node.state.write(out);
            let mut outcome = None;
            if let Some(record) = &entry.record {
                node.hlc = hlc::observe(node.hlc, record.hlc);
                let mut out = Mutations::default();
                let applied = data::apply(GROUP, position, record, &node.state, &mut out);
                node.state.write(out);
                outcome = data::decode_outcome(&applied.expect("memory can be read"));
            }
            node.applied = position;
            node.history.push((entry.term, entry.id));
            self.oracle.applied(n, at, &entry, outcome.as_ref());
            if let Some(pending) = self.nodes[n].pending.get_mut(&at)
                && pending.id == entry.id
            {
                pending.outcome = outcome;
            }
        }
        self.checkpoint(n);
        self.look_at_pending(n);
    }

    fn checkpoint(&mut self, n: usize) {
        let node = &self.nodes[n];
        let applied = node.applied.index.get();
        let kept = node.disk.now.checkpoint.at.index.get();
        if applied >= kept + CHECKPOINT_ENTRIES {
            let state = Rc::new(node.snapshot());
            let purge_to = applied - KEPT_ENTRIES;
            self.write(n, vec![Op::Checkpoint { state, purge_to }], Vec::new());
        }
    }

    /// Answers what may be answered now.
    pub fn look_at_pending(&mut self, n: usize) {
        let node = &self.nodes[n];
        let applied = node.pending.iter().filter(|(_, p)| p.outcome.is_some());
        let applied: Vec<(u64, Pending)> = applied.map(|(at, p)| (*at, p.clone())).collect();
        for (at, pending) in applied {
            let verdict = if pending.is_answered {
                Verdict::Unknown
            } else {
                self.judge(n, at, &pending)
            };
            match verdict {
                Verdict::Wait => continue,
                Verdict::Unknown => {}
                Verdict::Acknowledge { degraded } => self.answer(n, at, &pending, degraded),
            }
            self.nodes[n].pending.remove(&at);
        }
    }

    fn judge(&self, n: usize, at: u64, pending: &Pending) -> Verdict {
        let Role::Leader(lead) = &self.nodes[n].raft.role else {
            let progress = Progress {
                data_copies: 1,
                still_leads: false,
            };
            return pending.rule.judge(&self.replicas(n), progress);
        };
        let has = |node: &usize| lead.matched.get(node).is_some_and(|matched| *matched >= at);
        let own = usize::from(lead.flushed >= at);
        let progress = Progress {
            data_copies: own + self.counted_followers(n).filter(has).count(),
            still_leads: true,
        };
        pending.rule.judge(&self.replicas(n), progress)
    }

    fn answer(&mut self, n: usize, at: u64, pending: &Pending, degraded: bool) {
        let Some(what) = pending.outcome.clone() else {
            return;
        };
        let position = pending.position;
        let found = self.copies(at, pending.id);
        self.trace(|| format!("node {n} answers {} on {found} copies", pending.id));
        let wanted = self.wanted_copies(pending);
        let is_promised = matches!(what, What::Written(_)) && !degraded;
        self.oracle.counts.degraded += u64::from(degraded);
        self.oracle.acknowledged(Ack {
            id: pending.id,
            position,
            what: what.clone(),
            copies: is_promised.then_some((wanted, found)),
        });
        let token = token_of(&pending.record, position);
        let reply = Reply::Outcome { what, token };
        self.reply(n, pending.client, pending.number, reply);
    }

    /// By the words of the protocol, apart from the core that is under test.
    fn wanted_copies(&self, pending: &Pending) -> usize {
        use maia_common::placement::SyncMode;
        match pending.rule.mode {
            SyncMode::Async => 0,
            SyncMode::SemiSync => 1 + pending.rule.min_sync_replicas as usize,
            SyncMode::Sync => self.plan.data_members().count(),
        }
    }

    /// Data members whose disk has the entry, synced.
    fn copies(&self, at: u64, id: u64) -> usize {
        let data = self.plan.data_members();
        data.filter(|node| self.nodes[*node].disk.synced.holds(at, id))
            .count()
    }

    /// This node leads no more: who waits for what is not applied will not hear of it.
    pub fn drop_pending(&mut self, n: usize) {
        self.nodes[n]
            .pending
            .retain(|_, pending| pending.outcome.is_some());
    }
}

fn token_of(record: &Record, position: Position) -> String {
    let tenant = record.tenant.clone().expect("every record here has one");
    Token {
        tenant,
        group: GROUP,
        position,
    }
    .encode(&TOKEN_KEY)
}
