//! A node: its clock, disk, Raft state, applied state, and the proposals that wait for an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use maia_common::position::{Index, Position, Term};
use maia_coordinator::core::history;
use maia_coordinator::core::hlc;
use maia_coordinator::core::record::Hlc;
use maia_coordinator::metastore::memory::MemoryState;

use crate::disk::{Disk, Snapshot};
use crate::plan::{Bug, ELECTION_MAX, GROUP, MS, Micros, Plan};
use crate::quarantine::Resolver;
use crate::raft::{Raft, Role};
use crate::serve::Pending;

/// Clocks: the monotonic one runs a little fast or slow, the wall clock may be set.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// Millionths by which the monotonic clock runs fast.
    pub fast_ppm: i64,
    /// Milliseconds by which the wall clock is ahead of the true time.
    pub ahead_ms: i64,
}

/// The true time at which a run begins, in milliseconds since 1970.
const EPOCH_MS: i64 = 1_000_000;

impl Clocks {
    pub fn local(&self, now: Micros) -> Micros {
        let now = now as i64;
        (now + now / 1000 * self.fast_ppm / 1000) as Micros
    }

    pub fn wall_ms(&self, now: Micros) -> u64 {
        (EPOCH_MS + (now / MS) as i64 + self.ahead_ms).max(0) as u64
    }
}

/// One member.
pub struct Node {
    pub up: bool,
    /// Grows with each start: what belongs to an earlier life is dropped.
    pub life: u64,
    pub paused_until: Micros,
    /// Until then syncs take long.
    pub slow_disk_until: Micros,
    pub clocks: Clocks,
    /// By how much others' wall clocks were ahead when last heard, in milliseconds, and when that
    /// was by the local clock.
    pub offsets: BTreeMap<usize, (i64, Micros)>,
    pub disk: Disk,
    pub raft: Raft,
    pub hlc: Hlc,
    pub state: MemoryState,
    pub applied: Position,
    /// Term and id of every entry applied, from index 1 on: for the oracle.
    pub history: Vec<(u64, u64)>,
    pub apply_due: bool,
    pub pending: BTreeMap<u64, Pending>,
    /// Where the records stand that it has answered early in this life.
    pub early: BTreeSet<Position>,
    pub resolver: Resolver,
    /// Whether it is no member any more.
    pub has_left: bool,
}

impl Node {
    pub fn new(clocks: Clocks) -> Self {
        Self {
            up: true,
            life: 1,
            paused_until: 0,
            slow_disk_until: 0,
            clocks,
            offsets: BTreeMap::new(),
            disk: Disk::default(),
            raft: Raft::default(),
            hlc: Hlc::default(),
            state: MemoryState::default(),
            applied: Position::default(),
            history: Vec::new(),
            apply_due: false,
            pending: BTreeMap::new(),
            early: BTreeSet::new(),
            resolver: Resolver::default(),
            has_left: false,
        }
    }

    /// The process ends; of what is not synced some batches survive. Applied state is not synced:
    /// a power cut takes it back to the last checkpoint.
    pub fn crash(&mut self, survivors: usize, is_power_cut: bool) {
        self.up = false;
        self.life += 1;
        self.disk.crash(survivors);
        self.pending.clear();
        self.early.clear();
        self.resolver = Resolver::default();
        self.raft = Raft::default();
        if is_power_cut {
            let stored = Rc::clone(&self.disk.now.checkpoint);
            self.load(&stored);
        }
    }

    /// Starts with what the disk has. It does not vote for a while: it has forgotten what it had
    /// promised a leader.
    pub fn start(&mut self, plan: &Plan, now: Micros) {
        self.up = true;
        self.life += 1;
        let local = self.clocks.local(now);
        self.raft = Raft {
            silent_until: local + ELECTION_MAX,
            campaign_at: local + 2 * ELECTION_MAX,
            ..Raft::default()
        };
        self.offsets.clear();
        self.apply_due = false;
        self.raft.commit = self.applied.index.get();
        self.hlc = Hlc::default();
        if !plan.has(Bug::ClockRestartedLow) {
            self.observe_state();
        }
    }

    /// Takes a state in place of its own.
    pub fn load(&mut self, snapshot: &Snapshot) {
        self.state = snapshot.state.clone();
        self.applied = snapshot.at;
        self.history.clone_from(&snapshot.history);
        self.raft.commit = self.raft.commit.max(snapshot.at.index.get());
    }

    /// The clock goes on above what made the state.
    pub fn observe_state(&mut self) {
        let greatest = history::greatest_reading(GROUP, &self.state).expect("memory can be read");
        self.hlc = hlc::observe(self.hlc, greatest);
    }

    /// It is no member any more: nothing of the group is left but what is in quarantine.
    pub fn leave(&mut self) {
        self.has_left = true;
        self.pending.clear();
        self.early.clear();
        self.resolver = Resolver::default();
        self.raft = Raft::default();
        self.load(&Snapshot::default());
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            at: self.applied,
            state: self.state.clone(),
            history: self.history.clone(),
        }
    }

    pub fn leads(&self) -> bool {
        self.up && matches!(self.raft.role, Role::Leader(_))
    }

    pub fn position(&self, index: u64) -> Position {
        let term = self.disk.now.term_at(index).unwrap_or_default();
        Position::new(Term::new(term), Index::new(index))
    }
}
