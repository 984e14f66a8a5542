//! A committed entry as those see it who follow the log: what each resource is afterwards. Called by
//! the data service where the entry is applied; everyone else passes the JSON on as it is.
//!
//! Shown are entries that changed resources, and the control entries that whoever keeps a copy must
//! know: purge, seal, unseal, import-complete. Left out is what changed nothing (a refused write, a
//! repeated one, Raft's own entries), so positions have gaps.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maia_common::ids::GroupId;
use maia_common::position::{GroupPosition, Position};
use maia_common::wire::record as wire;
use maia_common::wire::record::data_operation::What;
use prost::Message;
use serde_json::{Value, json};

use super::data::etag;
use super::record::{Record, RecordKind};

/// The entry as JSON; none: it is not shown. `trace`: what it did, if its record does not tell.
#[must_use]
pub fn shown(
    group: GroupId,
    at: Position,
    record: &Record,
    trace: Option<&wire::Trace>,
) -> Option<Value> {
    let kind = match record.kind {
        RecordKind::Meta | RecordKind::Expire => return None,
        RecordKind::Purge => "purge",
        RecordKind::Seal => "seal",
        RecordKind::Unseal => "unseal",
        RecordKind::ImportComplete => "import_complete",
        _ => "data",
    };
    let version = wire::Version {
        group: group.get(),
        term: at.term.get(),
        index: at.index.get(),
    };
    let operations: Vec<Value> = match (kind, trace) {
        ("data", Some(trace)) => trace.resources.iter().map(changed).collect(),
        ("data", None) => {
            let body = wire::DataOperations::decode(record.body.clone()).ok()?;
            let each = body.operations.iter();
            each.map(|operation| plain(operation, version)).collect()
        }
        _ => Vec::new(),
    };
    if kind == "data" && operations.is_empty() {
        return None;
    }
    Some(json!({
        "position": GroupPosition { group, at }.to_string(),
        "group": group,
        "term": at.term,
        "index": at.index,
        "hlc": {
            "physical_ms": record.hlc.physical_ms(),
            "logical": record.hlc.get() & 0xffff,
        },
        "origin_region": record.origin,
        "tenant_id": record.tenant,
        "kind": kind,
        "operations": operations,
    }))
}

fn changed(resource: &wire::TracedResource) -> Value {
    let (kind, id) = (&resource.resource_type, &resource.resource_id);
    match &resource.now {
        None => deleted(kind, id),
        Some(now) => put(kind, id, &now.content_type, &now.data, now.version.as_ref()),
    }
}

fn plain(operation: &wire::DataOperation, version: wire::Version) -> Value {
    let (kind, id) = (&operation.resource_type, &operation.resource_id);
    match &operation.what {
        Some(What::Put(data)) => put(kind, id, &operation.content_type, data, Some(&version)),
        _ => deleted(kind, id),
    }
}

fn deleted(kind: &str, id: &str) -> Value {
    json!({ "operation": "delete", "resource_type": kind, "resource_id": id })
}

fn put(
    kind: &str,
    id: &str,
    content_type: &str,
    data: &[u8],
    version: Option<&wire::Version>,
) -> Value {
    let mut shown = json!({
        "operation": "put",
        "resource_type": kind,
        "resource_id": id,
        "etag": etag(version),
        "content_type": content_type,
    });
    let (field, data) = content(content_type, data);
    shown[field] = data;
    shown
}

/// A resource's content within a JSON document, and the field that says how: JSON as it is, all else in
/// base64.
#[must_use]
pub fn content(content_type: &str, data: &[u8]) -> (&'static str, Value) {
    if content_type.starts_with("application/json")
        && let Ok(json) = serde_json::from_slice::<Value>(data)
    {
        return ("data", json);
    }
    ("data_base64", STANDARD.encode(data).into())
}

#[cfg(test)]
#[path = "entries_test.rs"]
mod tests;
