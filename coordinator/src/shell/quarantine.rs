//! The owner of this node's quarantine: looks at each entry, drops what proves to be committed, has what
//! was acknowledged resolved in the tenant's group of today, marks the rest as waiting, or hands it over
//! where this node may not keep it, and carries out what the operator decides. Every step may be cut by a
//! crash and is done again: a resolution has one key, and an entry goes only after its outcome is known, or
//! another node has it durably (I3, I7, I8).
//!
//! ```text
//! entry ─▶ next_step ─┬─ resolve ─▶ DataService::reconcile ─▶ applied ─▶ removed
//!                     ├─ drop ──────────────────────────────────────────▶ removed
//!                     ├─ wait ─┬─ this node is a member ─▶ marked
//!                     │        └─ it is not ─▶ handed over to one that is ─▶ removed
//!                     └─ later ─▶ the next look
//! ```

mod counts;
mod handover;
mod look;
mod say;
mod tally;
mod turns;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId, RegionName, TenantId};
use maia_common::limits;
use maia_common::runtime::Tasks;
use tokio::sync::{Mutex, Semaphore, watch};

pub use counts::{Counts, Outcome};
pub use handover::Giver;

use super::clock::Clock;
use super::cluster::Cluster;
use super::data::DataService;
use super::peers::Peers;
use super::placements::Refusal;
use crate::core::history::Standing;
use crate::core::quarantine::{self as core, Entry, EntryId, Home, Resolution};
use crate::core::record::Hlc;
use crate::metastore::Metastore;
use crate::raft::{Engine, Found, Page, Quarantine};

/// Bytes of entries that are read for one answer, about.
const MAX_LIST_BYTES: usize = 4 << 20;

/// What the service stands on.
pub struct QuarantineParts {
    /// This node and its region.
    pub me: (NodeId, RegionName),
    /// For the entries and the groups' histories.
    pub engine: Arc<Engine>,
    /// For homes and resolutions.
    pub data: DataService,
    /// For the age of entries.
    pub clock: Arc<Clock>,
    /// `failover.max_clock_offset`.
    pub max_clock_offset: Duration,
    /// To say what is here.
    pub store: Arc<dyn Metastore>,
    /// For the groups' members.
    pub cluster: Cluster,
    /// For what other members know and take.
    pub peers: Arc<Peers>,
    /// Whom to ask when nothing is known of the cluster.
    pub first: Vec<NodeId>,
    /// Whether this node was removed from the cluster.
    pub removed: watch::Receiver<bool>,
    /// To be kept up to date.
    pub counts: Arc<Counts>,
    /// For what goes on when whoever asked has gone.
    pub tasks: Tasks,
}

struct Inner {
    parts: QuarantineParts,
    /// The resolver and the operator never work on one entry at once.
    one: Mutex<()>,
    /// Entries come in one at a time, and none behind this node's word that it has nothing.
    intake: Mutex<()>,
    /// Bounds the threads that wait for the disk.
    io: Semaphore,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct QuarantineService(Arc<Inner>);

/// What the operator wants of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Written over whatever is there.
    Apply,
    /// Gone for good.
    Drop,
}

/// Which entries are asked for; what is not named may be any.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of this tenant. A damaged one is of nobody.
    pub tenant: Option<TenantId>,
    /// Cut off the log of this group.
    pub group: Option<GroupId>,
}

impl Wanted {
    fn is(&self, found: &Found) -> bool {
        let tenant = found.entry.as_ref().ok();
        let tenant = tenant.and_then(|entry| entry.record.tenant.as_ref());
        self.group.is_none_or(|group| found.id.group == group)
            && (self.tenant.is_none() || self.tenant.as_ref() == tenant)
    }
}

impl QuarantineService {
    /// The service of this node.
    #[must_use]
    pub fn new(parts: QuarantineParts) -> Self {
        Self(Arc::new(Inner {
            parts,
            one: Mutex::default(),
            intake: Mutex::default(),
            io: Semaphore::new(limits::MAX_QUARANTINE_IO),
        }))
    }

