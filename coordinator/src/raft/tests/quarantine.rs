//! What leaves a log before it is known to be committed is in quarantine: after a truncation, under a
//! snapshot, over a restart and when the node leaves; and what was committed is not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use maia_common::ids::{RegionName, TenantId};
use maia_common::placement::SyncMode;
use maia_common::position::{Index, Position, Revision, Term};
use maia_common::wire::record as wire;
use maia_common::{GroupId, NodeId};
use openraft::EntryPayload;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use prost::Message;
use rocksdb::WriteBatch;

use super::super::db::{CF_LOG, family};
use super::super::keys::{APPLIED_MARK, group_key, log_key};
use super::super::log::recovery;
use super::super::log::store::{GroupLog, SharedTail};
use super::super::log::tail::Tail;
use super::super::propose::within;
use super::super::types::{RaftEntry, RaftStoredMembership, RaftVote, log_id};
use super::super::*;
use super::field::{Field, NODES};
use super::harness::*;
use super::store::Store;
use crate::core::history;
use crate::core::quarantine::{Acknowledged, Entry, Waiting, Why};
use crate::core::record::{Hlc, Record, RecordFields, RecordKind};

const G: GroupId = GroupId::new(3);

pub(super) fn data(body: &str) -> Record {
    let operation = wire::DataOperation {
        resource_type: "k".to_owned(),
        resource_id: body.to_owned(),
        what: Some(wire::data_operation::What::Put(Bytes::copy_from_slice(
            body.as_bytes(),
        ))),
        content_type: String::new(),
        condition: None,
    };
    let body = wire::DataOperations {
        operations: vec![operation],
        by_field: false,
    };
    Record::new(RecordFields {
        kind: RecordKind::Data,
        tenant: Some(TenantId::new("t").unwrap()),
        sync_mode: Some(SyncMode::Async),
        hlc: Hlc::new(1, 0),
        origin: Some(RegionName::new("a").unwrap()),
        idempotency: None,
        placement: Revision::new(1),
        migration: None,
        body: body.encode_to_vec().into(),
    })
}

pub(super) fn entries(quarantine: &Quarantine) -> Vec<Entry> {
    let found = quarantine.page(None, usize::MAX, usize::MAX).unwrap();
    found.into_iter().map(|f| f.entry.unwrap()).collect()
}

fn indexes(quarantine: &Quarantine) -> Vec<u64> {
    let entries = entries(quarantine);
    entries.iter().map(|e| e.id.position.index.get()).collect()
}

/// The log of the group, opened anew.
async fn open(store: &Store) -> GroupLog {
    store.open(G, None).await.unwrap()
}

impl Store {
    fn quarantine(&self) -> Quarantine {
        Quarantine::new(Arc::clone(&self.db))
    }

    /// The state as a snapshot brings it: these terms began at these indexes, all applied up to `last`.
    fn install(&self, starts: &[(u64, u64)], last: (u64, u64)) {
        for (term, index) in starts {
            let begins = Position::new(Term::new(*term), Index::new(*index));
            let mut out = Mutations::default();
            let reader = StateReader::new(Arc::clone(&self.state.db));
            history::note(G, begins, None, &reader, &mut out).unwrap();
            let mut batch = WriteBatch::default();
            for (cf, key, value) in out.into_writes() {
                batch.put_cf(family(&self.state.db, cf.name()), key, value.unwrap());
            }
            self.state.write(batch).unwrap();
        }
        let mut batch = WriteBatch::default();
        let (last, members) = (log_id(last.0, last.1), RaftStoredMembership::default());
        self.state.put_applied(&mut batch, G, Some(&last), &members);
        self.state.write(batch).unwrap();
    }
}

