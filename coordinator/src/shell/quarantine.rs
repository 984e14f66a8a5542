//! The owner of this node's quarantine: looks at each entry, drops what proves to be committed, has what
//! was acknowledged resolved in the tenant's group of today, marks the rest as waiting, and carries out
//! what the operator decides. One entry at a time; every step may be cut by a crash and is done again:
//! a resolution has one key, and an entry goes only after its outcome is known (I3, I8).
//!
//! ```text
//! entry ─▶ next_step ─┬─ resolve ─▶ DataService::reconcile ─▶ applied ─▶ removed
//!                     ├─ drop ──────────────────────────────────────────▶ removed
//!                     ├─ wait ─▶ marked
//!                     └─ later ─▶ the next look
//! ```

mod counts;
mod look;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use maia_common::error_code::ErrorCode;
use maia_common::ids::{NodeId, RegionName, TenantId};
use tokio::sync::Mutex;

pub use counts::{Counts, Outcome};

use super::clock::Clock;
use super::data::DataService;
use super::placements::Refusal;
use crate::core::history::Standing;
use crate::core::quarantine::{self as core, Entry, EntryId, Home, Resolution};
use crate::raft::{Engine, Found, Quarantine};

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
    /// For resolutions' times.
    pub clock: Arc<Clock>,
}

struct Inner {
    parts: QuarantineParts,
    counts: Counts,
    /// The resolver and the operator never work on one entry at once.
    one: Mutex<()>,
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

/// Why an entry could not be dealt with just now.
enum Hindrance {
    Refused(Refusal),
    Disk(io::Error),
}

impl From<io::Error> for Hindrance {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl QuarantineService {
    /// The service of this node.
    #[must_use]
    pub fn new(parts: QuarantineParts) -> Self {
        Self(Arc::new(Inner {
            parts,
            counts: Counts::default(),
            one: Mutex::default(),
        }))
    }

    /// This node: entries are never anywhere else.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.parts.me.0
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    fn entries(&self) -> Quarantine {
        self.0.parts.engine.quarantine()
    }

    /// A page of entries in the order of their ids, after `after`; fewer than `limit` when they are
    /// large, none at the end.
    ///
    /// # Errors
    /// [`Refusal`] when the disk fails.
    pub fn list(&self, after: Option<EntryId>, limit: usize) -> Result<Vec<Found>, Refusal> {
        let page = self.entries().page(after, limit, MAX_LIST_BYTES);
        page.map_err(|error| unreadable(&error))
    }

    /// The entry with this id.
    ///
    /// # Errors
    /// [`Refusal`]: `not_found`, or the disk fails.
    pub fn get(&self, id: EntryId) -> Result<Entry, Refusal> {
        let found = self.entries().get(id).map_err(|error| unreadable(&error))?;
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
        let entry = match self.get(id) {
            // One that has rotted can still be dropped.
            Err(refusal) if refusal.code != ErrorCode::NotFound && action == Action::Drop => None,
            found => Some(found?),
        };
        let settled = match (action, entry) {
            (Action::Apply, Some(entry)) => self.overwrite(&entry, deadline).await,
            (Action::Apply | Action::Drop, entry) => self.drop_entry(id, entry).await,
        };
        settled.map_err(|hindrance| match hindrance {
            Hindrance::Refused(refusal) => refusal,
            Hindrance::Disk(error) => unreadable(&error),
        })
    }

    async fn overwrite(&self, entry: &Entry, deadline: Instant) -> Result<Outcome, Hindrance> {
        if self.standing(entry.id)? == Some(Standing::Applied) {
            return self.settle(entry.id, None, Outcome::Committed).await;
        }
        let how = Resolution::Overwrite;
        let outcome = self.resolve(entry, how, deadline).await;
        let outcome = outcome.map_err(Hindrance::Refused)?;
        self.settle(entry.id, Some(how), outcome).await
    }

    async fn drop_entry(&self, id: EntryId, entry: Option<Entry>) -> Result<Outcome, Hindrance> {
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

    /// What the group's history here says of the position; none where the group is not here any more.
    fn standing(&self, id: EntryId) -> io::Result<Option<Standing>> {
        let engine = &self.0.parts.engine;
        if engine.status(id.group).is_none() {
            return Ok(None);
        }
        let state = engine.state();
        let standing = state.snapshot().standing(id.group, id.position);
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
        let Home::Placed(created, _) = parts.data.home_of(tenant, deadline).await else {
            let text = format!("tenant `{tenant}` has no home now");
            return Err(Refusal::new(ErrorCode::UnknownTenant, text));
        };
        let made = (parts.clock.now(), parts.me.1.clone());
        let record = core::resolution(entry, how, created, made);
        let outcome = Outcome::of(&parts.data.reconcile(&record, deadline).await?);
        tracing::info!(id = %entry.id, %tenant, outcome = outcome.name(), "resolved a cut-off record");
        Ok(outcome)
    }

    async fn settle(
        &self,
        id: EntryId,
        how: Option<Resolution>,
        outcome: Outcome,
    ) -> Result<Outcome, Hindrance> {
        self.disk(move |entries| entries.change(&[], &[id])).await?;
        self.0.counts.count(how, outcome);
        Ok(outcome)
    }

    /// Reads or writes entries off the runtime's threads: a write waits for the disk.
    async fn disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Quarantine) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let entries = self.entries();
        let done = tokio::task::spawn_blocking(move || work(&entries)).await;
        done.map_err(io::Error::other)?
    }
}

fn unreadable(error: &io::Error) -> Refusal {
    tracing::error!(%error, "the quarantine can't be read or written");
    Refusal::new(
        ErrorCode::Internal,
        "the quarantine can't be read or written",
    )
}
