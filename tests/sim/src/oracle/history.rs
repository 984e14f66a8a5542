//! The committed history, as the oracle has it: applied once by the product's apply, for all nodes to
//! be compared with, and judged record by record by models of a few lines: readings grow, sealed
//! means sealed, a key has one effect.

use std::collections::{BTreeMap, BTreeSet};

use maia_common::error_code::ErrorCode;
use maia_common::invariants::{self, Violation};
use maia_common::position::{Index, Position, Term};
use maia_common::wire::record as wire;
use maia_common::wire::record::data_outcome::What;
use maia_coordinator::core::record::{MigrationStep, Record, RecordKind};
use maia_coordinator::core::{data, history};
use maia_coordinator::metastore::memory::MemoryState;
use maia_coordinator::raft::Mutations;

use super::Proposal;
use super::registers::Registers;
use crate::disk::Entry;
use crate::plan::GROUP;
use crate::report::Counts;

pub(super) struct Committed {
    pub(super) term: u64,
    id: u64,
    /// The term of the leader that committed it.
    by: u64,
    outcome: Option<What>,
}

/// The committed history.
#[derive(Default)]
pub struct History {
    pub(super) entries: Vec<Committed>,
    ids: BTreeSet<u64>,
    pub(super) state: MemoryState,
    pub(super) proposals: BTreeMap<u64, Proposal>,
    greatest: u64,
    /// By tenant: the newest step, and whether its seal is in force.
    seals: BTreeMap<usize, (Option<MigrationStep>, bool)>,
    /// By tenant and key: the body, and what was made of it.
    pub(super) keys: BTreeMap<(usize, String), (u64, What)>,
    /// Records as they were proposed.
    pub(super) records: BTreeMap<u64, Record>,
    /// Proposals that were cut off, and what was made of them.
    pub(super) settled: BTreeMap<u64, What>,
    pub(super) registers: Registers,
}

fn gone(at: u64) -> Result<(), Violation> {
    invariants::no_acked_loss(&at.to_be_bytes(), None)
}

impl History {
    pub fn proposed(&mut self, id: u64, proposal: &Proposal, record: &Record) {
        self.records.insert(id, record.clone());
        self.proposals.insert(id, proposal.clone());
    }

