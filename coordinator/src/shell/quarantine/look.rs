//! The looks through all entries: a page at a time, each entry on its own, and what came of a page
//! written in one batch. What can't be dealt with now holds nothing else up for long (see `turns`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId, TenantId};

use super::counts::{Intake, Totals};
use super::handover::Handed;
use super::tally::{Matter, Tally};
use super::turns::{LOOK_EVERY, Pace, Turns};
use super::{Outcome, QuarantineService};
use crate::core::custody::{self, Custody};
use crate::core::history::Standing;
use crate::core::quarantine::{
    Acknowledged, Entry, EntryId, Home, Now, Resolution, Step, Waiting, next_step, waits_for,
};
use crate::core::record::Hlc;
use crate::raft::{Found, Quarantine};
use crate::shell::peers::PeerError;

/// How long one resolution may take; it is tried again.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(3);
/// Entries and bytes that are read at once.
const PAGE: (usize, usize) = (64, 4 << 20);

/// What a look at all entries came to.
#[derive(Default)]
struct Look {
    totals: Totals,
    /// What other nodes had handed over when it began.
    came: Intake,
    /// Entries that stay, by the group in whose log they stood: those clients may count on, and others.
    held: BTreeMap<GroupId, (u64, u64)>,
    /// Those of which nobody was told that they are safe: when they were cut off.
    others: Vec<(u64, EntryId, u64)>,
    /// Some were not to be decided yet.
    unsettled: bool,
    /// Some were settled, or marked.
    changed: bool,
    /// Some are gone whose bytes are not to stay in this node's files.
    purged: bool,
    /// Some could not be read: the rest is not all there is.
    partial: bool,
    /// What is to be said of it.
    tally: Tally,
}

impl Look {
    /// The entry stays.
    fn keep(&mut self, id: EntryId, of: Acknowledged, size_bytes: u64) {
        self.totals.add(of, size_bytes);
        custody::count(&mut self.held, id.group, of);
    }
}

/// What is to be done with an entry.
enum Change {
    /// It goes.
    Gone(Option<Resolution>, Outcome),
    /// It waits.
    Waits(Waiting),
    /// Nothing: the operator has decided it meanwhile.
    Decided,
}

/// Why nothing is done with an entry in this look.
enum Stop {
    /// Others first.
    Passed,
    /// This group did not answer; none: for reasons of the tenant, or the entry.
    Hindered(Option<GroupId>, String),
}

/// What is to be written of a page.
#[derive(Default)]
struct Changes {
    marked: Vec<Entry>,
    gone: Vec<Gone>,
}

/// An entry that goes.
struct Gone {
    entry: Entry,
    size_bytes: u64,
    how: Option<Resolution>,
    outcome: Outcome,
}

