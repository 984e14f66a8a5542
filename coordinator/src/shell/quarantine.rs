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

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{NodeId, RegionName, TenantId};
use tokio::sync::Mutex;

pub use counts::{Counts, Outcome};

use super::clock::{self, Clock};
use super::data::DataService;
use super::placements::Refusal;
use crate::core::history::Standing;
use crate::core::quarantine::{
    self as core, Entry, EntryId, Home, Resolution, Step, Waiting, next_step,
};
use crate::raft::{Engine, Found, Quarantine};

/// How often to look whether there is something new.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often to look at entries that wait: their tenant may have been deleted, their position proven.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How long one resolution may take; it is tried again.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(3);
/// Entries and bytes that are read at once.
const PAGE: (usize, usize) = (64, 4 << 20);

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

/// What a look at all entries came to.
#[derive(Default)]
struct Look {
    entries: u64,
    /// Some were not to be decided yet.
    unsettled: bool,
    /// Tenants that could not be served in this look: the others don't wait for them.
    stuck: BTreeSet<TenantId>,
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
        let page = self.entries().page(after, limit, PAGE.1);
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
            (Action::Apply | Action::Drop, _) => self.settle(id, None, Outcome::Dropped),
        };
        settled.map_err(|hindrance| match hindrance {
            Hindrance::Refused(refusal) => refusal,
            Hindrance::Disk(error) => unreadable(&error),
        })
    }

    async fn overwrite(&self, entry: &Entry, deadline: Instant) -> Result<Outcome, Hindrance> {
        if self.standing(entry.id)? == Some(Standing::Applied) {
            return self.settle(entry.id, None, Outcome::Committed);
        }
        self.resolve(entry, Resolution::Overwrite, deadline).await
    }

    /// Resolves, until its task is stopped.
    pub async fn run(self) {
        let (mut seen, mut next_full) = (None, Instant::now());
        loop {
            let written = self.0.parts.engine.log_stats().quarantined;
            if seen != Some(written) || Instant::now() >= next_full {
                next_full = Instant::now() + LOOK_AGAIN_AFTER;
                match self.look().await {
                    Ok(look) => {
                        self.0.counts.set_entries(look.entries);
                        seen = (!look.unsettled).then_some(written);
                    }
                    Err(error) => tracing::error!(%error, "the quarantine can't be read"),
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> io::Result<Look> {
        let (mut look, mut after) = (Look::default(), None);
        loop {
            let page = self.entries().page(after, PAGE.0, PAGE.1)?;
            let Some((last, _)) = page.last() else {
                return Ok(look);
            };
            after = Some(*last);
            for (id, entry) in page {
                match entry {
                    Ok(entry) => self.take_up(entry, &mut look).await?,
                    Err(error) => {
                        look.entries += 1;
                        tracing::error!(%id, %error, "an entry of the quarantine is damaged");
                    }
                }
            }
        }
    }

    async fn take_up(&self, entry: Entry, look: &mut Look) -> io::Result<()> {
        let _one = self.0.one.lock().await;
        let Some(tenant) = entry.record.tenant.clone() else {
            return Ok(());
        };
        look.entries += 1;
        if look.stuck.contains(&tenant) {
            return Ok(());
        }
        match self.step(&entry, &tenant).await {
            Ok(Some(Outcome::Waits)) => {}
            Ok(Some(_)) => look.entries -= 1,
            Ok(None) => look.unsettled = true,
            Err(Hindrance::Disk(error)) => return Err(error),
            Err(Hindrance::Refused(refusal)) => {
                tracing::info!(id = %entry.id, %refusal, "a resolution will be tried again");
                look.unsettled = true;
                look.stuck.insert(tenant);
            }
        }
        Ok(())
    }

    /// One step; none: what must be known is not known yet.
    async fn step(&self, entry: &Entry, tenant: &TenantId) -> Result<Option<Outcome>, Hindrance> {
        // It may have been decided while the page was looked through.
        let Some(entry) = self.entries().get(entry.id)? else {
            return Ok(Some(Outcome::Dropped));
        };
        let standing = self.standing(entry.id)?;
        let deadline = Instant::now() + RESOLVE_PATIENCE;
        let home = self.0.parts.data.home_of(tenant, deadline).await;
        let now_ms = clock::unix_us() / 1000;
        let settled = match next_step(&entry, standing, home, now_ms) {
            Step::Later => return Ok(None),
            Step::DropCommitted => self.settle(entry.id, None, Outcome::Committed)?,
            Step::DropDeleted => self.settle(entry.id, None, Outcome::TenantDeleted)?,
            Step::Wait(waiting) => self.wait(entry, waiting)?,
            Step::Resolve(how) => match self.resolve(&entry, how, deadline).await {
                Err(Hindrance::Refused(refusal)) => match waits_for(refusal.code) {
                    Some(waiting) => self.wait(entry, waiting)?,
                    None => return Err(Hindrance::Refused(refusal)),
                },
                resolved => resolved?,
            },
        };
        Ok(Some(settled))
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
    ) -> Result<Outcome, Hindrance> {
        let Inner { parts, .. } = &*self.0;
        let Some(tenant) = &entry.record.tenant else {
            return self.settle(entry.id, None, Outcome::Dropped);
        };
        let Home::Placed(created, _) = parts.data.home_of(tenant, deadline).await else {
            let text = format!("tenant `{tenant}` has no home now");
            return Err(Hindrance::Refused(Refusal::new(
                ErrorCode::UnknownTenant,
                text,
            )));
        };
        let made = (parts.clock.now(), parts.me.1.clone());
        let record = core::resolution(entry, how, created, made);
        let done = parts.data.reconcile(&record, deadline).await;
        let done = done.map_err(Hindrance::Refused)?;
        let outcome = Outcome::of(&done);
        tracing::info!(id = %entry.id, %tenant, outcome = outcome.name(), "resolved a cut-off record");
        self.settle(entry.id, Some(how), outcome)
    }

    fn settle(
        &self,
        id: EntryId,
        how: Option<Resolution>,
        outcome: Outcome,
    ) -> Result<Outcome, Hindrance> {
        self.entries().remove(id)?;
        self.0.counts.count(how, outcome);
        Ok(outcome)
    }

    fn wait(&self, entry: Entry, waiting: Waiting) -> Result<Outcome, Hindrance> {
        if entry.waiting != Some(waiting) {
            tracing::warn!(id = %entry.id, why = waiting.name(), "a cut-off record waits for the operator");
            let waiting = Some(waiting);
            self.entries().put(&Entry { waiting, ..entry })?;
            self.0.counts.count(None, Outcome::Waits);
        }
        Ok(Outcome::Waits)
    }
}

/// Why an entry waits whose resolution apply has refused; none when it may be tried again.
fn waits_for(code: ErrorCode) -> Option<Waiting> {
    match code {
        ErrorCode::PreconditionFailed => Some(Waiting::TooOld),
        ErrorCode::InvalidRequest
        | ErrorCode::BodyTooLarge
        | ErrorCode::DivergedHistory
        | ErrorCode::IdempotencyConflict => Some(Waiting::Refused),
        _ => None,
    }
}

fn unreadable(error: &io::Error) -> Refusal {
    tracing::error!(%error, "the quarantine can't be read or written");
    Refusal::new(
        ErrorCode::Internal,
        "the quarantine can't be read or written",
    )
}
