//! Snapshots: sent to who needs entries that are purged, and what leaves a log under one.

use std::rc::Rc;

use maia_coordinator::core::quarantine::Why;
use maia_coordinator::metastore::memory::MemoryState;
use maia_coordinator::raft::{Mutations, StateCf};

use super::Body;
use crate::disk::{Op, Snapshot, Then};
use crate::plan::{Bug, Micros};
use crate::world::World;

impl World {
    pub(super) fn send_snapshot(&mut self, n: usize, to: usize, local: Micros) {
        let node = &self.nodes[n];
        let term = node.disk.now.term;
        let stored = &node.disk.now.checkpoint;
        let snapshot = if self.plan.is_data(to) {
            match self.plan.bug {
                Some(Bug::DedupLostInSnapshot) => Rc::new(without_keys(stored)),
                _ => Rc::clone(stored),
            }
        } else {
            Rc::new(Snapshot {
                at: stored.at,
                history: stored.history.clone(),
                ..Snapshot::default()
            })
        };
        let sent_at = local;
        self.send(n, to, term, Body::Install { snapshot, sent_at });
    }

    pub(super) fn install(
        &mut self,
        n: usize,
        from: usize,
        snapshot: Rc<Snapshot>,
        sent_at: Micros,
    ) {
        let node = &mut self.nodes[n];
        let stored = &node.disk.now;
        let (term, index) = (stored.term, snapshot.at.index.get());
        let mut ops = Vec::new();
        if stored.term_at(index) == Some(snapshot.at.term.get()) || stored.base >= snapshot.at {
            // What it has goes as far: it keeps its log.
        } else {
            let first = stored.base.index.get() + 1;
            // First the state: what it has in its history was committed.
            node.load(&snapshot);
            node.observe_state();
            let left = self.leaving(n, first, Why::UnderSnapshot);
            ops.push(Op::Quarantine(left));
            ops.push(Op::Replace(Rc::clone(&snapshot)));
            self.oracle.counts.installs += 1;
            self.trace(|| format!("node {n} installs a snapshot up to {index}"));
        }
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
        self.write(n, ops, vec![Then::Send(answer)]);
    }
}

/// A planted bug's snapshot.
fn without_keys(snapshot: &Snapshot) -> Snapshot {
    let mut kept = Mutations::default();
    for ((cf, key), value) in snapshot.state.rows() {
        if *cf != StateCf::Dedup {
            kept.put(*cf, key.clone(), value.clone());
        }
    }
    let mut state = MemoryState::default();
    state.write(kept);
    Snapshot {
        state,
        ..snapshot.clone()
    }
}
