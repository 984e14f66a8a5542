//! The placements in force at this proxy, read for every request ([`Published`]), written step by
//! step by the feed's one task. A request reads one view: its tenant's entry, groups and regions
//! always belong together.
//!
//! What was loaded from disk is not in force at once: the feed's first steps go over it, and it
//! comes into force when a coordinator has brought it up to date, or none has answered
//! ([`Placements::enforce`], called by the feed's task alone, as all that writes).

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use maia_common::topology::Topology;
use maia_common::{ErrorCode, Generation, Revision};
use tokio::sync::watch;

use crate::core::classify::Class;
use crate::core::decide::{Decision, Facts, Rules, decide};
use crate::core::feed::Step;
use crate::core::fingerprint::{Fingerprint, FingerprintKey};
use crate::core::table::Table;
use crate::shell::in_flight::{InFlight, Write};
use crate::shell::on_demand::{Known, OnDemand};
use crate::shell::published::{Published, View};

/// Shared by all of the shell.
pub struct Placements {
    rules: Rules,
    key: FingerprintKey,
    published: Published,
    /// Loaded from disk, and not yet in force.
    waiting: Mutex<Option<View>>,
    /// Tenants are here, and not in the table, where not all are held.
    on_demand: Option<OnDemand>,
    in_flight: &'static InFlight,
    changed: watch::Sender<u64>,
    started: Instant,
    /// Milliseconds after `started` at which a coordinator was last heard, plus one; 0: never.
    heard_ms: AtomicU64,
    /// Whether a coordinator ever said anything.
    met: AtomicBool,
    /// Whether the one that is followed hears no leader of the metastore.
    leaderless: AtomicBool,
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
    pub fn new(rules: Rules, key: FingerprintKey, on_demand: Option<OnDemand>) -> Self {
        Self {
            rules,
            key,
            published: Published::default(),
            waiting: Mutex::new(None),
            on_demand,
            in_flight: InFlight::leak(),
            changed: watch::Sender::new(0),
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            met: AtomicBool::new(false),
            leaderless: AtomicBool::new(false),
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
    /// is held; `None`: the tenant must be looked up first. With it, of a write, what counts it as
    /// in flight until it is dropped. `then` must not wait. For threads that serve.
    #[inline]
    pub fn route<R>(
        &self,
        tenant: &str,
        facts: &Facts<'_>,
        then: impl FnOnce(Option<Decision<'_>>, Option<Write>) -> R,
    ) -> R {
        let print = self.key.of(tenant);
        let write = (facts.class == Class::Write).then(|| self.in_flight.enter(print));
        self.published
            .read(|view| then(self.decide(view, print, facts).0, write))
    }

    /// The writes that are on their way.
    #[must_use]
    pub fn in_flight(&self) -> &'static InFlight {
        self.in_flight
    }

    /// What would become of a request by this view, and what is known of its tenant.
    #[inline]
    pub fn decide<'v>(
        &self,
        view: &'v View,
        print: Fingerprint,
        facts: &Facts<'_>,
    ) -> (Option<Decision<'v>>, Known) {
        let Some(topology) = &view.topology else {
            let nothing = Decision::Reject(ErrorCode::Unavailable);
            return (Some(nothing), Known::Missing);
        };
        let known = match &self.on_demand {
            None => Known::of(view.table.lookup(print)),
            Some(tenants) => tenants.peek(print, topology.revision),
        };
        let entry = match &known {
            Known::Placed(entry) => Some(entry),
            Known::Unplaced => None,
            Known::Missing => return (None, known),
        };
        (Some(decide(facts, entry, topology, &self.rules)), known)
    }

    /// The tenants, where not all are held.
    #[must_use]
    pub fn on_demand(&self) -> Option<&OnDemand> {
        self.on_demand.as_ref()
    }

    /// Tenants that are known.
    #[must_use]
    pub fn tenants(&self) -> u64 {
        let of_table = || self.view().table.len() as u64;
        self.on_demand.as_ref().map_or_else(of_table, OnDemand::len)
    }

    /// Generation and revision in force; zeros before the first snapshot.
    #[must_use]
    pub fn in_force(&self) -> (Generation, Revision) {
        let topology = self.topology();
        topology.map_or_else(Default::default, |t| (t.generation, t.revision))
    }

    /// Returns when this revision is in force, or a later generation: perhaps never.
    pub async fn reach(&self, revision: Revision) {
        let mut changes = self.changes();
        let (generation, _) = self.in_force();
        while self.in_force() < (generation, revision) {
            let _changed = changes.changed().await;
        }
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

    /// The topology in force, or the one that waits to be; `None` where there is neither.
    #[must_use]
    pub fn known(&self) -> Option<Arc<Topology>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = waiting.as_ref().and_then(|view| view.topology.clone());
        waiting.or_else(|| self.topology())
    }

    /// Whether requests can be decided: what is in force is enough, or there is, or was, somebody
    /// to ask for tenants.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let has_tenants = self.on_demand.is_none() || self.met.load(Ordering::Relaxed);
        has_tenants && self.topology().is_some()
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

    /// Begins with what was saved at an earlier run; not in force before [`Placements::enforce`].
    pub fn restore(&self, topology: Topology, table: Table, saved: SystemTime) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = Some(View {
            topology: Some(Arc::new(topology)),
            table,
        });
        drop(waiting);
        self.was_saved(saved);
    }

