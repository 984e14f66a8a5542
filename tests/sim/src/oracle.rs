//! What must be true, whatever happened: hears of every election, commit, apply and answer, and
//! compares with a history of its own by the predicates of `maia_common::invariants`. The first
//! violation ends the run. `history` is the committed history and what it means,
//! `resolutions` and `registers` what may become of a record that was cut off.

mod history;
mod registers;
mod resolutions;

use std::collections::{BTreeMap, BTreeSet};

use maia_common::ids::{NodeId, TenantId};
use maia_common::invariants::{self, Violation};
use maia_common::limits::MAX_TERM_STARTS;
use maia_common::position::{Index, Position, Term};
use maia_common::wire::record::data_outcome::What;
use maia_coordinator::core::quarantine::{EntryId, Resolution};
use maia_coordinator::core::record::Record;
use maia_coordinator::raft::{StateCf, StateView, group_key};

use crate::disk::{Entry, Image};
use crate::node::Node;
use crate::plan::{GROUP, Plan, tenant_number};
use crate::report::Counts;
use crate::serve::Write;

pub use history::History;

/// What a proposal is, beyond its record.
#[derive(Debug, Clone)]
pub struct Proposal {
    pub tenant: usize,
    /// The idempotency key and the body that it truly stands for.
    pub key: Option<(String, u64)>,
    /// The proposal that was cut off, of which this is the resolution, and how it is to be resolved.
    pub resolves: Option<(u64, Resolution)>,
}

impl Proposal {
    pub fn of(write: &Write) -> Self {
        Self {
            tenant: write.tenant,
            key: write.key.clone(),
            resolves: None,
        }
    }

    pub fn control(tenant: usize) -> Self {
        Self {
            tenant,
            key: None,
            resolves: None,
        }
    }
}

/// An answer that says what became of a record.
#[derive(Debug, Clone)]
pub struct Ack {
    pub id: u64,
    pub position: Position,
    pub what: What,
    /// Copies promised and found; none: the answer promised none.
    pub copies: Option<(usize, usize)>,
}

/// The oracle.
#[derive(Default)]
pub struct Oracle {
    pub counts: Counts,
    pub violation: Option<Violation>,
    leaders: BTreeMap<Term, NodeId>,
    history: History,
    /// Answered, and not committed yet.
    unproven: BTreeMap<u64, Ack>,
    early: BTreeSet<u64>,
    /// The newest term in which anything was answered.
    answering: Term,
    /// The last index of all that was answered after commit.
    answered: u64,
}

fn node_id(n: usize) -> NodeId {
    NodeId::new(n as u64 + 1)
}

