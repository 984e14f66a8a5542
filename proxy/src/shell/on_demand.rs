//! The tenants of a proxy that does not hold all of them (`proxy.table = "on-demand"`): looked up
//! when first asked for, then kept up to date by the feed's deltas. Bounded: the least recently
//! used go.
//!
//! ```text
//! request ─ known? ─▶ decide
//!     └ no ─▶ its flight (one for all who ask) ─▶ Lookup ─▶ cell ─▶ decide
//! delta ───────────────────────▶ cell, if there is one: the newer revision wins
//! ```
//! A flight holds the tenant's cell BEFORE the coordinator is asked, and until the answer is in it;
//! the revision in force is read after that: a delta that is older than the answer is contained in
//! it, and a newer one finds the cell, whichever comes first and whatever the caches drive out
//! meanwhile (I4). Cells without a tenant are apart, few and short-lived: names that somebody makes
//! up drive no tenant out. After a snapshot every cell is of an older era, since deltas were missed,
//! and is asked for anew; so is one by which the origin refused a request (421).
//!
//! A cell may be ahead of the topology that a request reads: it counts as missing then, and the
//! request waits until its revision is in force, since its group may be new.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use maia_common::{Revision, Version, limits};
use moka::future::Cache;
use moka::policy::EvictionPolicy;

use crate::core::fingerprint::Fingerprint;
use crate::core::table::{Change, Entry};
use crate::shell::flights::{Cell, Flights};
use crate::shell::lookups::{Answer, LookupError};

/// What is known of a tenant here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It is placed.
    Placed(Entry),
    /// It has no placement.
    Unplaced,
    /// It must be looked up.
    Missing,
}

impl Known {
    /// As a table knows it that has all tenants.
    #[must_use]
    #[inline]
    pub fn of(entry: Option<Entry>) -> Self {
        entry.map_or(Known::Unplaced, Known::Placed)
    }
}

type Cells = Cache<Fingerprint, Arc<Cell>>;

/// See the module.
pub struct OnDemand {
    /// Tenants that are placed.
    placed: Cells,
    /// Names that were found to be unplaced a moment ago.
    asked: Cells,
    /// Lookups under way.
    flights: Flights,
    /// Grows with each snapshot.
    era: AtomicU64,
}

impl OnDemand {
    /// For at most so many tenants.
    #[must_use]
    pub fn new(max_tenants: u64) -> Self {
        let cells = |capacity| {
            let builder = Cache::builder().max_capacity(capacity);
            // A new one always gets in.
            builder.eviction_policy(EvictionPolicy::lru())
        };
        Self {
            placed: cells(max_tenants).build(),
            asked: cells(limits::MAX_UNPLACED_TENANTS)
                .time_to_live(limits::UNPLACED_LIFETIME)
                .build(),
            flights: Flights::default(),
            era: AtomicU64::new(0),
        }
    }

    fn era(&self) -> u64 {
        self.era.load(Ordering::SeqCst)
    }

    /// Tenants that are kept, about.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.placed.entry_count()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of the tenant for a topology of this revision, without waiting.
    #[must_use]
    pub fn peek(&self, print: Fingerprint, revision: Revision) -> Known {
        // The cache may want to tidy up first, which is left to those who can wait.
        let cell = self.cell(print).now_or_never().flatten();
        let answer = cell.and_then(|cell| cell.answer(self.era()));
        let answer = answer.filter(|answer| answer.revision <= revision);
        answer.map_or(Known::Missing, |answer| Known::of(answer.entry))
    }

    /// The origin refused a request that was routed by this version: what is known of the tenant is
    /// asked for again, unless it is newer.
    pub async fn doubt(&self, print: Fingerprint, version: Version) {
        if let Some(cell) = self.cell(print).await {
            cell.doubt(|answer| answer.entry.is_some_and(|entry| entry.version <= version));
        }
    }

    async fn cell(&self, print: Fingerprint) -> Option<Arc<Cell>> {
        match self.placed.get(&print).await {
            Some(cell) => Some(cell),
            None => self.asked.get(&print).await,
        }
    }

    /// Asks about the tenant, unless somebody has just done so; the answer is in its cell then, and
    /// returned. `placing`: what is only known to be unplaced is asked for again.
    ///
    /// # Errors
    /// Those of `ask`, which reads the revision in force when it is first polled, not before.
    pub async fn look_up(
        &self,
        print: Fingerprint,
        placing: bool,
        ask: impl Future<Output = Result<Answer, LookupError>>,
    ) -> Result<Answer, LookupError> {
        let passenger = self.flights.board(print, self.cell(print).await)?;
        let cell = passenger.cell();
        let _turn = passenger.turn().await;
        let era = self.era();
        let known = cell.answer(era);
        if let Some(answer) = known.filter(|answer| answer.entry.is_some() || !placing) {
            return Ok(answer);
        }
        let answer = ask.await?;
        cell.offer(era, answer);
        let cells = match answer.entry {
            Some(_) => &self.placed,
            None => &self.asked,
        };
        cells.insert(print, Arc::clone(cell)).await;
        Ok(answer)
    }

    /// Changes came into force, with this revision. For the feed's task.
    pub async fn changed(&self, revision: Revision, changes: &[Change]) {
        let era = self.era();
        for (print, entry) in changes {
            let answer = Answer {
                revision,
                entry: *entry,
            };
            // First where it is asked for: from there it goes to where it is kept.
            let flying = self.flights.cell(*print);
            let kept = [self.placed.get(print).await, self.asked.get(print).await];
            for cell in flying.into_iter().chain(kept.into_iter().flatten()) {
                cell.offer(era, answer);
            }
        }
    }

    /// A snapshot is about to come into force: what is known may be old. For the feed's task.
    pub fn forget(&self) {
        self.era.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
#[path = "on_demand_tests.rs"]
mod tests;
