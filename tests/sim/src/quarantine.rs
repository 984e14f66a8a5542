//! Quarantine on the simulated nodes: what leaves a log is kept by the product's rule, and each node
//! resolves its own entries, one at a time, as the product's resolver does. What is to be done with
//! one is the product's decision, and so is what a resolution does, in apply. Between any two steps
//! (proposed, applied, answered, removed) the process may end; what it knew of them is gone then.

use maia_common::error_code::ErrorCode;
use maia_common::position::Revision;
use maia_common::wire::record::data_outcome::What;
use maia_coordinator::core::history::{self, Standing};
use maia_coordinator::core::quarantine::{
    self, EntryId, Home, Resolution, Step, Waiting, Why, waits_for,
};
use maia_coordinator::core::record::{Hlc, Record};

use crate::disk::{Kept, Op};
use crate::oracle::Proposal;
use crate::plan::{Bug, GROUP, MAX_CLOCK_OFFSET, MEMBERS, MS, Micros, region, tenant_number};
use crate::serve::{Ask, Reply, Request};
use crate::world::{Event, World};

/// The resolver of node n, as a client: this and n.
const RESOLVER: usize = 1000;
/// How long an answer may take.
const PATIENCE: Micros = 500 * MS;
const LOOK_EVERY: Micros = 100 * MS;
/// How long resolvers go on when all is healed: those that find a tenant sealed would never end.
const RESOLVE: Micros = 5000 * MS;
/// Of hundred looks at an entry that waits, those after which the operator has decided.
const DECISIONS: u8 = 4;

/// What a node's resolver knows.
#[derive(Debug, Default)]
pub struct Resolver {
    under_way: Option<Resolving>,
    /// The entry that it has looked at last.
    after: Option<EntryId>,
    /// When it looks again, by the local clock.
    next_look: Micros,
    /// Whom it asks.
    target: usize,
}

/// A resolution under way.
#[derive(Debug, Clone)]
struct Resolving {
    number: u64,
    kept: Kept,
    how: Resolution,
}

impl World {
    /// What is kept of the entries from an index on, which are about to leave a node's log.
    pub fn leaving(&self, n: usize, from: u64, why: Why) -> Vec<Kept> {
        let dropped = match why {
            Why::Truncated => Bug::DroppedAtTruncation,
            Why::UnderSnapshot => Bug::DroppedUnderSnapshot,
            Why::Left => Bug::DroppedAtLeaving,
        };
        let last = self.nodes[n].disk.now.last_index();
        if self.plan.has(dropped) {
            return Vec::new();
        }
        let kept = (from..=last).filter_map(|at| self.kept(n, at, why));
        kept.collect()
    }

    fn kept(&self, n: usize, at: u64, why: Why) -> Option<Kept> {
        let node = &self.nodes[n];
        let entry = node.disk.now.entry(at)?;
        let record = entry.record.as_ref()?;
        let position = node.position(at);
        let id = EntryId {
            group: GROUP,
            position,
        };
        let was_acknowledged = node.early.contains(&position);
        let now_ms = node.clocks.wall_ms(self.now);
        let kept = quarantine::leaving(id, record, was_acknowledged, now_ms, why)?;
        let is_committed = self.standing_of(n, id) == Some(Standing::Applied);
        let is_kept = !is_committed || self.plan.has(Bug::AppliedTwice);
        is_kept.then_some(Kept {
            id: entry.id,
            entry: kept,
        })
    }

    /// None where the group is no more.
    fn standing_of(&self, n: usize, id: EntryId) -> Option<Standing> {
        let node = &self.nodes[n];
        if node.has_left {
            return None;
        }
        let standing = history::standing(GROUP, id.position, node.applied, &node.state);
        Some(standing.expect("memory can be read"))
    }

    /// A node leaves the group: its log and its state go, its quarantine stays.
    pub fn leave(&mut self, n: usize) {
        let first = self.nodes[n].disk.now.base.index.get() + 1;
        let kept = self.leaving(n, first, Why::Left);
        self.oracle.counts.leavings += 1;
        let count = kept.len();
        self.trace(|| format!("node {n} leaves the group, {count} records go to quarantine"));
        self.nodes[n].leave();
        self.write(n, vec![Op::Quarantine(kept), Op::Leave], Vec::new());
    }

    fn step_of(&self, n: usize, kept: &Kept, now: quarantine::Now) -> Step {
        let is_blind = self.plan.has(Bug::AppliedTwice);
        let standing = self
            .standing_of(n, kept.entry.id)
            .filter(|standing| !is_blind || *standing == Standing::NotYet);
        let home = Home::Placed(Revision::new(1), self.plan.strategy);
        quarantine::next_step(&kept.entry, standing, home, now)
    }

    /// What a node's clock tells at a moment of the run.
    fn told_at(&self, n: usize, at: Micros, group: Hlc) -> quarantine::Now {
        quarantine::Now {
            unix_ms: self.nodes[n].clocks.wall_ms(at),
            max_clock_offset: MAX_CLOCK_OFFSET,
            group,
        }
    }

    /// Does what is to be done next about a node's quarantine.
    pub fn resolve(&mut self, n: usize) {
        let local = self.local(n);
        let node = &mut self.nodes[n];
        let is_over = self.now > self.plan.busy + RESOLVE;
        if is_over || local < node.resolver.next_look {
            return;
        }
        node.resolver.under_way = None;
        let mut all = node.disk.now.quarantine.clone();
        all.sort_by_key(|kept| kept.entry.id);
        for kept in all {
            let id = kept.entry.id;
            if Some(id) > self.nodes[n].resolver.after {
                self.nodes[n].resolver.after = Some(id);
                if self.take_up(n, kept) {
                    return;
                }
            }
        }
        let resolver = &mut self.nodes[n].resolver;
        resolver.after = None;
        resolver.next_look = local + LOOK_EVERY;
    }

