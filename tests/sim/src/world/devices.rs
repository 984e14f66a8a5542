//! Network and disk: messages on their way, batches until they are synced.

use super::{Event, World};
use crate::disk::{Op, Then};
use crate::plan::{Bug, MS};
use crate::raft::{Body, Message, Role};

impl World {
    pub fn message(&self, from: usize, to: usize, term: u64, body: Body) -> Message {
        Message {
            from,
            to,
            term,
            wall_ms: self.nodes[from].clocks.wall_ms(self.now),
            body,
        }
    }

    pub fn send(&mut self, from: usize, to: usize, term: u64, body: Body) {
        let message = self.message(from, to, term, body);
        self.post(message);
    }

    /// Puts a message on the network: it may be lost, late, or come twice.
    pub fn post(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        if from == to {
            self.after(0, Event::Deliver(message));
            return;
        }
        if self.net.loses(from, to, self.now, &mut self.rng) {
            return;
        }
        if self.rng.u8(0..100) < 2 {
            self.oracle.counts.duplicated += 1;
            let delay = self.net.delay(&mut self.rng);
            self.after(delay, Event::Deliver(message.clone()));
        }
        let delay = self.net.delay(&mut self.rng);
        self.after(delay, Event::Deliver(message));
    }

    /// Writes a batch to a node's disk; `then` follows its sync.
    pub fn write(&mut self, n: usize, ops: Vec<Op>, then: Vec<Then>) {
        if self.plan.has(Bug::AckBeforeFsync) {
            self.nodes[n].disk.write(ops, Vec::new());
            self.begin_sync(n);
            self.follow(n, then);
            return;
        }
        self.nodes[n].disk.write(ops, then);
        self.begin_sync(n);
    }

    fn begin_sync(&mut self, n: usize) {
        if self.nodes[n].disk.begin_sync() {
            let is_slow = self.nodes[n].slow_disk_until > self.now;
            let longest = if is_slow { 400 * MS } else { 6 * MS };
            let delay = self.rng.u64(100..longest);
            let life = self.nodes[n].life;
            self.after(delay, Event::Synced { node: n, life });
        }
    }

    pub(super) fn synced(&mut self, n: usize) {
        let then = self.nodes[n].disk.end_sync();
        self.follow(n, then);
        self.begin_sync(n);
    }

    fn follow(&mut self, n: usize, then: Vec<Then>) {
        for what in then {
            match what {
                Then::Send(message) => self.post(message),
                Then::OwnFlush { term, index } => {
                    if let Role::Leader(lead) = &mut self.nodes[n].raft.role
                        && lead.term == term
                    {
                        lead.flushed = lead.flushed.max(index);
                        self.answer_early(n, index);
                        self.advance(n);
                    }
                }
            }
        }
    }
}
