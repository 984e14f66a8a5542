//! Resolutions on a state in memory.

use bytes::Bytes;
use maia_common::ids::{GroupId, IdempotencyKey, RegionName, ResourceId, ResourceType, TenantId};
use maia_common::limits;
use maia_common::placement::SyncMode;
use maia_common::position::{Index, Position, Revision, Term};
use maia_common::wire::record as wire;
use maia_common::wire::record::data_operation::What as Op;
use maia_common::wire::record::data_outcome::What;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

use crate::core::data::{apply, decode_outcome, decode_resource, resource_key, type_prefix};
use crate::core::history;
use crate::core::quarantine::{self, EntryId, Resolution, Why};
use crate::core::record::{Hlc, Idempotency, Record, RecordFields, RecordKind};
use crate::metastore::memory::MemoryState;
use crate::raft::{Mutations, StateCf, StateView};

const GROUP: GroupId = GroupId::new(1);
/// The term of what was cut off, and of what is in the log.
const OLD: u64 = 1;
const NEW: u64 = 2;

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn write(at_ms: u64, id: &str, what: Op, key: Option<&str>) -> Record {
    let operation = wire::DataOperation {
        resource_type: "k".to_owned(),
        resource_id: id.to_owned(),
        what: Some(what),
        content_type: "application/json".to_owned(),
        condition: None,
    };
    let body = wire::DataOperations {
        operations: vec![operation],
        by_field: true,
    };
    Record::new(RecordFields {
        kind: RecordKind::Data,
        tenant: Some(tenant()),
        sync_mode: Some(SyncMode::Async),
        hlc: Hlc::new(at_ms, 0),
        origin: Some(RegionName::new("a").unwrap()),
        idempotency: key.map(|key| Idempotency {
            key: IdempotencyKey::new(key).unwrap(),
            body_hash: [1; 32],
        }),
        placement: Revision::new(1),
        migration: None,
        body: body.encode_to_vec().into(),
    })
}

fn put(at_ms: u64, id: &str, value: &Value) -> Record {
    write(at_ms, id, Op::Put(value.to_string().into()), None)
}

fn delete(at_ms: u64, id: &str) -> Record {
    write(at_ms, id, Op::Delete(true), None)
}

struct Log {
    state: MemoryState,
    index: u64,
    /// The next index of what was cut off.
    cut_off: u64,
}

impl Log {
    fn new() -> Self {
        let mut log = Self {
            state: MemoryState::default(),
            index: 100,
            cut_off: 100,
        };
        for (term, index) in [(OLD, 1), (NEW, 100)] {
            let begins = Position::new(Term::new(term), Index::new(index));
            let mut out = Mutations::default();
            history::note(GROUP, begins, None, &log.state, &mut out).unwrap();
            log.state.write(out);
        }
        log
    }

    fn append(&mut self, record: &Record) -> What {
        self.index += 1;
        let position = Position::new(Term::new(NEW), Index::new(self.index));
        let mut out = Mutations::default();
        let outcome = apply(GROUP, position, record, &self.state, &mut out).unwrap();
        self.state.write(out);
        decode_outcome(&outcome).unwrap()
    }

    fn resolve(&mut self, record: &Record, how: Resolution) -> What {
        self.cut_off += 1;
        self.resolve_at(self.cut_off, record, how)
    }

    fn resolve_at(&mut self, index: u64, record: &Record, how: Resolution) -> What {
        let id = EntryId {
            group: GROUP,
            position: Position::new(Term::new(OLD), Index::new(index)),
        };
        let entry = quarantine::leaving(id, record, false, 1, Why::Truncated).unwrap();
        let made = (Hlc::new(1_000, 0), RegionName::new("b").unwrap());
        self.append(&quarantine::resolution(&entry, how, Revision::new(1), made))
    }

    fn get(&self, id: &str) -> Option<wire::Resource> {
        let (kind, id) = (
            ResourceType::new("k").unwrap(),
            ResourceId::new(id).unwrap(),
        );
        let key = resource_key(GROUP, &tenant(), &kind, &id);
        let bytes = self.state.get(StateCf::Data, &key).unwrap()?;
        Some(decode_resource(bytes).unwrap())
    }

