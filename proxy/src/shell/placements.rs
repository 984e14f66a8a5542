//! The placements in force at this proxy: the tenant table and the topology snapshot. Written by
//! the feed's one task, read for every request. Readers load the tenant's entry first and the
//! topology after it, the writer puts regions and groups in force before tenants; so an entry
//! always finds its group, and where it doesn't the request fails closed (I10).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use maia_common::ErrorCode;
use maia_common::topology::Topology;
use tokio::sync::watch;

use crate::core::decide::{Decision, Facts, Rules, decide};
use crate::core::feed::Step;
use crate::core::fingerprint::FingerprintKey;
use crate::core::table::{Entry, Table};

/// Shared by all of the shell.
pub struct Placements {
    rules: Rules,
    key: FingerprintKey,
    table: Table,
    /// `None` until the first snapshot.
    topology: ArcSwapOption<Topology>,
    changed: watch::Sender<u64>,
    started: Instant,
    /// Milliseconds after `started` at which a coordinator was last heard, plus one; 0: never.
    heard_ms: AtomicU64,
}

impl Placements {
    /// Nothing known yet.
    #[must_use]
    pub fn new(rules: Rules, key: FingerprintKey) -> Self {
        Self {
            rules,
            key,
            table: Table::default(),
            topology: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
        }
    }

    /// What this proxy itself brings to decisions.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// By which tenants are known here.
    #[must_use]
    pub fn key(&self) -> &FingerprintKey {
        &self.key
    }

    /// Decides about a request, and hands the decision on while the topology that it points into
    /// is held. `then` must not wait.
    pub fn route<R>(
        &self,
        tenant: &str,
        facts: &Facts<'_>,
        then: impl FnOnce(Decision<'_>, Option<&Entry>, Option<&Topology>) -> R,
    ) -> R {
        let entry = self.table.lookup(self.key.of(tenant));
        let mut topology = self.topology.load();
        if let (Some(entry), Some(known)) = (&entry, topology.as_ref())
            && !known.groups.contains_key(&entry.group)
        {
            topology = self.topology.load();
        }
        let Some(known) = topology.as_deref() else {
            return then(Decision::Reject(ErrorCode::Unavailable), None, None);
        };
        let decision = decide(facts, entry.as_ref(), known, &self.rules);
        then(decision, entry.as_ref(), Some(known))
    }

    /// The topology in force; `None` before the first snapshot.
    #[must_use]
    pub fn topology(&self) -> Option<Arc<Topology>> {
        self.topology.load_full()
    }

    /// Tenants in the table.
    #[must_use]
    pub fn tenants(&self) -> usize {
        self.table.len()
    }

    /// Tells of every change to what is in force.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Puts a step of the feed in force. Called by the feed's task only.
    pub fn put(&self, step: Step) {
        match step {
            Step::Nothing => return,
            Step::Snapshot { topology, tenants } => {
                self.topology.store(Some(Arc::new(topology)));
                self.table.replace(tenants);
            }
            Step::Delta {
                topology,
                tenants,
                after,
                ..
            } => {
                self.topology.store(Some(Arc::new(topology)));
                self.table.apply(tenants);
                if let Some(after) = after {
                    self.topology.store(Some(Arc::new(after)));
                }
            }
            Step::Hint(topology) => self.topology.store(Some(Arc::new(topology))),
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// Notes that a coordinator was heard just now.
    pub fn heard(&self) {
        let now = self.started.elapsed().as_millis() as u64 + 1;
        self.heard_ms.store(now, Ordering::Relaxed);
    }

    /// Since a coordinator was last heard; `None`: never.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let heard = self.heard_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            self.started
                .elapsed()
                .saturating_sub(Duration::from_millis(heard)),
        )
    }
}