    pub fn last_index(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn state(&self) -> &MemoryState {
        &self.state
    }

    /// Index and id of every entry that was committed in an earlier term than this.
    pub fn before(&self, term: u64) -> impl Iterator<Item = (u64, u64)> {
        let entries = (1..).zip(&self.entries);
        let earlier = entries.filter(move |(_, entry)| entry.by < term);
        earlier.map(|(at, entry)| (at, entry.id))
    }

    pub fn contains(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    pub fn is_settled(&self, id: u64) -> bool {
        self.settled.contains_key(&id)
    }

    pub fn is_sealed(&self, tenant: usize) -> bool {
        self.seals.get(&tenant).is_some_and(|seal| seal.1)
    }

    pub fn has(&self, at: u64) -> bool {
        at <= self.last_index()
    }

    pub fn is_next(&self, at: u64) -> bool {
        at == self.last_index() + 1
    }

    fn at(&self, at: u64) -> Option<&Committed> {
        self.entries.get(usize::try_from(at.checked_sub(1)?).ok()?)
    }

    pub fn outcome(&self, at: u64) -> Option<&What> {
        self.at(at)?.outcome.as_ref()
    }

    /// The outcome of this very record; none when another stands there.
    pub fn outcome_of(&self, at: u64, id: u64) -> Option<&What> {
        self.at(at).filter(|e| e.id == id)?.outcome.as_ref()
    }

    /// I2: what was committed here stays.
    pub fn is_same(&self, at: u64, entry: &Entry) -> Result<(), Violation> {
        let Some(known) = self.at(at) else {
            return gone(at);
        };
        let found = entry.id.to_be_bytes();
        invariants::no_acked_loss(&known.id.to_be_bytes(), Some(&found))
    }

    /// Adds the next entry, and judges it.
    pub fn push(
        &mut self,
        (at, by): (u64, u64),
        entry: &Entry,
        is_early: bool,
        counts: &mut Counts,
    ) -> Result<(), Violation> {
        let before = self.entries.last().map_or(0, |e| e.term);
        let position = Position::new(Term::new(entry.term), Index::new(at));
        let mut outcome = None;
        let reading = entry.record.as_ref().map(|record| record.hlc);
        let mut out = Mutations::default();
        history::note(GROUP, position, reading, &self.state, &mut out).expect("memory can be read");
        self.state.write(out);
        if let Some(record) = &entry.record {
            let mut out = Mutations::default();
            let applied = data::apply(GROUP, position, record, &self.state, &mut out);
            self.state.write(out);
            outcome = data::decode_outcome(&applied.expect("memory can be read"));
        }
        self.ids.insert(entry.id);
        self.entries.push(Committed {
            term: entry.term,
            id: entry.id,
            by,
            outcome: outcome.clone(),
        });
        invariants::monotone(before, entry.term)?;
        match (&entry.record, outcome) {
            (Some(record), Some(what)) => self.judge(entry.id, record, what, is_early, counts),
            _ => Ok(()),
        }
    }

    fn judge(
        &mut self,
        id: u64,
        record: &Record,
        what: What,
        is_early: bool,
        counts: &mut Counts,
    ) -> Result<(), Violation> {
        let reading = record.hlc.get();
        invariants::monotone(self.greatest + 1, reading)?;
        self.greatest = reading;
        let Some(proposal) = self.proposals.get(&id).cloned() else {
            return Ok(());
        };
        if let Some(resolves) = proposal.resolves {
            return self.judge_resolution(&proposal, resolves, record, &what, counts);
        }
        let seal = self.seals.entry(proposal.tenant).or_default();
        if matches!(record.kind, RecordKind::Seal | RecordKind::Unseal) {
            counts.seals += 1;
            let step = record.migration;
            let (newest, is_sealed) = *seal;
            match (record.kind, is_sealed) {
                (RecordKind::Unseal, true) if step == newest => *seal = (step, false),
                (RecordKind::Unseal, true) => {}
                (kind, _) if step > newest => *seal = (step, kind == RecordKind::Seal),
                _ => {}
            }
            return Ok(());
        }
        let is_sealed = seal.1;
        // I8: what was resolved is not committed after that.
        invariants::exactly_once(&None, &self.settled.get(&id))?;
        let took_effect = matches!(&what, What::Written(written) if !written.replayed);
        invariants::sealed(is_sealed, took_effect)?;
        if is_early {
            invariants::early_takes_effect(&format!("record {id}: {what:?}"), took_effect)?;
        }
        if took_effect {
            self.registers.write(record, &what);
        }
        match proposal.key {
            Some((key, body)) => self.judge_key((proposal.tenant, key), body, what, is_sealed),
            None => Ok(()),
        }
    }

    /// I8: the first use of a key that got through decides what every later one is answered.
    fn judge_key(
        &mut self,
        key: (usize, String),
        body: u64,
        what: What,
        is_sealed: bool,
    ) -> Result<(), Violation> {
        let code = |what: &What| match what {
            What::Refused(refused) => refused.code.clone(),
            _ => String::new(),
        };
        match self.keys.get(&key) {
            Some((first, _)) if *first != body => {
                let expected = ErrorCode::IdempotencyConflict.to_string();
                invariants::exactly_once(&expected, &code(&what))
            }
            Some((_, stored)) => invariants::exactly_once(&again(stored), &what),
            None if is_sealed => {
                invariants::exactly_once(&ErrorCode::TenantHeld.to_string(), &code(&what))
            }
            None => {
                self.keys.insert(key, (body, what));
                Ok(())
            }
        }
    }
}

/// A stored outcome, as a repetition is answered.
fn again(stored: &What) -> What {
    match stored {
        What::Written(written) => What::Written(wire::Written {
            replayed: true,
            ..written.clone()
        }),
        other => other.clone(),
    }
}