    fn value(&self, id: &str) -> Option<Value> {
        Some(serde_json::from_slice(&self.get(id)?.data).unwrap())
    }
}

/// Won, lost, merged.
fn fates(what: What) -> (u32, u32, u32) {
    match what {
        What::Reconciled(done) if done.fate == 1 => (done.won, done.lost, done.merged),
        other => panic!("not resolved: {other:?}"),
    }
}

fn refused(what: What) -> String {
    match what {
        What::Refused(refused) => refused.code,
        other => panic!("not refused: {other:?}"),
    }
}

const LWW: Resolution = Resolution::LastWriteWins;
const WON: (u32, u32, u32) = (1, 0, 0);
const LOST: (u32, u32, u32) = (0, 1, 0);

#[test]
fn the_newer_write_wins() {
    let mut log = Log::new();
    log.append(&put(10, "r", &json!("here")));
    assert_eq!(fates(log.resolve(&put(9, "r", &json!("older")), LWW)), LOST);
    assert_eq!(log.value("r"), Some(json!("here")));
    assert_eq!(fates(log.resolve(&put(11, "r", &json!("newer")), LWW)), WON);
    let resource = log.get("r").unwrap();
    assert_eq!(resource.data, Bytes::from_static(b"\"newer\""));
    assert_eq!(
        (resource.hlc, resource.origin_region),
        (11 << 16, "a".to_owned())
    );
    assert_eq!(resource.version.unwrap().index, log.index, "a new version");
    assert_eq!(fates(log.resolve(&put(5, "other", &json!(1)), LWW)), WON);
}

#[test]
fn deletions_take_part() {
    let mut log = Log::new();
    log.append(&put(10, "r", &json!(1)));
    log.append(&delete(20, "r"));
    assert_eq!(fates(log.resolve(&put(15, "r", &json!(2)), LWW)), LOST);
    assert_eq!(log.value("r"), None, "it does not come back");
    assert_eq!(fates(log.resolve(&put(25, "r", &json!(3)), LWW)), WON);
    assert_eq!(fates(log.resolve(&delete(24, "r"), LWW)), LOST);
    assert_eq!(fates(log.resolve(&delete(26, "r"), LWW)), WON);
    assert_eq!(log.value("r"), None);
    assert_eq!(fates(log.resolve(&put(25, "r", &json!(4)), LWW)), LOST);
}

#[test]
fn what_comes_later_in_the_log_is_newer_whatever_its_clock_says() {
    let (ahead, between) = (put(100, "r", &json!("ahead")), put(70, "r", &json!("old")));
    for gone in [false, true] {
        let mut log = Log::new();
        assert_eq!(fates(log.resolve(&ahead, LWW)), WON);
        if gone {
            log.append(&delete(40, "r"));
        }
        log.append(&put(50, "r", &json!("later")));
        assert_eq!(fates(log.resolve(&between, LWW)), LOST, "{gone}");
        assert_eq!(log.value("r"), Some(json!("later")));
    }
}

#[test]
fn no_row_of_a_tombstone_is_left_when_the_resource_is_made_anew_or_its_tenant_purged() {
    let mut log = Log::new();
    let rows = |log: &Log| {
        log.state
            .rows()
            .keys()
            .filter(|(cf, _)| *cf == StateCf::Dedup)
            .count()
    };
    log.append(&put(10, "r", &json!(1)));
    log.append(&delete(20, "r"));
    assert_eq!(rows(&log), 2);
    log.append(&put(30, "r", &json!(1)));
    assert_eq!(rows(&log), 0);
    log.append(&delete(40, "r"));
    let mut purge = (*delete(50, "r")).clone();
    purge.kind = RecordKind::Purge;
    log.append(&Record::new(purge));
    assert_eq!(rows(&log), 0);
    assert_eq!(
        log.state.rows().len(),
        4,
        "the history, and that the tenant has ended"
    );
}

