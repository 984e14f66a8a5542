//! The looks through all entries: a page at a time, each entry on its own, and what came of a page
//! written in one batch. What can't be dealt with now holds nothing else up for long.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use maia_common::ids::{GroupId, TenantId};
use maia_common::runtime::Backoff;

use super::{Hindrance, Outcome, QuarantineService};
use crate::core::quarantine::{
    Acknowledged, Entry, EntryId, Resolution, Step, Waiting, next_step, waits_for,
};
use crate::shell::clock;

/// How often to look whether there is something new; and the first wait for what is not settled.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often to look at entries that wait: their tenant may have been deleted, their position proven.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How long one resolution may take; it is tried again.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(3);
/// Entries and bytes that are read at once.
const PAGE: (usize, usize) = (64, 4 << 20);

/// What a look at all entries came to.
#[derive(Default)]
struct Look {
    /// Entries that stay, by [`Acknowledged::ALL`].
    entries: [u64; Acknowledged::ALL.len()],
    /// Some were not to be decided yet.
    unsettled: bool,
    /// Some were settled, or marked.
    changed: bool,
    /// Groups of entries that could not be served in this look: what comes from the others does not
    /// wait for them.
    stuck: BTreeSet<GroupId>,
    /// Some were passed over because another tenant's was stuck.
    passed: bool,
}

impl Look {
    fn add(&mut self, acknowledged: Acknowledged) {
        let nth = Acknowledged::ALL.iter().position(|a| *a == acknowledged);
        self.entries[nth.unwrap_or_default()] += 1;
    }
}

/// Tenants that were tried, and could not be served, since all others had their turn: one that never
/// can be must not keep those behind it from being tried.
type Tried = BTreeSet<TenantId>;

/// What is to be done with an entry.
enum Change {
    /// It goes.
    Gone(Option<Resolution>, Outcome),
    /// It waits.
    Waits(Waiting),
    /// Nothing: the operator has decided it meanwhile.
    Decided,
}

/// What is to be written of a page.
#[derive(Default)]
struct Changes {
    marked: Vec<Entry>,
    gone: Vec<(Entry, Option<Resolution>, Outcome)>,
}

impl QuarantineService {
    /// Resolves, until its task is stopped.
    pub async fn run(self) {
        let mut backoff = Backoff::new(LOOK_EVERY, LOOK_AGAIN_AFTER);
        let (mut seen, mut next, mut tried) = (None, Instant::now(), Tried::new());
        loop {
            let written = self.0.parts.engine.log_stats().quarantined;
            if seen != Some(written) {
                backoff.reset();
            }
            if seen != Some(written) || Instant::now() >= next {
                seen = Some(written);
                let look = self.look(&mut tried).await;
                if look.changed {
                    backoff.reset();
                }
                let wait = if look.unsettled {
                    backoff.next(fastrand::f64())
                } else {
                    LOOK_AGAIN_AFTER
                };
                next = Instant::now() + wait;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self, tried: &mut Tried) -> Look {
        let (mut look, mut after) = (Look::default(), None);
        loop {
            let page = self.disk(move |entries| entries.page(after, PAGE.0, PAGE.1));
            let page = match page.await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(%error, "the quarantine can't be read");
                    look.unsettled = true;
                    return look;
                }
            };
            let Some((last, _)) = page.last() else {
                break;
            };
            after = Some(*last);
            let mut changes = Changes::default();
            for (id, entry) in page {
                match entry {
                    Ok(entry) => self.take_up(entry, &mut look, tried, &mut changes).await,
                    Err(error) => {
                        look.add(Acknowledged::Perhaps);
                        tracing::error!(%id, %error, "an entry of the quarantine is damaged");
                    }
                }
            }
            self.write(changes, &mut look).await;
        }
        if !look.passed {
            tried.clear();
        }
        self.0.counts.set_entries(look.entries);
        look
    }