/// Appends data records of this term.
async fn append(log: &mut GroupLog, term: u64, range: std::ops::Range<u64>) {
    let entries = range.map(|index| RaftEntry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(data(&index.to_string())),
    });
    log.blocking_append(entries.collect::<Vec<_>>())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_records_are_kept() {
    let store = Store::new();
    let mut log = open(&store).await;
    append(&mut log, 1, 0..9).await;
    log.save_committed(Some(log_id(1, 4))).await.unwrap();
    let noted = Position::new(Term::new(1), Index::new(7));
    assert!(
        !log.tail.lock().acknowledge(noted),
        "nobody leads in its term"
    );
    log.tail.lock().vote = Some(RaftVote::new_committed(1, 1));
    assert!(log.tail.lock().acknowledge(noted));
    log.tail.lock().vote = Some(RaftVote::new(2, 2));
    let late = Position::new(Term::new(1), Index::new(8));
    assert!(
        !log.tail.lock().acknowledge(late),
        "it may be cut off already"
    );
    log.truncate_after(Some(log_id(1, 5))).await.unwrap();
    let kept = entries(&store.quarantine());
    let of = |e: &Entry| (e.id.position.index.get(), e.acknowledged, e.why);
    assert_eq!(
        kept.iter().map(of).collect::<Vec<_>>(),
        [
            (6, Acknowledged::Perhaps, Why::Truncated),
            (7, Acknowledged::Yes, Why::Truncated),
            (8, Acknowledged::Perhaps, Why::Truncated)
        ]
    );
    assert_eq!(kept[0].record, data("6"));
    let cf = family(&store.db, CF_LOG);
    assert!(store.db.get_cf(cf, log_key(G, 6)).unwrap().is_none());
    // What takes its place is another record, and is kept beside it.
    append(&mut log, 2, 6..8).await;
    log.truncate_after(Some(log_id(1, 5))).await.unwrap();
    assert_eq!(entries(&store.quarantine()).len(), 5);
}

/// A purge that is not written, as when the process dies, leaves what the entries did; one that is takes it.
#[tokio::test(flavor = "multi_thread")]
async fn traces_go_after_their_entries() {
    let store = Store::new();
    let mut log = open(&store).await;
    append(&mut log, 1, 0..9).await;
    log.save_committed(Some(log_id(1, 8))).await.unwrap();
    let mut batch = WriteBatch::default();
    let trace = Bytes::from_static(b"what it did");
    let traces: Vec<(u64, Bytes)> = (0..9).map(|index| (index, trace.clone())).collect();
    store.state.put_traces(&mut batch, G, &traces);
    store.state.write(batch).unwrap();
    let left = || store.state.traces(G, (0, 9), usize::MAX).unwrap().len();

    store.flusher.fail_next();
    log.purge(log_id(1, 5)).await.unwrap_err();
    assert_eq!(left(), 9);
    let mut log = open(&store).await;
    log.purge(log_id(1, 5)).await.unwrap();
    assert_eq!(left(), 3);
}

/// What an earlier version applied has no traces, and is not shown; on a new disk all is.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_without_traces_is_not_retained() {
    let (old, new) = (Store::new(), Store::new());
    old.install(&[], (1, 4));
    for _ in 0..2 {
        old.state.begin_traces(&old.state.begin(G)).unwrap();
        new.state.begin_traces(&new.state.begin(G)).unwrap();
        assert_eq!(old.state.installed(G).unwrap(), Some(log_id(1, 4)));
        assert_eq!(new.state.installed(G).unwrap(), None);
        old.install(&[], (1, 9));
        new.install(&[], (1, 9));
    }
}

/// A write that fails removes nothing and keeps nothing: both are one batch.
#[tokio::test(flavor = "multi_thread")]
async fn removed_and_kept_is_one_write() {
    let store = Store::new();
    let mut log = open(&store).await;
    append(&mut log, 1, 0..9).await;
    store.flusher.fail_next();
    log.truncate_after(Some(log_id(1, 5))).await.unwrap_err();
    assert!(entries(&store.quarantine()).is_empty());
    let mut log = open(&store).await;
    assert_eq!(log.tail.lock().last, Some(log_id(1, 8)));
    log.truncate_after(None).await.unwrap();
    assert_eq!(indexes(&store.quarantine()).len(), 9);
}

