//! The placements in force at this proxy, read for every request ([`Published`]), written step by
//! step by the feed's one task. A request reads one view: its tenant's entry, groups and regions
//! always belong together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use maia_common::ErrorCode;
use maia_common::topology::Topology;
use tokio::sync::watch;

use crate::core::decide::{Decision, Facts, Rules, decide};
use crate::core::feed::Step;
use crate::core::fingerprint::FingerprintKey;
use crate::core::table::{Entry, Table};
use crate::shell::published::{Published, View};

/// Shared by all of the shell.
pub struct Placements {
    rules: Rules,
    key: FingerprintKey,
    published: Published,
    changed: watch::Sender<u64>,
    started: Instant,
    /// Milliseconds after `started` at which a coordinator was last heard, plus one; 0: never.
    heard_ms: AtomicU64,
    /// A [`Source`].
    source: AtomicU8,
    /// When the snapshot on disk was written, in Unix milliseconds; 0: there is none.
    saved_unix_ms: AtomicU64,
}

/// Where the placements in force came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Source {
    /// There are none.
    None,
    /// The snapshot on disk: no coordinator has said since that they are current.
    Disk,
    /// A coordinator.
    Feed,
}

impl Source {
    /// All of them, in the order of their numbers.
    pub const ALL: [Source; 3] = [Source::None, Source::Disk, Source::Feed];

    /// As metrics and `/readyz` name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::None => "none",
            Source::Disk => "disk",
            Source::Feed => "feed",
        }
    }
}

impl Placements {
    /// Nothing known yet.
    #[must_use]
    pub fn new(rules: Rules, key: FingerprintKey) -> Self {
        Self {
            rules,
            key,
            published: Published::default(),
            changed: watch::Sender::new(0),
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            source: AtomicU8::new(Source::None as u8),
            saved_unix_ms: AtomicU64::new(0),
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
    /// is held. `then` must not wait. For threads that serve.
    #[inline]
    pub fn route<R>(
        &self,
        tenant: &str,
        facts: &Facts<'_>,
        then: impl FnOnce(Decision<'_>) -> R,
    ) -> R {
        self.published
            .read(|view| then(self.decide(view, tenant, facts).0))
    }

    /// What would become of a request by this view, and the tenant's entry.
    #[inline]
    pub fn decide<'v>(
        &self,
        view: &'v View,
        tenant: &str,
        facts: &Facts<'_>,
    ) -> (Decision<'v>, Option<Entry>) {
        let Some(topology) = &view.topology else {
            return (Decision::Reject(ErrorCode::Unavailable), None);
        };
        let entry = view.table.lookup(self.key.of(tenant));
        let decision = decide(facts, entry.as_ref(), topology, &self.rules);
        (decision, entry)
    }

    /// All that is in force now. Not for threads that serve.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.published.view()
    }

    /// The topology in force; `None` before the first snapshot.
    #[must_use]
    pub fn topology(&self) -> Option<Arc<Topology>> {
        self.view().topology.clone()
    }

    /// To be called now and then on each thread that serves.
    pub fn refresh(&self) {
        self.published.refresh();
    }

    /// Tells of every change to what is in force.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Begins with what was saved at an earlier run.
    pub fn restore(&self, topology: Topology, table: Table, saved: SystemTime) {
        self.published.publish(View {
            topology: Some(Arc::new(topology)),
            table,
        });
        self.source.store(Source::Disk as u8, Ordering::Relaxed);
        self.was_saved(saved);
    }

    /// Notes that a coordinator vouches for what is in force.
    pub fn vouched(&self) {
        self.source.store(Source::Feed as u8, Ordering::Relaxed);
    }

    /// Where the placements in force came from.
    #[must_use]
    pub fn source(&self) -> Source {
        Source::ALL[usize::from(self.source.load(Ordering::Relaxed))]
    }

    /// Notes that what is in force was written to disk.
    pub fn was_saved(&self, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH);
        let ms = since.map_or(1, |d| d.as_millis() as u64);
        self.saved_unix_ms.store(ms, Ordering::Relaxed);
    }

    /// Since the snapshot on disk was written; `None`: there is none.
    #[must_use]
    pub fn saved_age(&self) -> Option<Duration> {
        let saved = self.saved_unix_ms.load(Ordering::Relaxed);
        let saved = UNIX_EPOCH + Duration::from_millis((saved > 0).then_some(saved)?);
        Some(saved.elapsed().unwrap_or_default())
    }

    /// Puts a step of the feed in force, as one. Called by the feed's task only.
    pub fn put(&self, step: Step) {
        let before = self.view();
        let (topology, table) = match step {
            Step::Nothing => {
                drop(before);
                self.published.sweep();
                return;
            }
            Step::Snapshot { topology, tenants } => (topology, tenants),
            Step::Delta {
                topology, tenants, ..
            } => (topology, before.table.with(tenants)),
            Step::Hint(topology) => (topology, before.table.clone()),
        };
        drop(before);
        self.published.publish(View {
            topology: Some(Arc::new(topology)),
            table,
        });
        self.changed.send_modify(|count| *count += 1);
    }

    /// Notes that a coordinator was heard just now.
    pub fn heard(&self) {
        let now = self.started.elapsed().as_millis() as u64 + 1;
        self.heard_ms.store(now, Ordering::Relaxed);
    }

    /// Since a coordinator was last heard; before that, since what is in force was saved. `None`:
    /// nothing is in force.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let heard = self.heard_ms.load(Ordering::Relaxed).checked_sub(1);
        heard.map_or_else(
            || self.saved_age(),
            |ms| {
                let heard = Duration::from_millis(ms);
                Some(self.started.elapsed().saturating_sub(heard))
            },
        )
    }
}