impl Oracle {
    fn check(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.violation.get_or_insert(violation);
        }
    }

    pub fn proposed(&mut self, id: u64, proposal: &Proposal, record: &Record) {
        self.history.proposed(id, proposal, record);
    }

    pub fn bounded(&mut self, what: &str, count: usize, cap: usize) {
        self.check(invariants::bounded(what, count, cap));
    }

    /// I1 and I2: one leader a term, and its log has all that is committed.
    pub fn elected(&mut self, term: u64, n: usize, log: &Image) {
        self.counts.elections += 1;
        let seen = (Term::new(term), node_id(n));
        if let Some(known) = self.leaders.insert(seen.0, seen.1) {
            self.check(invariants::one_writer((seen.0, known), seen));
        }
        let lost = self
            .history
            .before(term)
            .find(|(at, id)| !log.holds(*at, *id));
        if let Some((at, id)) = lost {
            let found = log.entry(at).map(|entry| entry.id.to_be_bytes());
            let found = found.as_ref().map(<[u8; 8]>::as_slice);
            self.check(invariants::no_acked_loss(&id.to_be_bytes(), found));
        }
    }

    /// The leader of a term counts an entry as committed.
    pub fn committed(&mut self, at: u64, by: u64, entry: &Entry) {
        if !self.history.is_next(at) {
            let result = self.history.is_same(at, entry);
            self.check(result);
            return;
        }
        self.counts.committed += 1;
        let is_early = self.early.contains(&entry.id);
        let result = self
            .history
            .push((at, by), entry, is_early, &mut self.counts);
        self.check(result);
        if let Some(ack) = self.unproven.remove(&at) {
            self.prove(&ack);
        }
    }

    /// I2, I13: every node applies what is committed, and makes the same of it.
    pub fn applied(&mut self, n: usize, at: u64, entry: &Entry, outcome: Option<&What>) {
        let same = self.history.is_same(at, entry);
        self.check(same);
        let expected = self.history.outcome(at);
        let result = invariants::state_of_log(&expected, &outcome, || {
            format!("node {n} made {outcome:?} of record {at}, not {expected:?}")
        });
        self.check(result);
    }

    /// I1, I3: an answer before commit.
    pub fn early(&mut self, id: u64, position: Position, n: usize) {
        self.counts.acks += 1;
        self.counts.early += 1;
        self.early.insert(id);
        let result = invariants::one_at_a_time(self.answering, position.term);
        self.check(result.map_err(|violation| Violation {
            what: format!("node {n}: {}", violation.what),
            ..violation
        }));
        self.answering = self.answering.max(position.term);
        if let Some(What::Refused(refused)) = self.history.outcome_of(position.index.get(), id) {
            let what = format!("record {id}, refused with {}", refused.code);
            self.check(invariants::early_takes_effect(&what, false));
        }
    }

    /// I2: an answer after commit, of whatever became of the record.
    pub fn acknowledged(&mut self, ack: Ack) {
        self.counts.acks += 1;
        if let Some((wanted, found)) = ack.copies {
            self.check(invariants::copies(wanted, found));
        }
        if self.history.has(ack.position.index.get()) {
            self.prove(&ack);
        } else {
            self.unproven.insert(ack.position.index.get(), ack);
        }
    }

    fn prove(&mut self, ack: &Ack) {
        let at = ack.position.index.get();
        self.answering = self.answering.max(ack.position.term);
        self.answered = self.answered.max(at);
        let found = self.history.outcome_of(at, ack.id);
        let is_true = found == Some(&ack.what);
        let told = format!("record {}: {:?}", ack.id, ack.what);
        let found = is_true.then_some(told.as_bytes());
        self.check(invariants::no_acked_loss(told.as_bytes(), found));
    }

    pub fn is_sealed(&self, tenant: Option<&TenantId>) -> bool {
        self.history.is_sealed(tenant_number(tenant))
    }

    /// I3: what is in quarantine does not lie there for ever without the operator's knowledge.
    pub fn settles(&mut self, id: EntryId, is_over: bool) {
        self.check(invariants::settles(id, is_over));
    }

    pub fn witness(&mut self, witness: Position, follower: Position, runs_free: bool) {
        self.check(invariants::witness_behind(witness, follower, runs_free));
    }

    /// I9: served to a token, from a state with this history of (term, id).
    pub fn token_read(&mut self, token: Position, history: &[(u64, u64)]) {
        self.counts.reads += 1;
        let at = token.index.get() as usize;
        let found = at.checked_sub(1).and_then(|at| history.get(at));
        let found = found.map(|(term, _)| Term::new(*term));
        self.check(invariants::read_your_writes(token, found));
    }

    /// A strong read sees all that was answered before it, early answers excepted.
    pub fn strong_read(&mut self, applied: Position) {
        self.counts.strong += 1;
        let answered = Position::new(applied.term, Index::new(self.answered));
        let seen = (applied.index >= answered.index).then_some(answered.term);
        self.check(invariants::read_your_writes(answered, seen));
    }

    /// When all is healed and at rest: I3, I7, I12, I13 on every node.
    pub fn finish(&mut self, nodes: &[Node], plan: &Plan) {
        let kept = |node: &Node| node.disk.synced.quarantine.clone();
        let quarantined: BTreeSet<u64> = nodes.iter().flat_map(kept).map(|k| k.id).collect();
        self.counts.quarantined = quarantined.len() as u64;
        for id in std::mem::take(&mut self.early) {
            let in_log = self.history.contains(id) || self.history.is_settled(id);
            let what = format!("record {id}");
            self.check(invariants::accounted(
                &what,
                in_log,
                quarantined.contains(&id),
            ));
        }
        if let Some(ack) = self.unproven.values().next() {
            let told = ack.id.to_be_bytes();
            self.check(invariants::no_acked_loss(&told, None));
        }
        for (n, node) in nodes.iter().enumerate() {
            self.finish_node(n, node, plan);
        }
    }

    fn finish_node(&mut self, n: usize, node: &Node, plan: &Plan) {
        let payloads = node.disk.now.entries.iter();
        let payloads = payloads.filter(|entry| entry.record.is_some()).count();
        let rows = node.state.rows();
        let (is_data, quarantine) = (plan.is_data(n), node.disk.now.quarantine.len());
        let is_member = is_data && !node.has_left;
        self.check(invariants::locality(is_member, payloads + rows.len()));
        self.check(invariants::locality(is_data, quarantine));
        if !is_member {
            return;
        }
        let last = self.history.last_index();
        let (applied, state) = (node.applied.index.get(), self.history.state());
        let result = invariants::state_of_log(&last, &applied, || {
            format!("node {n} has not come to rest: {applied} of {last} applied")
        });
        let same = invariants::state_of_log(&state.rows(), &rows, || {
            format!("node {n}'s state is not what its log makes")
        });
        let starts = node.state.scan(
            StateCf::Marks,
            &group_key(GROUP, b"\x01t"),
            None,
            usize::MAX,
        );
        let starts = starts.expect("memory can be read").len();
        let cap = usize::try_from(MAX_TERM_STARTS).unwrap_or(usize::MAX);
        self.check(result.and(same));
        self.bounded("term starts", starts, cap);
    }
}