    /// Puts in force what was loaded from disk, with what the feed brought since; true: it was not
    /// so before.
    pub fn enforce(&self) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(view) = waiting.take() else {
            return false;
        };
        self.published.publish(view);
        drop(waiting);
        self.source.store(Source::Disk as u8, Ordering::Relaxed);
        self.changed.send_modify(|count| *count += 1);
        true
    }

    /// Notes that a coordinator's stream begins.
    pub fn met(&self) {
        self.met.store(true, Ordering::Relaxed);
    }

    /// Notes whether the coordinator that is followed hears no leader of the metastore.
    pub fn set_leaderless(&self, leaderless: bool) {
        self.leaderless.store(leaderless, Ordering::Relaxed);
    }

    /// Whether the coordinator that is followed hears no leader of the metastore: what is in force
    /// may be older than it looks.
    #[must_use]
    pub fn is_leaderless(&self) -> bool {
        self.leaderless.load(Ordering::Relaxed)
    }

    /// Frees what was replaced and is read no more.
    pub fn sweep(&self) {
        self.published.sweep();
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

    /// Puts a step of the feed in force, as one; tenants on demand follow at once. Called by the
    /// feed's task only.
    pub async fn put(&self, step: Step) {
        match step {
            Step::Nothing => return self.sweep(),
            Step::Snapshot { topology, tenants } => {
                self.publish(topology, |_| tenants);
                if let Some(on_demand) = &self.on_demand {
                    on_demand.forget();
                }
            }
            Step::Delta {
                topology, tenants, ..
            } => {
                let revision = topology.revision;
                match &self.on_demand {
                    None => self.publish(topology, |table| table.with(tenants)),
                    // In this order: see there.
                    Some(on_demand) => {
                        self.publish(topology, Table::clone);
                        on_demand.changed(revision, &tenants).await;
                    }
                }
            }
            Step::Hint(topology) => self.publish(topology, Table::clone),
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// Over what waits, or over what is in force.
    fn publish(&self, topology: Topology, table: impl FnOnce(&Table) -> Table) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let in_force = self.view();
        let table = table(&waiting.as_ref().unwrap_or(&in_force).table);
        drop(in_force); // so that it can be freed once it is replaced
        let view = View {
            topology: Some(Arc::new(topology)),
            table,
        };
        match waiting.as_mut() {
            Some(waiting) => *waiting = view,
            None => self.published.publish(view),
        }
    }

    /// Notes that a coordinator was heard just now.
    pub fn heard(&self) {
        let now = self.started.elapsed().as_millis() as u64 + 1;
        self.heard_ms.store(now, Ordering::Relaxed);
    }

    /// Since a coordinator was last heard that hears a leader of the metastore; before that, since
    /// what is in force was saved. `None`: nothing is in force.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.topology()?;
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
