//! What is shown of entries, as apply decided them.

use bytes::Bytes;
use maia_common::ids::{GroupId, TenantId};
use maia_common::position::{Index, Position, Revision, Term};
use maia_common::wire::record as wire;
use maia_common::wire::record::data_operation::What;
use prost::Message;
use serde_json::{Value, json};

use super::{Untold, content, depth, shown};
use crate::core::data;
use crate::core::record::{Hlc, Record, RecordFields, RecordKind};
use crate::metastore::memory::MemoryState;
use crate::raft::Mutations;

const G: GroupId = GroupId::new(3);

/// What the records so far made.
#[derive(Default)]
struct State(MemoryState);

fn operation(id: &str, what: What) -> wire::DataOperation {
    wire::DataOperation {
        resource_type: "notes".to_owned(),
        resource_id: id.to_owned(),
        what: Some(what),
        content_type: "application/json".to_owned(),
        condition: None,
    }
}

fn record(kind: RecordKind, operations: Vec<wire::DataOperation>) -> Record {
    record_of(kind, operations, 1)
}

fn record_of(kind: RecordKind, operations: Vec<wire::DataOperation>, placement: u64) -> Record {
    let body = wire::DataOperations {
        operations,
        ..wire::DataOperations::default()
    };
    Record::new(RecordFields {
        kind,
        tenant: Some(TenantId::new("acme").unwrap()),
        sync_mode: None,
        hlc: Hlc::new(1_000, 2),
        origin: None,
        idempotency: None,
        placement: Revision::new(placement),
        migration: None,
        body: body.encode_to_vec().into(),
    })
}

impl State {
    /// Applies the record as the engine does, and shows the entry as its followers see it.
    fn applied(&mut self, index: u64, record: &Record) -> Option<Value> {
        let at = Position::new(Term::new(2), Index::new(index));
        let mut out = Mutations::default();
        data::apply(G, at, record, &self.0, &mut out).unwrap();
        let trace = data::trace(record, &out).map(|bytes| data::decode_trace(bytes).unwrap());
        let shown = shown(G, at, record, trace.as_ref()).unwrap();
        self.0.write(out);
        shown.map(|json| serde_json::from_str(&json).unwrap())
    }
}

fn put(id: &str, data: &'static str) -> wire::DataOperation {
    operation(id, What::Put(Bytes::from_static(data.as_bytes())))
}

#[test]
fn an_entry_says_what_each_resource_is_afterwards() {
    let mut state = State::default();
    let written = record(RecordKind::Data, vec![put("a", "{\"x\":1}"), put("b", "2")]);
    let entry = state.applied(7, &written).unwrap();
    assert_eq!(entry["position"], "3/2/7");
    assert_eq!(entry["hlc"], json!({"physical_ms": 1000, "logical": 2}));
    assert_eq!(entry["tenant_id"], "acme");
    assert_eq!(entry["operations"][0]["data"], json!({"x": 1}));
    assert_eq!(entry["operations"][1]["etag"], "\"3-2-7\"");

    let patch = What::MergePatch(Bytes::from_static(b"{\"y\":2}"));
    let patched = record(RecordKind::Data, vec![operation("a", patch)]);
    let entry = state.applied(8, &patched).unwrap();
    let whole = json!([{
        "operation": "put", "resource_type": "notes", "resource_id": "a", "etag": "\"3-2-8\"",
        "content_type": "application/json", "data": {"x": 1, "y": 2},
    }]);
    assert_eq!(entry["operations"], whole, "a patch shows the whole");

    let gone = record(RecordKind::Data, vec![operation("a", What::Delete(true))]);
    let entry = state.applied(9, &gone).unwrap();
    assert_eq!(entry["operations"][0]["operation"], "delete");
}

#[test]
fn what_changed_nothing_is_not_shown() {
    let mut state = State::default();
    let mut create = put("a", "1");
    create.condition = Some(wire::Condition {
        must: Some(wire::condition::Must::BeAbsent(true)),
    });
    let create = record(RecordKind::Data, vec![create]);
    assert!(state.applied(1, &create).is_some());
    assert_eq!(state.applied(2, &create), None, "it was refused");
    let both = record(
        RecordKind::Data,
        vec![put("b", "1"), operation("z", What::Delete(true))],
    );
    assert_eq!(state.applied(3, &both), None, "all or nothing");
}

#[test]
fn the_end_of_a_tenant_is_a_control_entry() {
    let mut state = State::default();
    state.applied(1, &record(RecordKind::Data, vec![put("a", "1")]));
    let entry = state
        .applied(2, &record_of(RecordKind::Purge, Vec::new(), 2))
        .unwrap();
    assert_eq!(
        (&entry["kind"], &entry["operations"]),
        (&json!("purge"), &json!([]))
    );
    assert_eq!(
        state.applied(3, &record(RecordKind::Data, vec![put("a", "1")])),
        None
    );
}

#[test]
fn what_is_not_json_is_shown_in_base64() {
    let mut state = State::default();
    let mut bytes = put("a", "\u{1}");
    bytes.content_type = "application/octet-stream".to_owned();
    let entry = state
        .applied(1, &record(RecordKind::Data, vec![bytes]))
        .unwrap();
    assert_eq!(entry["operations"][0]["data_base64"], "AQ==");
    assert_eq!(entry["operations"][0]["data"], Value::Null);
}

#[test]
fn a_purge_that_comes_too_late_is_not_shown() {
    let mut state = State::default();
    let mut purge = |index, revision| {
        let purge = record_of(RecordKind::Purge, Vec::new(), revision);
        state.applied(index, &purge).is_some()
    };
    assert!(purge(1, 9));
    assert!(!purge(2, 8), "it did nothing");
}

#[test]
fn a_patch_without_its_trace_is_an_error_and_no_deletion() {
    let patch = What::MergePatch(Bytes::from_static(b"{}"));
    let at = Position::new(Term::new(2), Index::new(1));
    let patch = record(RecordKind::Data, vec![operation("a", patch)]);
    assert_eq!(shown(G, at, &patch, None), Err(Untold));
    let resolved = record(RecordKind::Reconcile, Vec::new());
    assert_eq!(shown(G, at, &resolved, None), Err(Untold));
}

#[test]
fn json_is_passed_on_as_it_was_written() {
    let written = "{\"z\": 123456789012345678901234567890,\r\n \"a\": 1.10, \"s\": \"\\n{\"}";
    let (json, bytes) = content("application/json; charset=utf-8", written.as_bytes());
    let expected = written.replace(['\r', '\n'], " ");
    assert_eq!(json.map(|json| json.get().to_owned()), Some(expected));
    assert_eq!(bytes, None);
    for broken in ["{\"a\": \"\n\"}", "{", "1 2", ""] {
        let (json, bytes) = content("application/json", broken.as_bytes());
        assert!(json.is_none() && bytes.is_some(), "{broken:?}");
    }
    let deep = "[".repeat(101) + &"]".repeat(101);
    assert_eq!(depth(deep.as_bytes()), 101);
    assert!(content("application/json", deep.as_bytes()).0.is_none());
    assert_eq!(depth(b"[\"[[\\\"[\"]"), 1);
}