#[test]
fn tombstones_are_forgotten_and_what_is_older_waits() {
    let mut log = Log::new();
    let lifetime = u64::try_from(limits::TOMBSTONE_LIFETIME.as_millis()).unwrap();
    for (at, id) in [(10, "r"), (10 + 2 * lifetime, "s")] {
        log.append(&put(at, id, &json!(1)));
        log.append(&delete(at, id));
    }
    let late = log.resolve(&put(9, "r", &json!(2)), LWW);
    assert_eq!(refused(late), "precondition_failed");
    let never = log.resolve(&put(9, "never", &json!(2)), LWW);
    assert_eq!(
        refused(never),
        "precondition_failed",
        "it may have been deleted, too"
    );
    assert_eq!(fates(log.resolve(&put(50, "r", &json!(3)), LWW)), WON);
    let order = type_prefix(GROUP, &tenant(), &ResourceType::new("k").unwrap());
    assert_eq!(
        log.state
            .scan(StateCf::Data, &order, None, 9)
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn tombstones_go_also_when_no_new_ones_come() {
    let mut log = Log::new();
    let lifetime = u64::try_from(limits::TOMBSTONE_LIFETIME.as_millis()).unwrap();
    for id in ["r", "s", "t"] {
        log.append(&put(10, id, &json!(1)));
        log.append(&delete(10, id));
    }
    log.append(&put(20, "s", &json!(1)));
    let rows = |log: &Log| {
        let rows = log.state.rows();
        rows.keys().filter(|(cf, _)| *cf == StateCf::Dedup).count()
    };
    assert_eq!(rows(&log), 4);
    for _ in 0..16 {
        log.append(&put(10 + 2 * lifetime, "u", &json!(1)));
    }
    assert_eq!(rows(&log), 0);
    let late = log.resolve(&put(9, "r", &json!(2)), LWW);
    assert_eq!(refused(late), "precondition_failed", "they were forgotten");
}

/// A field of a time of which it is not known whether the resource was deleted since is not brought back.
#[test]
fn what_was_forgotten_is_a_floor_for_fields_too() {
    let mut log = Log::new();
    let lifetime = u64::try_from(limits::TOMBSTONE_LIFETIME.as_millis()).unwrap();
    let later = 10 + 2 * lifetime;
    log.append(&put(1, "r", &json!({"a": 1})));
    log.append(&put(1, "old", &json!({"a": 1})));
    log.append(&delete(10, "r"));
    log.append(&put(later, "s", &json!(1)));
    log.append(&delete(later, "s"));
    log.append(&put(later, "r", &json!({"b": 1})));
    let resolve =
        |log: &mut Log, id: &str| log.resolve(&put(9, id, &json!({"a": 9})), Resolution::Merge);
    assert_eq!(refused(resolve(&mut log, "r")), "precondition_failed");
    assert_eq!(log.value("r"), Some(json!({"b": 1})));
    // This one has been there since before.
    resolve(&mut log, "old");
    assert_eq!(log.value("old"), Some(json!({"a": 9})));
}

/// What does not fit a number of this machine is changed by nobody who did not write it.
#[test]
fn numbers_that_neither_side_changed_stay_as_they_are() {
    let mut log = Log::new();
    let big = "{\"a\":1,\"big\":18446744073709551617,\"f\":0.10000000000000000555}";
    let text = |log: &Log| String::from_utf8(log.get("r").unwrap().data.to_vec()).unwrap();
    log.append(&write(1, "r", Op::Put(big.into()), None));
    let theirs = write(5, "r", Op::Put("{\"b\":2}".into()), None);
    log.resolve(&theirs, Resolution::Merge);
    let merged = big.replace("\"big\"", "\"b\":2,\"big\"");
    assert_eq!(text(&log), merged);
    let patch = Op::MergePatch("{\"a\": 7}".into());
    log.append(&write(9, "r", patch, None));
    assert_eq!(text(&log), merged.replace("\"a\":1", "\"a\":7"));
}

#[test]
fn a_committed_record_is_not_written_twice() {
    let mut log = Log::new();
    log.append(&put(10, "r", &json!("here")));
    let newer = put(99, "r", &json!("twice"));
    match log.resolve_at(99, &newer, LWW) {
        What::Reconciled(done) => assert_eq!((done.fate, done.won), (3, 0)),
        other => panic!("{other:?}"),
    }
    assert_eq!(log.value("r"), Some(json!("here")));
}

#[test]
fn a_retry_that_was_accepted_meanwhile_is_the_same_write() {
    let mut log = Log::new();
    let with_key = |at_ms, value: &str| {
        write(
            at_ms,
            "r",
            Op::Put(Bytes::copy_from_slice(value.as_bytes())),
            Some("key"),
        )
    };
    log.append(&with_key(10, "1"));
    log.append(&put(12, "r", &json!(2)));
    match log.resolve(&with_key(20, "1"), LWW) {
        What::Reconciled(done) => assert_eq!(done.fate, 2),
        other => panic!("{other:?}"),
    }
    assert_eq!(log.value("r"), Some(json!(2)));
}

#[test]
fn a_retry_that_comes_after_the_resolution_is_the_same_write() {
    let mut log = Log::new();
    let cut_off = write(10, "r", Op::Put(Bytes::from_static(b"1")), Some("key"));
    assert_eq!(fates(log.resolve(&cut_off, LWW)), WON);
    log.append(&put(12, "r", &json!(2)));
    match log.append(&write(
        20,
        "r",
        Op::Put(Bytes::from_static(b"1")),
        Some("key"),
    )) {
        What::Written(written) => assert!(written.replayed),
        other => panic!("{other:?}"),
    }
    assert_eq!(log.value("r"), Some(json!(2)));
}

#[test]
fn one_resolution_however_often_it_is_proposed() {
    let mut log = Log::new();
    let cut_off = put(50, "r", &json!(1));
    let first = log.resolve_at(101, &cut_off, LWW);
    log.append(&delete(40, "r"));
    assert_eq!(log.resolve_at(101, &cut_off, LWW), first);
    assert_eq!(log.value("r"), None);
    let decided = log.resolve_at(101, &cut_off, Resolution::Overwrite);
    log.append(&delete(41, "r"));
    assert_eq!(
        log.resolve_at(101, &cut_off, Resolution::Overwrite),
        decided
    );
    assert_eq!(log.value("r"), None, "decided once");
}

#[test]
fn only_an_operator_applies_a_patch_or_overwrites_what_is_newer() {
    let mut log = Log::new();
    log.append(&put(10, "r", &json!({"a": 1})));
    let patch = write(
        20,
        "r",
        Op::MergePatch(Bytes::from_static(b"{\"b\":2}")),
        None,
    );
    for how in [LWW, Resolution::Merge] {
        assert_eq!(refused(log.resolve(&patch, how)), "invalid_request");
    }
    let refused_before = log.resolve_at(log.cut_off, &patch, Resolution::Overwrite);
    assert_eq!(
        fates(refused_before),
        WON,
        "a refusal is not kept under the key"
    );
    assert_eq!(log.value("r"), Some(json!({"a": 1, "b": 2})));
    let older = put(1, "r", &json!("old"));
    assert_eq!(fates(log.resolve(&older, Resolution::Overwrite)), WON);
    assert_eq!(log.value("r"), Some(json!("old")));
    assert_eq!(
        fates(log.resolve(&delete(1, "r"), Resolution::Overwrite)),
        WON
    );
    assert_eq!(
        fates(log.resolve(&delete(1, "r"), Resolution::Overwrite)),
        LOST
    );
}

#[test]
fn fields_are_merged_and_their_stamps_kept() {
    let mut log = Log::new();
    log.append(&put(1, "r", &json!({"a": 1, "b": 1})));
    log.append(&put(9, "r", &json!({"a": 2, "b": 1})));
    let first = put(5, "r", &json!({"a": 5, "b": 5, "c": 5}));
    assert_eq!(fates(log.resolve(&first, Resolution::Merge)), (0, 0, 1));
    assert_eq!(log.value("r"), Some(json!({"a": 2, "b": 5, "c": 5})));
    let second = put(4, "r", &json!({"b": 4, "d": 4}));
    assert_eq!(fates(log.resolve(&second, Resolution::Merge)), (0, 0, 1));
    assert_eq!(
        log.value("r"),
        Some(json!({"a": 2, "b": 5, "c": 5, "d": 4}))
    );
    assert_eq!(
        fates(log.resolve(&delete(4, "r"), Resolution::Merge)),
        (0, 0, 1)
    );
    assert_eq!(
        log.value("r"),
        Some(json!({"a": 2, "b": 5, "c": 5})),
        "{}",
        "what is older goes"
    );
}

fn any_cut_off() -> impl Strategy<Value = Record> {
    let value = prop_oneof![
        (0..3i32).prop_map(|n| json!(n)),
        prop::collection::btree_map("[a-c]", 0..3i32, 0..3).prop_map(|m| json!(m)),
    ];
    (0..60u64, "[rs]", prop::option::weighted(0.8, value)).prop_map(|(ms, id, value)| match value {
        Some(value) => put(ms, &id, &value),
        None => delete(ms, &id),
    })
}

proptest! {
    /// Whatever is in the log, entries may be resolved in any order.
    #[test]
    fn the_order_of_resolutions_does_not_matter(
        before in prop::collection::vec(any_cut_off(), 0..4),
        merge in any::<bool>(),
        entries in prop::collection::vec(any_cut_off(), 1..6)
            .prop_map(|e| (1..).zip(e).collect::<Vec<(u64, Record)>>())
            .prop_flat_map(|e| (Just(e.clone()), Just(e).prop_shuffle()))
    ) {
        // No two writes of one region have one stamp.
        let apart = |nth: u64, record: &Record| {
            let mut fields = (**record).clone();
            fields.hlc = Hlc::new(fields.hlc.physical_ms(), u16::try_from(nth).unwrap());
            Record::new(fields)
        };
        let run = |entries: &[(u64, Record)]| {
            let mut log = Log::new();
            for (nth, record) in (100..).zip(&before) {
                log.append(&apart(nth, record));
            }
            let how = if merge { Resolution::Merge } else { LWW };
            for (nth, record) in entries {
                fates_of_any(log.resolve_at(100 + nth, &apart(*nth, record), how));
            }
            ["r", "s"].map(|id| log.value(id))
        };
        prop_assert_eq!(run(&entries.0), run(&entries.1));
    }
}

fn fates_of_any(what: What) {
    assert_eq!(
        fates(what.clone()).0 + fates(what.clone()).1 + fates(what).2,
        1
    );
}

/// What apply has answered before is not the answer to another decision.
#[test]
fn an_operator_may_overwrite_what_lost() {
    let mut log = Log::new();
    log.append(&put(10, "r", &json!("here")));
    let older = put(9, "r", &json!("older"));
    assert_eq!(fates(log.resolve_at(101, &older, LWW)), LOST);
    let decided = log.resolve_at(101, &older, Resolution::Overwrite);
    assert_eq!(fates(decided), WON);
    assert_eq!(log.value("r"), Some(json!("older")));
    log.append(&put(20, "r", &json!("later")));
    let again = log.resolve_at(101, &older, Resolution::Overwrite);
    assert_eq!(fates(again), WON, "the same answer");
    assert_eq!(log.value("r"), Some(json!("later")), "and it was done once");
}

#[test]
fn a_client_can_not_take_the_key_of_a_resolution() {
    let mut log = Log::new();
    let op = Op::Put(json!("theirs").to_string().into());
    log.append(&write(10, "other", op, Some("reconcile/1/1/101")));
    let cut_off = put(9, "r", &json!("cut off"));
    assert_eq!(fates(log.resolve_at(101, &cut_off, LWW)), WON);
    assert_eq!(log.value("r"), Some(json!("cut off")));
}