impl QuarantineService {
    /// Resolves, until its task is stopped.
    pub async fn run(self) {
        let (mut pace, mut turns, mut hurried) = (Pace::new(), Turns::default(), 0);
        loop {
            let is_awaited = self.is_awaited();
            // Who is taken out looks at once at all it has.
            hurried += u64::from(is_awaited && hurried == 0);
            if pace.is_due(Instant::now(), self.news() + hurried) {
                let look = self.look(&mut turns).await;
                let chance = fastrand::f64();
                pace.looked(Instant::now(), look.changed, look.unsettled, chance);
                self.finish(look).await;
            }
            if is_awaited && let Err(error) = self.take_leave().await {
                tracing::warn!(%error, "it could not be said that nothing is left, will be tried again");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Publishes what a look came to.
    async fn finish(&self, look: Look) {
        look.tally.say();
        if look.partial {
            return;
        }
        let custody = Custody::of(&look.held);
        self.counts().set_totals(look.totals, look.came);
        if self.counts().is_full() {
            tracing::error!(
                "the quarantine is full of records that clients were told are safe: maiactl quarantine list"
            );
        }
        if look.purged
            && let Err(error) = self.disk(Quarantine::compact).await
        {
            tracing::warn!(%error, "what was handed over is still in this node's files");
        }
        if !*self.0.parts.removed.borrow()
            && let Err(error) = self.say(&custody).await
        {
            tracing::debug!(%error, "what is in quarantine was not said, will be tried again");
        }
    }

    async fn look(&self, turns: &mut Turns) -> Look {
        let came = self.counts().came();
        let mut look = Look {
            came,
            ..Look::default()
        };
        let mut after = None;
        turns.begin();
        loop {
            let page = self.disk(move |entries| entries.page(after, PAGE.0, PAGE.1));
            let page = match page.await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(%error, "the quarantine can't be read");
                    (look.unsettled, look.partial) = (true, true);
                    return look;
                }
            };
            let Some(last) = page.last() else {
                break;
            };
            after = Some(last.id);
            let mut changes = Changes::default();
            for found in page {
                self.take_up(found, &mut look, turns, &mut changes).await;
            }
            self.write(changes, &mut look).await;
        }
        self.make_room(&mut look).await;
        look
    }

    async fn take_up(
        &self,
        found: Found,
        look: &mut Look,
        turns: &mut Turns,
        changes: &mut Changes,
    ) {
        let Found {
            id,
            size_bytes,
            entry,
        } = found;
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let why = || error.to_string();
                look.tally.note(Matter::Damaged, id, why);
                return look.keep(id, Acknowledged::Perhaps, size_bytes);
            }
        };
        let _one = self.0.one.lock().await;
        let acknowledged = entry.acknowledged;
        let Some(tenant) = entry.record.tenant.clone() else {
            return look.keep(id, acknowledged, size_bytes);
        };
        match self.step(&entry, &tenant, turns).await {
            Ok(Change::Gone(how, outcome)) => {
                let gone = Gone {
                    entry,
                    size_bytes,
                    how,
                    outcome,
                };
                return changes.gone.push(gone);
            }
            Ok(Change::Waits(waiting)) => {
                if waiting == Waiting::NotAcknowledged {
                    look.others.push((entry.at_unix_ms, id, size_bytes));
                }
                look.totals.add_waiting(waiting);
                if entry.waiting != Some(waiting) {
                    look.tally.note(Matter::Waits(waiting), id, String::new);
                    let waiting = Some(waiting);
                    changes.marked.push(Entry { waiting, ..entry });
                }
            }
            Ok(Change::Decided) => return,
            Err(Stop::Passed) => look.unsettled = true,
            Err(Stop::Hindered(by, reason)) => {
                let why = || format!("tenant `{tenant}`: {reason}");
                look.tally.note(Matter::Later, id, why);
                look.unsettled = true;
                turns.hindered(&tenant, by);
            }
        }
        look.keep(id, acknowledged, size_bytes);
    }

    /// One step.
    async fn step(
        &self,
        entry: &Entry,
        tenant: &TenantId,
        turns: &mut Turns,
    ) -> Result<Change, Stop> {
        if *self.0.parts.removed.borrow() {
            return self.evacuate(entry, tenant, turns).await;
        }
        let deadline = Instant::now() + RESOLVE_PATIENCE;
        let (home, group) = self.home(tenant, turns, deadline).await?;
        let (standing, asked) = self.known_standing(entry.id, tenant, turns).await?;
        // It may have been decided while the page was looked through.
        let id = entry.id;
        let is_there = self.disk(move |entries| entries.has(id)).await;
        if !is_there.map_err(|error| Stop::Hindered(None, error.to_string()))? {
            return Ok(Change::Decided);
        }
        let now = Now {
            unix_ms: self.0.parts.clock.wall_ms(),
            max_clock_offset: self.0.parts.max_clock_offset,
            group: group.map_or_else(Hlc::default, |group| self.0.parts.clock.last(group)),
        };
        match next_step(entry, standing, home, now) {
            Step::Later => Err(Stop::Hindered(
                asked,
                "not known to be committed or not".into(),
            )),
            Step::DropCommitted => Ok(Change::Gone(None, Outcome::Committed)),
            Step::DropDeleted => Ok(Change::Gone(None, Outcome::TenantDeleted)),
            Step::Expire => Ok(Change::Gone(None, Outcome::Expired)),
            Step::Wait(waiting) => self.let_wait(entry, waiting, group).await,
            Step::Resolve(how) => {
                allow(turns, tenant, group.as_slice())?;
                match self.resolve(entry, how, deadline).await {
                    Ok(outcome) => Ok(Change::Gone(Some(how), outcome)),
                    Err(refusal) => match waits_for(refusal.code) {
                        Some(waiting) => self.let_wait(entry, waiting, group).await,
                        None => Err(Stop::Hindered(group, refusal.to_string())),
                    },
                }
            }
        }
    }

    /// The tenant's home; the metastore's leader is asked only for one that is not known here.
    async fn home(
        &self,
        tenant: &TenantId,
        turns: &mut Turns,
        deadline: Instant,
    ) -> Result<(Home, Option<GroupId>), Stop> {
        let data = &self.0.parts.data;
        let asks = !data.is_placed(tenant);
        let needs = asks.then_some(GroupId::METASTORE);
        allow(turns, tenant, needs.as_slice())?;
        data.home_of(tenant, deadline).await.map_err(|refusal| {
            let is_its_own = refusal.code == ErrorCode::TenantHeld;
            Stop::Hindered(needs.filter(|_| !is_its_own), refusal.to_string())
        })
    }

    /// What is known of the entry's place, and the group whose members were asked, if not this one alone.
    async fn known_standing(
        &self,
        id: EntryId,
        tenant: &TenantId,
        turns: &mut Turns,
    ) -> Result<(Option<Standing>, Option<GroupId>), Stop> {
        let is_here = self.0.parts.engine.status(id.group).is_some();
        let asked = (!is_here).then_some(id.group);
        allow(turns, tenant, asked.as_slice())?;
        let standing = self.standing(id).await;
        let standing = standing.map_err(|error| Stop::Hindered(None, error.to_string()))?;
        Ok((standing, asked))
    }

    /// The operator decides it: here, or where it may be kept.
    async fn let_wait(
        &self,
        entry: &Entry,
        waiting: Waiting,
        group: Option<GroupId>,
    ) -> Result<Change, Stop> {
        let Some(to) = group.and_then(|group| self.successors(group)) else {
            return Ok(Change::Waits(waiting));
        };
        let marked = Entry {
            waiting: Some(waiting),
            ..entry.clone()
        };
        self.pass_on(&marked, &to, group).await
    }

    /// On a node that was removed: all it has goes to whoever may keep it and takes it. There it waits for the
    /// operator: a removed node is trusted with no more.
    async fn evacuate(
        &self,
        entry: &Entry,
        tenant: &TenantId,
        turns: &mut Turns,
    ) -> Result<Change, Stop> {
        let nobody = Some(GroupId::METASTORE);
        allow(turns, tenant, nobody.as_slice())?;
        self.pass_on(entry, &self.anybody(), nobody).await
    }

    async fn pass_on(
        &self,
        entry: &Entry,
        to: &[NodeId],
        by: Option<GroupId>,
    ) -> Result<Change, Stop> {
        match self.hand_over(entry, to).await {
            Ok(Handed::Over) => Ok(Change::Gone(None, Outcome::HandedOver)),
            Ok(Handed::TenantDeleted) => Ok(Change::Gone(None, Outcome::TenantDeleted)),
            // Whoever says no to this tenant's may take another's.
            Err(error @ PeerError::Refused { .. }) => Err(Stop::Hindered(None, error.to_string())),
            Err(error) => Err(Stop::Hindered(by, error.to_string())),
        }
    }

    /// Where there is too much, removes of what nobody was told is safe the oldest, until there is room again
    /// for what clients count on.
    async fn make_room(&self, look: &mut Look) {
        if !look.totals.is_over() {
            return;
        }
        let mut others = std::mem::take(&mut look.others);
        others.sort_unstable();
        let (mut totals, mut gone) = (look.totals, Vec::new());
        for (_, id, size_bytes) in others {
            if !totals.leaves_too_little() {
                break;
            }
            totals.remove_other(size_bytes);
            gone.push(id);
        }
        let count = gone.len();
        if count == 0 {
            return;
        }
        let (ids, _one) = (gone.clone(), self.0.one.lock().await);
        if let Err(error) = self.disk(move |entries| entries.change(&[], &ids)).await {
            tracing::error!(%error, "the quarantine can't be written, will be tried again");
            look.unsettled = true;
            return;
        }
        tracing::warn!(
            count,
            "the quarantine is full: the oldest that nobody was told are safe are gone"
        );
        look.totals = totals;
        for id in gone {
            self.counts().count(None, Outcome::Expired);
            if let Some((_, others)) = look.held.get_mut(&id.group) {
                *others = others.saturating_sub(1);
            }
        }
        look.held.retain(|_, held| *held != (0, 0));
    }

    /// Writes what came of a page. One that the operator decided meanwhile stays gone.
    async fn write(&self, changes: Changes, look: &mut Look) {
        let Changes { marked, gone } = changes;
        if marked.is_empty() && gone.is_empty() {
            return;
        }
        let _one = self.0.one.lock().await;
        let ids: Vec<EntryId> = gone.iter().map(|gone| gone.entry.id).collect();
        let waits = marked.len();
        let written = self.disk(move |entries| entries.change(&marked, &ids));
        if let Err(error) = written.await {
            tracing::error!(%error, "the quarantine can't be written, will be tried again");
            look.unsettled = true;
            for gone in &gone {
                look.keep(gone.entry.id, gone.entry.acknowledged, gone.size_bytes);
            }
            return;
        }
        look.changed = true;
        for _ in 0..waits {
            self.counts().count(None, Outcome::Waits);
        }
        for gone in gone {
            let outcome = gone.outcome;
            look.purged |= matches!(outcome, Outcome::HandedOver | Outcome::TenantDeleted);
            self.counts().count(gone.how, outcome);
            let noted = Matter::Gone(outcome);
            look.tally.note(noted, gone.entry.id, String::new);
        }
    }
}

fn allow(turns: &mut Turns, tenant: &TenantId, needs: &[GroupId]) -> Result<(), Stop> {
    let may = turns.may_try(tenant, needs);
    may.then_some(()).ok_or(Stop::Passed)
}