    async fn take_up(
        &self,
        entry: Entry,
        look: &mut Look,
        tried: &mut Tried,
        changes: &mut Changes,
    ) {
        let _one = self.0.one.lock().await;
        let acknowledged = entry.acknowledged;
        let Some(tenant) = entry.record.tenant.clone() else {
            return look.add(acknowledged);
        };
        let is_tried = tried.contains(&tenant);
        if is_tried || look.stuck.contains(&entry.id.group) {
            look.unsettled = true;
            look.passed |= !is_tried;
            return look.add(acknowledged);
        }
        match self.step(&entry, &tenant).await {
            Ok(Some(Change::Gone(how, outcome))) => {
                return changes.gone.push((entry, how, outcome));
            }
            Ok(Some(Change::Waits(waiting))) if entry.waiting != Some(waiting) => {
                tracing::warn!(id = %entry.id, why = waiting.name(), "a cut-off record waits for the operator");
                let waiting = Some(waiting);
                changes.marked.push(Entry { waiting, ..entry });
            }
            Ok(Some(Change::Waits(_))) => {}
            Ok(Some(Change::Decided)) => return,
            hindered => {
                match hindered {
                    Err(Hindrance::Disk(error)) => {
                        tracing::error!(id = %entry.id, %error, "an entry's state can't be read");
                    }
                    Err(Hindrance::Refused(refusal)) => {
                        tracing::info!(id = %entry.id, %refusal, "a resolution will be tried again");
                    }
                    Ok(_) => {}
                }
                look.unsettled = true;
                look.stuck.insert(entry.id.group);
                tried.insert(tenant);
            }
        }
        look.add(acknowledged);
    }

    /// One step; none: what must be known is not known yet.
    async fn step(&self, entry: &Entry, tenant: &TenantId) -> Result<Option<Change>, Hindrance> {
        let standing = self.standing(entry.id)?;
        let deadline = Instant::now() + RESOLVE_PATIENCE;
        let home = self.0.parts.data.home_of(tenant, deadline).await;
        // It may have been decided while the page was looked through.
        if self.entries().get(entry.id)?.is_none() {
            return Ok(Some(Change::Decided));
        }
        let now_ms = clock::unix_us() / 1000;
        Ok(Some(match next_step(entry, standing, home, now_ms) {
            Step::Later => return Ok(None),
            Step::DropCommitted => Change::Gone(None, Outcome::Committed),
            Step::DropDeleted => Change::Gone(None, Outcome::TenantDeleted),
            Step::Wait(waiting) => Change::Waits(waiting),
            Step::Resolve(how) => match self.resolve(entry, how, deadline).await {
                Ok(outcome) => Change::Gone(Some(how), outcome),
                Err(refusal) => match waits_for(refusal.code) {
                    Some(waiting) => Change::Waits(waiting),
                    None => return Err(Hindrance::Refused(refusal)),
                },
            },
        }))
    }

    /// Writes what came of a page. One that the operator decided meanwhile stays gone.
    async fn write(&self, changes: Changes, look: &mut Look) {
        let Changes { marked, gone } = changes;
        if marked.is_empty() && gone.is_empty() {
            return;
        }
        let _one = self.0.one.lock().await;
        let (waits, ids): (usize, Vec<EntryId>) = (
            marked.len(),
            gone.iter().map(|(entry, ..)| entry.id).collect(),
        );
        let written: io::Result<()> = self
            .disk(move |entries| entries.change(&marked, &ids))
            .await;
        if let Err(error) = written {
            tracing::error!(%error, "the quarantine can't be written, will be tried again");
            look.unsettled = true;
            for (entry, ..) in &gone {
                look.add(entry.acknowledged);
            }
            return;
        }
        look.changed = true;
        for _ in 0..waits {
            self.0.counts.count(None, Outcome::Waits);
        }
        for (_, how, outcome) in gone {
            self.0.counts.count(how, outcome);
        }
    }
}
