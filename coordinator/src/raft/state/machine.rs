//! The state machine of one group: takes committed entries from openraft, has the applier decide
//! them, and writes many of them as one batch together with the applied position. Answers every
//! proposer. Nothing is synced: a restart applies again from the last applied position.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use maia_common::GroupId;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use super::super::counters::Counters;
use super::super::disk::{DiskGuard, DiskRoom};
use super::super::log::store::SharedTail;
use super::super::snapshot::builder::SnapshotBuilder;
use super::super::snapshot::{SnapshotFile, SnapshotStore, install};
use super::super::types::{
    RaftEntry, RaftLogId, RaftSnapshot, RaftSnapshotMeta, RaftStoredMembership, TypeConfig,
    position_of,
};
use super::applier::{Applier, Mutations, Source};
use super::db::StateDb;
use super::digest::Digests;
use super::incarnation::Incarnation;
use super::reader::StateReader;
use super::view::PendingView;
use crate::core::history;
use crate::core::record::{Hlc, Outcome};

/// Entries in one write batch at most: bounds its memory and how late the first answer is.
const MAX_BATCH_ENTRIES: usize = 512;
/// Bytes of records in one write batch, about: a bulk load's records are large.
const MAX_BATCH_BYTES: usize = 8 << 20;

/// One group's state machine.
pub(crate) struct GroupMachine {
    pub(crate) group: GroupId,
    pub(crate) state: Arc<StateDb>,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) applier: Arc<dyn Applier>,
    pub(crate) counters: Arc<Counters>,
    disk: Arc<DiskGuard>,
    /// Where traces are counted, for retention; none: nowhere.
    pub(crate) tail: Option<SharedTail>,
    /// Who waits for the state as of an index.
    pub(crate) digests: Arc<Digests>,
    incarnation: Incarnation,
    applied: Option<RaftLogId>,
    membership: RaftStoredMembership,
}

type Answer = (ApplyResponder<TypeConfig>, Outcome);