    /// Whether there was something to do about an entry.
    fn take_up(&mut self, n: usize, kept: Kept) -> bool {
        let now = self.told_at(n, self.now, self.nodes[n].hlc);
        match self.step_of(n, &kept, now) {
            Step::Later => return false,
            Step::DropCommitted => {
                self.oracle.counts.proven += 1;
                self.release(n, kept.entry.id);
            }
            // Lifetimes are far longer than a run.
            Step::DropDeleted | Step::Expire => self.release(n, kept.entry.id),
            Step::Resolve(how) => self.propose_resolution(n, kept, how),
            Step::Wait(waiting) if kept.entry.waiting != Some(waiting) => {
                self.let_wait(n, kept, waiting);
            }
            Step::Wait(_) => {
                let is_decided = self.now < self.plan.busy && self.rng.u8(0..100) < DECISIONS;
                if !is_decided {
                    return false;
                }
                self.propose_resolution(n, kept, Resolution::Overwrite);
            }
        }
        true
    }

    fn let_wait(&mut self, n: usize, mut kept: Kept, waiting: Waiting) {
        kept.entry.waiting = Some(waiting);
        self.write(n, vec![Op::Quarantine(vec![kept])], Vec::new());
    }

    fn release(&mut self, n: usize, id: EntryId) {
        self.trace(|| format!("node {n} has settled {id}"));
        self.write(n, vec![Op::Release(id)], Vec::new());
    }

    fn record_of_resolution(&self, n: usize, kept: &Kept, how: Resolution) -> Record {
        let mut entry = kept.entry.clone();
        let mut fields = (*entry.record).clone();
        match self.plan.bug {
            Some(Bug::AppliedTwice) => return entry.record,
            Some(Bug::ResolvedByArrival) => {
                let now_ms = self.nodes[n].clocks.wall_ms(self.now);
                fields.hlc = Hlc::new(now_ms, 0);
            }
            _ => {}
        }
        entry.record = Record::new(fields);
        let made = (Hlc::default(), region(n));
        quarantine::resolution(&entry, how, Revision::new(1), made)
    }

    fn propose_resolution(&mut self, n: usize, kept: Kept, how: Resolution) {
        let number = self.next_id();
        let record = self.record_of_resolution(n, &kept, how);
        let proposal = Proposal {
            tenant: tenant_number(kept.entry.record.tenant.as_ref()),
            key: None,
            resolves: Some((kept.id, how)),
        };
        let id = kept.entry.id;
        self.trace(|| format!("node {n} asks for {id} to be resolved by {}", how.name()));
        let local = self.local(n);
        let node = &mut self.nodes[n];
        node.resolver.next_look = local + PATIENCE;
        node.resolver.under_way = Some(Resolving { number, kept, how });
        let target = node.raft.leader.unwrap_or(node.resolver.target);
        let request = Request {
            client: RESOLVER + n,
            number,
            ask: Ask::Resolve { record, proposal },
        };
        let delay = self.net.delay(&mut self.rng);
        let ask = Event::Ask {
            node: target,
            request,
        };
        self.after(delay, ask);
    }

    /// Whether the answer was for a node's resolver; then it is taken.
    pub fn resolver_hears(&mut self, client: usize, number: u64, reply: &Reply) -> bool {
        let n = client.checked_sub(RESOLVER).filter(|n| *n < MEMBERS);
        let Some(n) = n else { return false };
        let local = self.local(n);
        let node = &mut self.nodes[n];
        let under_way = node.resolver.under_way.take_if(|r| r.number == number);
        let (true, Some(Resolving { kept, how, .. })) = (node.up, under_way) else {
            return true;
        };
        match reply {
            Reply::Outcome { what, .. } => self.take_outcome(n, kept, how, what),
            Reply::NotLeader(leader) => {
                let next = (node.resolver.target + 1) % MEMBERS;
                node.resolver.target = leader.unwrap_or(next);
                node.resolver.next_look = local + LOOK_EVERY;
            }
            // It is asked again when patience ends.
            _ => {}
        }
        true
    }

    fn take_outcome(&mut self, n: usize, kept: Kept, how: Resolution, what: &What) {
        match what {
            What::Refused(refused) => {
                let code = ErrorCode::parse(&refused.code);
                let waiting = code.and_then(waits_for);
                if let Some(waiting) = waiting.filter(|_| how != Resolution::Overwrite) {
                    self.let_wait(n, kept, waiting);
                }
            }
            _ => {
                self.release(n, kept.entry.id);
                self.nodes[n].resolver.next_look = 0;
            }
        }
    }

    /// When all is at rest, nothing is in quarantine but what waits for the operator, an unseal, or a
    /// clock that came up to it too late for the resolvers: after half of their time.
    pub fn check_quarantine(&mut self) {
        for n in 0..MEMBERS {
            let then = self.told_at(n, self.plan.busy + RESOLVE / 2, Hlc::default());
            for kept in self.nodes[n].disk.now.quarantine.clone() {
                let step = self.step_of(n, &kept, then);
                let is_open = !self.oracle.is_sealed(kept.entry.record.tenant.as_ref());
                let is_over = matches!(step, Step::Wait(_)) || !is_open;
                self.oracle.settles(kept.entry.id, is_over);
            }
        }
    }
}