    /// This node: it answers for its own entries alone.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.parts.me.0
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.0.parts.counts
    }

    /// Grows with each entry that comes.
    fn news(&self) -> u64 {
        self.0.parts.engine.log_stats().quarantined + self.counts().came().entries
    }

    /// A page of entries in the order of their ids, after `after`; fewer than `limit` when they are large
    /// or few are wanted.
    ///
    /// # Errors
    /// [`Refusal`] when the disk fails.
    pub async fn list(
        &self,
        after: Option<EntryId>,
        limit: usize,
        wanted: Wanted,
    ) -> Result<Page, Refusal> {
        let caps = (limit, MAX_LIST_BYTES);
        let page = self.disk(move |entries| entries.search(after, caps, |found| wanted.is(found)));
        page.await.map_err(|error| unreadable(&error))
    }

    /// The entry with this id.
    ///
    /// # Errors
    /// [`Refusal`]: `not_found`, or the disk fails.
    pub async fn get(&self, id: EntryId) -> Result<Entry, Refusal> {
        let found = self.disk(move |entries| entries.get(id)).await;
        let found = found.map_err(|error| unreadable(&error))?;
        found.ok_or_else(|| {
            let text = format!("no entry `{id}` in the quarantine of node {}", self.node());
            Refusal::new(ErrorCode::NotFound, text)
        })
    }

    /// Carries out the operator's decision; returns what came of it. Safe to repeat.
    ///
    /// # Errors
    /// [`Refusal`]; the entry stays then.
    pub async fn decide(
        &self,
        id: EntryId,
        action: Action,
        deadline: Instant,
    ) -> Result<Outcome, Refusal> {
        let _one = self.0.one.lock().await;
        let entry = match self.get(id).await {
            // One that has rotted can still be dropped.
            Err(refusal) if refusal.code != ErrorCode::NotFound && action == Action::Drop => None,
            found => Some(found?),
        };
        match (action, entry) {
            (Action::Apply, Some(entry)) => self.overwrite(&entry, deadline).await,
            (Action::Apply | Action::Drop, entry) => self.drop_entry(id, entry).await,
        }
    }

    async fn overwrite(&self, entry: &Entry, deadline: Instant) -> Result<Outcome, Refusal> {
        let standing = self.standing_here(entry.id).await;
        if standing.map_err(|error| unreadable(&error))? == Some(Standing::Applied) {
            return self.settle(entry.id, None, Outcome::Committed).await;
        }
        let how = Resolution::Overwrite;
        let outcome = self.resolve(entry, how, deadline).await?;
        tracing::info!(id = %entry.id, outcome = outcome.name(), "the operator applied a cut-off record");
        self.settle(entry.id, Some(how), outcome).await
    }

    async fn drop_entry(&self, id: EntryId, entry: Option<Entry>) -> Result<Outcome, Refusal> {
        let dropped = self.settle(id, None, Outcome::Dropped).await?;
        let tenant = entry
            .as_ref()
            .and_then(|entry| entry.record.tenant.as_ref());
        let acknowledged = entry.as_ref().map(|entry| entry.acknowledged.name());
        tracing::warn!(
            %id,
            tenant = tenant.map(TenantId::as_str),
            acknowledged,
            "the operator dropped a cut-off record"
        );
        Ok(dropped)
    }

    /// What the group's history here says of the position; none where the group is not here.
    ///
    /// # Errors
    /// When the state can't be read.
    pub async fn standing_here(&self, id: EntryId) -> io::Result<Option<Standing>> {
        let engine = &self.0.parts.engine;
        if engine.status(id.group).is_none() {
            return Ok(None);
        }
        let state = engine.state();
        let read = move || state.snapshot().standing(id.group, id.position);
        let standing = self.blocking(read).await?;
        standing.map(Some).map_err(io::Error::other)
    }

    async fn resolve(
        &self,
        entry: &Entry,
        how: Resolution,
        deadline: Instant,
    ) -> Result<Outcome, Refusal> {
        let Inner { parts, .. } = &*self.0;
        let Some(tenant) = &entry.record.tenant else {
            return Ok(Outcome::Dropped);
        };
        let (Home::Placed(created, _), _) = parts.data.home_of(tenant, deadline).await? else {
            let text = format!("tenant `{tenant}` has no home now");
            return Err(Refusal::new(ErrorCode::UnknownTenant, text));
        };
        // Who leads the group stamps it.
        let made = (Hlc::default(), parts.me.1.clone());
        let record = core::resolution(entry, how, created, made);
        let outcome = Outcome::of(&parts.data.reconcile(&record, deadline).await?);
        tracing::debug!(id = %entry.id, %tenant, outcome = outcome.name(), "resolved a cut-off record");
        Ok(outcome)
    }

    async fn settle(
        &self,
        id: EntryId,
        how: Option<Resolution>,
        outcome: Outcome,
    ) -> Result<Outcome, Refusal> {
        let removed = self.disk(move |entries| entries.change(&[], &[id]));
        removed.await.map_err(|error| unreadable(&error))?;
        self.counts().count(how, outcome);
        Ok(outcome)
    }

    /// Reads or writes entries off the runtime's threads: a write waits for the disk.
    async fn disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Quarantine) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let entries = self.0.parts.engine.quarantine();
        self.blocking(move || work(&entries)).await?
    }

    /// Work for a thread that may wait, few of them at once.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let turn = self.0.io.acquire().await;
        let _turn = turn.map_err(io::Error::other)?;
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(io::Error::other)
    }
}

fn unreadable(error: &io::Error) -> Refusal {
    tracing::error!(%error, "the quarantine can't be read or written");
    Refusal::new(
        ErrorCode::Internal,
        "the quarantine can't be read or written",
    )
}