impl GroupMachine {
    /// The machine as the database has it; ends an install that was interrupted.
    pub(crate) async fn open(
        group: GroupId,
        state: Arc<StateDb>,
        snapshots: Arc<SnapshotStore>,
        applier: Arc<dyn Applier>,
        counters: Arc<Counters>,
        disk: Arc<DiskGuard>,
    ) -> io::Result<Self> {
        // Before anything is read: an older instance may still be writing.
        let incarnation = {
            let state = Arc::clone(&state);
            let begun = tokio::task::spawn_blocking(move || state.begin(group)).await;
            begun.map_err(io::Error::other)?
        };
        if state.is_installing(group)? {
            let current = snapshots.current(group).ok_or_else(|| {
                let text = format!(
                    "group {group} stopped while it installed a snapshot, and the snapshot's file \
                     is gone; remove this node from the group and add a new node"
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            install::install(&state, &incarnation, &current.meta, &current.snapshot).await?;
        }
        state.begin_traces(&incarnation)?;
        let (applied, membership) = state.applied(group)?;
        tell_state(group, &state, &*applier, Source::Disk)?;
        Ok(Self {
            group,
            state,
            snapshots,
            applier,
            counters,
            disk,
            tail: None,
            digests: Arc::default(),
            incarnation,
            applied,
            membership,
        })
    }

    /// Applies a batch as one write, unless a newer instance has the state; then tells watchers and proposers.
    fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let Some((last, _)) = batch.last() else {
            return Ok(());
        };
        let last = last.log_id;
        let count = batch.len();
        let mut view = PendingView::new(&self.state.db);
        let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
        let (mut effects, mut traces) = (Vec::new(), Vec::new());
        for (entry, responder) in batch {
            let index = entry.log_id.index();
            let mut out = Mutations::default();
            let position = position_of(&entry.log_id);
            history::note(self.group, position, reading_of(&entry), &view, &mut out)
                .map_err(io::Error::other)?;
            let outcome = apply_entry(
                self.group,
                &*self.applier,
                &mut self.membership,
                entry,
                &view,
                &mut out,
            )?;
            view.extend(out.writes);
            effects.append(&mut out.effects);
            traces.extend(out.trace.map(|trace| (index, trace)));
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        let mut writes = view.into_batch();
        self.state.put_traces(&mut writes, self.group, &traces);
        self.state
            .put_applied(&mut writes, self.group, Some(&last), &self.membership);
        self.incarnation.write(&self.state.db, writes)?;
        if let Some(tail) = self.tail.as_ref().filter(|_| !traces.is_empty()) {
            let mut tail = tail.lock();
            for (index, trace) in &traces {
                tail.ledger.add_trace(*index, trace.len() as u64);
            }
        }
        self.applied = Some(last);
        self.counters.applied(count);
        self.applier
            .applied(self.group, position_of(&last), effects);
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        Ok(())
    }
}

/// Lets the applier know of a state that it did not apply itself.
fn tell_state(
    group: GroupId,
    state: &StateDb,
    applier: &dyn Applier,
    source: Source,
) -> io::Result<()> {
    let reader = StateReader::new(Arc::clone(&state.db));
    let greatest = history::greatest_reading(group, &reader).map_err(io::Error::other)?;
    applier
        .restored(group, greatest, source)
        .map_err(io::Error::other)
}

/// Of the record alone: what surrounds it is small.
fn size_bytes(entry: &RaftEntry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(record) => record.body.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

fn reading_of(entry: &RaftEntry) -> Option<Hlc> {
    match &entry.payload {
        EntryPayload::Normal(record) => Some(record.hlc),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}

fn apply_entry(
    group: GroupId,
    applier: &dyn Applier,
    membership: &mut RaftStoredMembership,
    entry: RaftEntry,
    view: &PendingView<'_>,
    out: &mut Mutations,
) -> io::Result<Outcome> {
    match entry.payload {
        EntryPayload::Blank => Ok(Outcome::default()),
        EntryPayload::Membership(new) => {
            *membership = RaftStoredMembership::new(Some(entry.log_id), new);
            Ok(Outcome::default())
        }
        EntryPayload::Normal(record) => {
            let position = position_of(&entry.log_id);
            applier
                .apply(group, position, &record, view, out)
                .map_err(io::Error::other)
        }
    }
}

impl RaftStateMachine<TypeConfig> for GroupMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<RaftLogId>, RaftStoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            bytes += size_bytes(&entry.0);
            let index = entry.0.log_id.index();
            batch.push(entry);
            if self.digests.is_wanted(self.group, index) {
                self.apply_batch(std::mem::take(&mut batch))?;
                bytes = 0;
                self.digests.reached(self.group, index).await;
            } else if batch.len() >= MAX_BATCH_ENTRIES || bytes >= MAX_BATCH_BYTES {
                self.apply_batch(std::mem::take(&mut batch))?;
                bytes = 0;
                tokio::task::yield_now().await;
            }
        }
        self.apply_batch(batch)
    }

    /// On a disk that is nearly full only a snapshot that surely fits, unless a follower needs it: a
    /// failed one would stop the group; none at all, and its log could never be dropped.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        let is_low = self.disk.room() <= DiskRoom::Low;
        if !force && is_low && !self.disk.fits(self.state.snapshot_bytes(self.group)) {
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            group: self.group,
            state: Arc::clone(&self.state),
            snapshots: Arc::clone(&self.snapshots),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let kept = self.snapshots.adopt(self.group, meta, snapshot).await?;
        install::install(&self.state, &self.incarnation, meta, &kept).await?;
        (self.applied, self.membership) = self.state.applied(self.group)?;
        tell_state(self.group, &self.state, &*self.applier, Source::Snapshot)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        Ok(self.snapshots.current(self.group))
    }
}