/// Under a snapshot: what its history proves to be committed is not kept, all else is.
#[tokio::test(flavor = "multi_thread")]
async fn purged_records_are_kept_unless_the_snapshot_has_them() {
    let store = Store::new();
    let mut log = open(&store).await;
    append(&mut log, 1, 0..9).await;
    log.save_committed(Some(log_id(1, 3))).await.unwrap();
    store.install(&[(1, 0), (2, 6)], (2, 20));
    log.purge(log_id(2, 20)).await.unwrap();
    assert_eq!(indexes(&store.quarantine()), [6, 7, 8]);
    assert!(
        entries(&store.quarantine())
            .iter()
            .all(|e| e.why == Why::UnderSnapshot)
    );
    // The same after a restart that cut the work in two: the committed id may be older then.
    assert_eq!(open(&store).await.tail.lock().purged, Some(log_id(2, 20)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_what_is_committed_keeps_nothing() {
    let store = Store::new();
    let mut log = open(&store).await;
    append(&mut log, 1, 0..9).await;
    log.save_committed(Some(log_id(1, 8))).await.unwrap();
    log.purge(log_id(1, 8)).await.unwrap();
    assert!(entries(&store.quarantine()).is_empty());
}

/// More than one batch may carry: all of it is kept, and then it is removed.
#[tokio::test(flavor = "multi_thread")]
async fn many_and_large_records_are_kept_in_several_writes() {
    let store = Store::new();
    let mut log = open(&store).await;
    let large = "x".repeat(1 << 20);
    let entries = (0..12).map(|index| RaftEntry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(data(&format!("{index}{large}"))),
    });
    log.blocking_append(entries.collect::<Vec<_>>())
        .await
        .unwrap();
    log.truncate_after(None).await.unwrap();
    assert_eq!(indexes(&store.quarantine()), (0..12).collect::<Vec<_>>());
}

/// One rotted record, wherever it is, does not take the others along when the node leaves.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_of_a_damaged_log_is_kept() {
    for rotted in [0, 5, 8] {
        let store = Store::new();
        let mut log = open(&store).await;
        append(&mut log, 1, 0..9).await;
        log.save_committed(Some(log_id(1, 2))).await.unwrap();
        let mut log = open(&store).await;
        append(&mut log, 1, 9..10).await;
        let cf = family(&store.db, CF_LOG);
        store.db.put_cf(cf, log_key(G, rotted), b"rotted").unwrap();
        log.tail = match recovery::load_tail(&store.db, G, None, 0) {
            Ok(tail) => SharedTail::new(tail),
            Err(_) => SharedTail::new(Tail::damaged()),
        };
        log.leave(Some(log_id(1, 2))).await.unwrap();
        let whole: Vec<u64> = (3..10).filter(|index| *index != rotted).collect();
        assert_eq!(indexes(&store.quarantine()), whole, "{rotted} has rotted");
        assert!(store.db.get_cf(cf, log_key(G, 3)).unwrap().is_none());
    }
}

/// Nor does a state that can't say what was applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_keeps_nothing_from_being_kept() {
    let store = Store::new();
    let mut log = open(&store).await;
    append(&mut log, 1, 0..4).await;
    store.install(&[(1, 0)], (1, 1));
    let marks = family(&store.state.db, StateCf::Marks.name());
    let applied = group_key(G, APPLIED_MARK);
    store.state.db.put_cf(marks, applied, b"rotted").unwrap();
    log.leave(None).await.unwrap();
    assert_eq!(indexes(&store.quarantine()), [0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_on_after_an_entry_and_removal_is_of_one() {
    let store = Store::new();
    let mut log = open(&store).await;
    append(&mut log, 1, 0..5).await;
    log.truncate_after(None).await.unwrap();
    let quarantine = store.quarantine();
    let first = quarantine.page(None, 2, usize::MAX).unwrap();
    assert_eq!(first.len(), 2);
    let second = quarantine.page(Some(first[1].id), 9, 1).unwrap();
    assert_eq!(second.len(), 1, "at least one, whatever its size");
    assert_eq!(second[0].id.position.index, Index::new(2));
    let (gone, other) = (first[0].id, first[1].entry.as_ref().unwrap());
    quarantine.change(&[], &[gone]).unwrap();
    let waits = Entry {
        waiting: Some(Waiting::TooOld),
        ..other.clone()
    };
    let late = Entry {
        id: gone,
        ..waits.clone()
    };
    quarantine.change(&[late, waits], &[gone]).unwrap();
    assert_eq!(quarantine.count().unwrap(), 4, "what is gone stays gone");
    let marked = quarantine.get(first[1].id).unwrap().unwrap();
    assert_eq!(marked.waiting, Some(Waiting::TooOld));
    assert_eq!(indexes(&quarantine), [1, 2, 3, 4]);
    assert!(quarantine.get(first[0].id).unwrap().is_none());
    assert!(quarantine.get(first[1].id).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_hands_over_is_kept_once_with_the_stronger_word() {
    let store = Store::new();
    let mut log = open(&store).await;
    append(&mut log, 1, 0..3).await;
    log.truncate_after(None).await.unwrap();
    let quarantine = store.quarantine();
    let mut theirs = entries(&quarantine).remove(1);
    assert_eq!(theirs.acknowledged, Acknowledged::Perhaps);
    theirs.acknowledged = Acknowledged::Yes;
    let adopted =
        |entry: &Entry, trusted| quarantine.adopt(entry.clone(), trusted).unwrap().is_some();
    assert!(adopted(&theirs, true));
    theirs.acknowledged = Acknowledged::No;
    theirs.waiting = Some(Waiting::Rejected);
    assert!(adopted(&theirs, true));
    assert_eq!(quarantine.count().unwrap(), 3);
    let kept = quarantine.get(theirs.id).unwrap().unwrap();
    let word = (kept.acknowledged, kept.waiting);
    assert_eq!(word, (Acknowledged::Yes, Some(Waiting::Rejected)));
    theirs.waiting = Some(Waiting::RemovedNode);
    assert!(adopted(&theirs, false));
    let kept = quarantine.get(theirs.id).unwrap().unwrap();
    assert_eq!(kept.waiting, Some(Waiting::Rejected), "not in its place");
    let other = entries(&quarantine).remove(0);
    let planted = Entry {
        id: theirs.id,
        ..other
    };
    for is_trusted in [true, false] {
        assert!(!adopted(&planted, is_trusted));
    }
    assert_eq!(quarantine.get(theirs.id).unwrap().unwrap(), kept);
    theirs.id.position.index = Index::new(9);
    assert!(adopted(&theirs, true));
    quarantine.compact().unwrap();
    assert!(quarantine.has(theirs.id).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_reads_on_past_what_is_not_wanted_and_says_where_it_ended() {
    let store = Store::new();
    let mut log = open(&store).await;
    append(&mut log, 1, 0..6).await;
    log.truncate_after(None).await.unwrap();
    let quarantine = store.quarantine();
    let odd = |found: &Found| found.id.position.index.get() % 2 == 1;
    let first = quarantine.search(None, (2, usize::MAX), odd).unwrap();
    let at = |page: &Page| -> Vec<u64> {
        let found = page.found.iter();
        found.map(|found| found.id.position.index.get()).collect()
    };
    assert_eq!(at(&first), [1, 3]);
    let last = quarantine.search(first.next, (2, usize::MAX), odd).unwrap();
    assert_eq!((at(&last), last.next), (vec![5], None));
    let little = quarantine.search(None, (2, 1), odd).unwrap();
    assert_eq!(at(&little), [0u64; 0], "it read its share");
    assert!(little.next.is_some());
}

/// The node that leads.
pub(super) async fn leader(field: &Field, among: &[u64]) -> u64 {
    let mut leader = None;
    until("a leader", || {
        let leads = |id: &&u64| {
            let status = field.engine(**id).and_then(|e| e.status(G));
            status.is_some_and(|s| {
                s.role == Role::Leader && !s.is_leaderless(Duration::from_millis(500))
            })
        };
        leader = among.iter().find(leads).copied();
        leader.is_some()
    })
    .await;
    leader.unwrap()
}

/// What is in quarantine on any node.
fn kept(field: &Field) -> BTreeSet<String> {
    let engines = NODES.iter().map(|id| field.engine(*id).unwrap());
    let entries = engines.flat_map(|engine| entries(&engine.quarantine()));
    let id = |entry: Entry| {
        let body = wire::DataOperations::decode(entry.record.body.clone()).unwrap();
        body.operations[0].resource_id.clone()
    };
    entries.map(id).collect()
}

/// A leader is cut off, takes records that nobody else gets, and comes back to a group that went on:
/// over its log, or so far that it gets a snapshot.
async fn cut_off(entries_since: u64, more: usize) {
    let field = Field::new(7, &[G], move |config| {
        config.snapshots.entries_since_last = entries_since;
        config.snapshots.entries_to_keep = 1;
    });
    field.begin().await;
    let old = leader(&field, &NODES).await;
    let engine = field.engine(old).unwrap();
    for n in 0..5 {
        let record = data(&format!("committed {n}"));
        engine.propose(G, record, within(PATIENCE)).await.unwrap();
    }
    let others: Vec<u64> = NODES.into_iter().filter(|id| *id != old).collect();
    for other in &others {
        field.net.cut(NodeId::new(old), NodeId::new(*other));
        field.net.cut(NodeId::new(*other), NodeId::new(old));
    }
    let lost = engine
        .propose(G, data("cut off"), within(Duration::from_millis(200)))
        .await;
    assert!(
        matches!(lost, Err(ProposeError::OutcomeUnknown)),
        "{lost:?}"
    );
    drop(engine);
    let new = leader(&field, &others).await;
    let mut last = None;
    for n in 0..more {
        let engine = field.engine(new).unwrap();
        let record = data(&format!("went on {n}"));
        last = Some(
            engine
                .propose(G, record, within(PATIENCE))
                .await
                .unwrap()
                .position,
        );
    }
    if more as u64 > entries_since {
        let purged = || field.engine(new).unwrap().status(G).unwrap().purged;
        until("the log is purged", || {
            purged().is_some_and(|at| at.index.get() > entries_since)
        })
        .await;
    }
    field.net.heal();
    let engine = field.engine(old).unwrap();
    engine
        .wait_applied(G, last.unwrap(), within(PATIENCE))
        .await
        .unwrap();
    until("the record is kept", || {
        !entries(&engine.quarantine()).is_empty()
    })
    .await;
    drop(engine);
    field.power_cut(old).await;
    field.start(old).await;
    let ids = kept(&field);
    assert_eq!(
        ids,
        BTreeSet::from(["cut off".to_owned()]),
        "and nothing that was committed"
    );
    field.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_leaders_record_is_kept_at_truncation() {
    cut_off(50_000, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_leaders_record_is_kept_under_a_snapshot() {
    cut_off(20, 200).await;
}

/// A node that leaves keeps what nobody else may have, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn leaving_a_group_keeps_what_is_not_known_to_be_committed() {
    let store = Store::new();
    let mut log = open(&store).await;
    append(&mut log, 1, 0..9).await;
    log.save_committed(Some(log_id(1, 6))).await.unwrap();
    log.leave(Some(log_id(1, 6))).await.unwrap();
    assert_eq!(indexes(&store.quarantine()), [7, 8]);
    assert!(
        entries(&store.quarantine())
            .iter()
            .all(|e| e.why == Why::Left)
    );
}
