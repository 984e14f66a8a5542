//! What one group's log knows of answers before commit: whose flush somebody waits for, what was
//! answered so, and which tenants a record under way may close. Kept with the tail, under its lock; filled by
//! appends, asked by `raft/early` and by what removes records. All of it is of this process: what a log had
//! before its start counts as perhaps acknowledged (`core/quarantine`), and belongs to earlier terms.
//!
//! Invariants: I3 (what was answered is found when it is removed), I12.

use std::collections::{BTreeSet, HashMap, VecDeque};

use maia_common::{Index, Position, TenantId};
use openraft::EntryPayload;
use tokio::sync::oneshot;

use super::super::types::{RaftEntry, position_of};
use crate::core::record::{Record, RecordKind};

/// Early answers that are not committed yet; beyond them records are answered at commit.
const MAX_ACKNOWLEDGED: usize = 65_536;

/// Tenants of which the last control record is known each; beyond them it counts for all.
const MAX_CONTROLLED: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Early {
    /// Records above the committed one that a client was told are safe.
    acknowledged: BTreeSet<Position>,
    /// Records whose flush somebody waits for, by their identity; held, so that no other takes it on.
    watched: HashMap<usize, (Record, oneshot::Sender<Position>)>,
    /// Those of them that were appended, and by which append.
    unflushed: VecDeque<(u64, Position, oneshot::Sender<Position>)>,
    controls: Controls,
}

impl Early {
    /// Says where the record stands once it is appended here and flushed.
    pub(crate) fn watch(&mut self, record: &Record) -> oneshot::Receiver<Position> {
        let (sender, flushed) = oneshot::channel();
        let identity = record.identity();
        self.watched.insert(identity, (record.clone(), sender));
        flushed
    }

    /// Nobody waits any more; nothing if it was appended.
    pub(crate) fn unwatch(&mut self, record: &Record) {
        self.watched.remove(&record.identity());
    }

    /// Whether a record that may close the tenant is in the log and not applied.
    pub(crate) fn has_control(&self, tenant: Option<&TenantId>, applied: Option<Index>) -> bool {
        self.controls
            .of(tenant)
            .is_some_and(|at| Some(at) > applied)
    }

    pub(super) fn acknowledge(&mut self, position: Position) -> bool {
        let has_room = self.acknowledged.len() < MAX_ACKNOWLEDGED;
        if has_room {
            self.acknowledged.insert(position);
        }
        has_room
    }

    /// Whether a client was told so by this process.
    pub(super) fn is_acknowledged(&self, position: Position) -> bool {
        self.acknowledged.contains(&position)
    }

    /// All below this index is committed.
    pub(super) fn commit(&mut self, next: u64) {
        // Positions of one log are in the order of their indexes, but for what was cut off meanwhile.
        self.acknowledged.retain(|at| at.index.get() >= next);
    }

    pub(super) fn appended(&mut self, entry: &RaftEntry, append: u64) {
        let EntryPayload::Normal(record) = &entry.payload else {
            return;
        };
        let position = position_of(&entry.log_id);
        if may_close(record.kind) {
            self.controls.note(record.tenant.as_ref(), position.index);
        }
        if self.watched.is_empty() {
            return;
        }
        if let Some((_, waits)) = self.watched.remove(&record.identity()) {
            self.unflushed.push_back((append, position, waits));
        }
    }

    pub(super) fn flushed(&mut self, append: u64) {
        while let Some((_, position, waits)) = self.unflushed.pop_front_if(|(of, ..)| *of <= append)
        {
            // Who waited may have its answer, or may have left.
            let _ = waits.send(position);
        }
    }
}

/// The last record of each tenant that may close it.
#[derive(Debug, Default)]
struct Controls {
    last: HashMap<TenantId, Index>,
    /// Of all tenants that are not kept apart.
    others: Option<Index>,
}

impl Controls {
    fn note(&mut self, tenant: Option<&TenantId>, at: Index) {
        if self.last.len() >= MAX_CONTROLLED {
            self.others = self.last.drain().map(|(_, at)| at).max().max(self.others);
        }
        match tenant {
            Some(tenant) => drop(self.last.insert(tenant.clone(), at)),
            None => self.others = Some(at).max(self.others),
        }
    }

    fn of(&self, tenant: Option<&TenantId>) -> Option<Index> {
        let own = tenant.and_then(|tenant| self.last.get(tenant));
        own.copied().max(self.others)
    }
}

/// Whether what follows such a record may be refused because of it.
fn may_close(kind: RecordKind) -> bool {
    match kind {
        RecordKind::Meta | RecordKind::Data | RecordKind::Reconcile => false,
        RecordKind::Seal
        | RecordKind::Unseal
        | RecordKind::Import
        | RecordKind::ImportComplete
        | RecordKind::Purge
        | RecordKind::Expire => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_record_counts_for_its_tenant_until_it_is_applied() {
        let (mine, other) = (
            TenantId::new("mine").unwrap(),
            TenantId::new("other").unwrap(),
        );
        let mut early = Early::default();
        early.controls.note(Some(&mine), Index::new(7));
        let has = |early: &Early, tenant, at| early.has_control(Some(tenant), Some(Index::new(at)));
        assert!(has(&early, &mine, 6) && early.has_control(Some(&mine), None));
        assert!(!has(&early, &mine, 7) && !has(&early, &other, 6));
        for n in 0..MAX_CONTROLLED {
            let many = TenantId::new(format!("t{n}")).unwrap();
            early.controls.note(Some(&many), Index::new(8));
        }
        assert!(early.controls.last.len() <= MAX_CONTROLLED);
        assert!(has(&early, &mine, 7), "it is not kept apart any more");
        assert!(!has(&early, &mine, 8));
    }
}
