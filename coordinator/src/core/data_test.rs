//! Data records on a state in memory.

use bytes::Bytes;
use maia_common::ids::{GroupId, IdempotencyKey, ResourceId, ResourceType, TenantId};
use maia_common::placement::SyncMode;
use maia_common::position::{Index, Position, Revision, Term};
use maia_common::wire::record as wire;
use maia_common::wire::record::data_operation::What as Op;
use maia_common::wire::record::data_outcome::What;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::core::record::{Hlc, Idempotency, Record, RecordFields, RecordKind};
use crate::metastore::memory::MemoryState;
use crate::raft::{Mutations, StateCf, StateView};

const GROUP: GroupId = GroupId::new(1);

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn key(id: &str) -> Vec<u8> {
    let (kind, id) = (
        ResourceType::new("k").unwrap(),
        ResourceId::new(id).unwrap(),
    );
    resource_key(GROUP, &tenant(), &kind, &id)
}

fn op(id: &str, what: Op, must: Option<wire::condition::Must>) -> wire::DataOperation {
    wire::DataOperation {
        resource_type: "k".into(),
        resource_id: id.into(),
        what: Some(what),
        content_type: "application/json".into(),
        condition: must.map(|must| wire::Condition { must: Some(must) }),
    }
}

fn put(id: &str, data: &'static str) -> wire::DataOperation {
    op(id, Op::Put(Bytes::from_static(data.as_bytes())), None)
}

struct Log {
    state: MemoryState,
    index: u64,
    sync_mode: Option<SyncMode>,
}

impl Log {
    fn new() -> Self {
        Self {
            state: MemoryState::default(),
            index: 0,
            sync_mode: None,
        }
    }

    fn write(&mut self, operations: Vec<wire::DataOperation>) -> What {
        self.write_with(operations, None, 1)
    }

    fn write_with(
        &mut self,
        operations: Vec<wire::DataOperation>,
        idempotency: Option<(&str, u8)>,
        at_ms: u64,
    ) -> What {
        let by_field = false;
        let body = wire::DataOperations {
            operations,
            by_field,
        }
        .encode_to_vec();
        self.append(RecordKind::Data, 1, body, idempotency, at_ms)
    }

    fn purge(&mut self, placement: u64) -> What {
        self.append(RecordKind::Purge, placement, Vec::new(), None, 1)
    }

    fn append(
        &mut self,
        kind: RecordKind,
        placement: u64,
        body: Vec<u8>,
        idempotency: Option<(&str, u8)>,
        at_ms: u64,
    ) -> What {
        self.index += 1;
        let record = Record::new(RecordFields {
            kind,
            tenant: Some(tenant()),
            sync_mode: self.sync_mode,
            hlc: Hlc::new(at_ms, 0),
            origin: None,
            idempotency: idempotency.map(|(key, body)| Idempotency {
                key: IdempotencyKey::new(key).unwrap(),
                body_hash: [body; 32],
            }),
            placement: Revision::new(placement),
            migration: None,
            body: body.into(),
        });
        let position = Position::new(Term::new(1), Index::new(self.index));
        let mut out = Mutations::default();
        let outcome = apply(GROUP, position, &record, &self.state, &mut out).unwrap();
        self.state.write(out);
        decode_outcome(&outcome).unwrap()
    }

    fn data(&self, id: &str) -> Option<Bytes> {
        let bytes = self.state.get(StateCf::Data, &key(id)).unwrap()?;
        Some(decode_resource(bytes).unwrap().data)
    }
}

fn written(what: What) -> wire::Written {
    match what {
        What::Written(written) => written,
        other => panic!("not written: {other:?}"),
    }
}

