//! The tenants of a proxy that does not hold all of them (`proxy.table = "on-demand"`): looked up
//! when first asked for, then kept up to date by the feed's deltas. Bounded: the least recently
//! used go.
//!
//! ```text
//! request ─ known? ─▶ decide
//!     └ no ─▶ its cell (one for all who ask) ─▶ Lookup ─▶ cell ─▶ decide
//! delta ───────────────────────▶ cell, if there is one: the newer revision wins
//! ```
//! A cell is there BEFORE the coordinator is asked, and the revision in force is read after that:
//! a delta that is older than the answer is contained in it, and a newer one finds the cell,
//! whichever comes first (I4). Cells without a tenant are apart, few and short-lived: names that
//! somebody makes up drive no tenant out. After a snapshot every cell is of an older era, since
//! deltas were missed, and is asked for anew.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use maia_common::{Revision, limits};
use moka::future::Cache;
use moka::policy::EvictionPolicy;

use crate::core::fingerprint::Fingerprint;
use crate::core::table::{Change, Entry};
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
    pub fn of(entry: Option<Entry>) -> Self {
        entry.map_or(Known::Unplaced, Known::Placed)
    }
}

#[derive(Clone, Copy)]
struct News {
    era: u64,
    answer: Answer,
}

#[derive(Default)]
struct Cell {
    news: Mutex<Option<News>>,
    /// Held while one request asks for all who wait.
    asking: tokio::sync::Mutex<()>,
}

impl Cell {
    fn known(&self, era: u64) -> Known {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let news = news.filter(|news| news.era == era);
        news.map_or(Known::Missing, |news| Known::of(news.answer.entry))
    }

    /// The newer one wins.
    fn offer(&self, new: News) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let order = |n: &News| (n.era, n.answer.revision);
        if news.as_ref().is_none_or(|old| order(old) <= order(&new)) {
            *news = Some(new);
        }
    }
}

type Cells = Cache<Fingerprint, Arc<Cell>>;

/// See the module.
pub struct OnDemand {
    /// Tenants that are placed.
    placed: Cells,
    /// Names that were asked for a moment ago.
    asked: Cells,
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

    /// What is known of the tenant, without waiting.
    #[must_use]
    pub fn peek(&self, print: Fingerprint) -> Known {
        // The cache may want to tidy up first, which is left to those who can wait.
        match self.cell(print).now_or_never().flatten() {
            Some(cell) => cell.known(self.era()),
            None => Known::Missing,
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
        let cell = match self.cell(print).await {
            Some(cell) => cell,
            None => self.asked.get_with(print, async { Arc::default() }).await,
        };
        let _turn = cell.asking.lock().await;
        let era = self.era();
        let known = *cell.news.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(news) = known
            && news.era == era
            && (news.answer.entry.is_some() || !placing)
        {
            return Ok(news.answer);
        }
        let answer = ask.await?;
        cell.offer(News { era, answer });
        if answer.entry.is_some() {
            self.placed.insert(print, Arc::clone(&cell)).await;
        }
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
            for cells in [&self.placed, &self.asked] {
                if let Some(cell) = cells.get(print).await {
                    cell.offer(News { era, answer });
                }
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