fn refused(what: What) -> String {
    match what {
        What::Refused(refused) => refused.code,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_version_is_the_position_of_the_last_change() {
    let mut log = Log::new();
    let first = written(log.write(vec![put("a", "1")]));
    assert_eq!(
        first.version,
        Some(wire::Version {
            group: 1,
            term: 1,
            index: 1
        })
    );
    assert_eq!(first.created, [true]);
    assert_eq!(written(log.write(vec![put("a", "2")])).created, [false]);
    use wire::condition::Must;
    let at = |index| {
        Some(Must::BeAt(wire::Version {
            group: 1,
            term: 1,
            index,
        }))
    };
    let data = || Op::Put(Bytes::from_static(b"3"));
    assert_eq!(
        refused(log.write(vec![op("a", data(), at(1))])),
        "precondition_failed"
    );
    written(log.write(vec![op("a", data(), at(2))]));
    let absent = Some(Must::BeAbsent(true));
    assert_eq!(
        refused(log.write(vec![op("a", data(), absent)])),
        "precondition_failed"
    );
    let present = Some(Must::BePresent(true));
    assert_eq!(
        refused(log.write(vec![op("b", data(), present)])),
        "precondition_failed"
    );
}

#[test]
fn several_operations_are_all_or_nothing() {
    let mut log = Log::new();
    let missing = op("b", Op::Delete(true), None);
    assert_eq!(
        refused(log.write(vec![put("a", "1"), missing])),
        "not_found"
    );
    assert_eq!(log.data("a"), None);
    assert_eq!(
        refused(log.write(vec![put("a", "1"), put("a", "2")])),
        "invalid_request"
    );
    assert!(log.state.rows().is_empty());
}

#[test]
fn a_patch_merges_json_and_nothing_else() {
    let mut log = Log::new();
    let patch = |json: &'static str| {
        op(
            "a",
            Op::MergePatch(Bytes::from_static(json.as_bytes())),
            None,
        )
    };
    assert_eq!(refused(log.write(vec![patch("{}")])), "not_found");
    log.write(vec![put("a", r#"{"x":1,"y":2}"#)]);
    let done = written(log.write(vec![patch(r#"{"x":null,"z":3}"#)]));
    assert_eq!(done.data, Bytes::from_static(br#"{"y":2,"z":3}"#));
    assert_eq!(log.data("a"), Some(done.data));
    log.write(vec![put("a", "not json")]);
    assert_eq!(refused(log.write(vec![patch("{}")])), "invalid_request");
}

#[test]
fn a_key_has_one_effect_and_one_answer() {
    let mut log = Log::new();
    let first = written(log.write_with(vec![put("a", "1")], Some(("key", 1)), 1));
    log.write(vec![put("a", "2")]);
    let again = written(log.write_with(vec![put("a", "1")], Some(("key", 1)), 2));
    assert!(again.replayed && !first.replayed);
    assert_eq!(again.version, first.version);
    assert_eq!(
        log.data("a"),
        Some(Bytes::from_static(b"2")),
        "no second effect"
    );
    let other = log.write_with(vec![put("a", "3")], Some(("key", 2)), 3);
    assert_eq!(refused(other), "idempotency_conflict");
    // A refusal is an outcome too.
    let delete = || vec![op("gone", Op::Delete(true), None)];
    assert_eq!(
        refused(log.write_with(delete(), Some(("d", 1)), 4)),
        "not_found"
    );
    log.write(vec![put("gone", "1")]);
    assert_eq!(
        refused(log.write_with(delete(), Some(("d", 1)), 5)),
        "not_found"
    );
    assert!(log.data("gone").is_some());
}

#[test]
fn keys_past_their_lifetime_go_when_new_ones_come() {
    let mut log = Log::new();
    let day_ms = 24 * 3_600_000;
    for n in 0..3 {
        log.write_with(vec![put("a", "1")], Some((&format!("old{n}"), 1)), 1);
    }
    log.write_with(vec![put("a", "1")], Some(("new", 1)), day_ms + 2);
    log.write_with(vec![put("a", "1")], Some(("newer", 1)), day_ms + 3);
    let kept = log
        .state
        .scan(
            StateCf::Dedup,
            &crate::raft::group_key(GROUP, b""),
            None,
            99,
        )
        .unwrap();
    assert_eq!(kept.len(), 4, "two keys, each with its place in the order");
}

#[test]
fn keys_past_their_lifetime_go_also_when_no_new_ones_come() {
    let mut log = Log::new();
    for n in 0..3 {
        log.write_with(vec![put("a", "1")], Some((&format!("old{n}"), 1)), 1);
    }
    let rows = |log: &Log| {
        let rows = log.state.rows();
        rows.keys().filter(|(cf, _)| *cf == StateCf::Dedup).count()
    };
    let day_ms = 24 * 3_600_000;
    for _ in 0..16 {
        log.write_with(vec![put("a", "1")], None, day_ms - 1);
    }
    assert_eq!(rows(&log), 6, "not before");
    for _ in 0..16 {
        log.write_with(vec![put("a", "1")], None, day_ms + 2);
    }
    assert_eq!(rows(&log), 0);
    // And what is there after the gap is found again.
    log.write_with(vec![put("a", "1")], Some(("new", 1)), day_ms + 3);
    assert_eq!(rows(&log), 2);
    for _ in 0..16 {
        log.write_with(vec![put("a", "1")], None, 3 * day_ms);
    }
    assert_eq!(rows(&log), 0);
}

#[test]
fn a_purge_leaves_nothing_and_lets_nothing_older_in() {
    let mut log = Log::new();
    for n in 0..1500 {
        written(log.write_with(
            vec![put(&format!("r{n}"), "1")],
            Some((&format!("k{n}"), 1)),
            1,
        ));
    }
    assert_eq!(log.purge(5), What::Purged(wire::Purged { more: true }));
    assert_eq!(
        refused(log.write(vec![put("a", "1")])),
        "stale_placement",
        "of the placement at 1"
    );
    while log.purge(5) == What::Purged(wire::Purged { more: true }) {}
    assert_eq!(
        log.state.rows().len(),
        1,
        "the mark alone outlives the purge"
    );
    let body = || {
        wire::DataOperations {
            operations: vec![put("a", "2")],
            by_field: false,
        }
        .encode_to_vec()
    };
    written(log.append(RecordKind::Data, 6, body(), None, 1));
    for late in [4, 5] {
        log.purge(late);
        assert_eq!(
            log.data("a"),
            Some(Bytes::from_static(b"2")),
            "an older purge comes too late, and so does the same one from elsewhere"
        );
    }
}

/// Its leader may have said so before it could know.
#[test]
fn in_async_mode_a_delete_of_nothing_is_taken_and_remembered() {
    let delete = |must| vec![op("x", Op::Delete(true), must)];
    let mut log = Log::new();
    let refused = |what| matches!(what, What::Refused(refused) if refused.code == "not_found");
    assert!(refused(log.write(delete(None))));
    log.sync_mode = Some(SyncMode::Async);
    assert!(refused(log.write_with(delete(None), Some(("key", 1)), 1)));
    let before = log.state.clone();
    let What::Written(written) = log.write(delete(None)) else {
        panic!("a delete that may have been answered is refused");
    };
    assert_eq!(written.created, [false]);
    assert_ne!(
        format!("{before:?}"),
        format!("{:?}", log.state),
        "it leaves a tombstone"
    );
    let What::Written(_) = log.write(delete(None)) else {
        panic!("nor a second one");
    };
}

proptest! {
    /// I13, and tenants' and types' prefixes never mix.
    #[test]
    fn replaying_gives_the_same_state(
        steps in prop::collection::vec((0u8..3, 0u8..3, prop::option::of(0u8..3)), 0..40)
    ) {
        let run = || {
            let mut log = Log::new();
            for (id, what, key) in &steps {
                let id = format!("r{id}");
                let operation = match what {
                    0 => op(&id, Op::Delete(true), None),
                    1 => op(&id, Op::MergePatch(Bytes::from_static(b"{\"a\":1}")), None),
                    _ => put(&id, "{}"),
                };
                let name = key.map(|k| format!("key{k}"));
                log.write_with(vec![operation], name.as_deref().map(|k| (k, *what)), 1);
            }
            log.state
        };
        let (one, two) = (run(), run());
        prop_assert_eq!(one.rows(), two.rows());
    }
}
