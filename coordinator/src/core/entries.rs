//! A committed entry as those see it who follow the log: what each resource is afterwards. Called by
//! the data service where the entry is applied; everyone else passes the JSON on as it is.
//!
//! Shown are entries that changed resources, and the control entries that whoever keeps a copy must
//! know: purge, seal, unseal, import-complete. Left out is what changed nothing (a refused write, a
//! repeated one, a purge that came too late, Raft's own entries), so positions have gaps.
//!
//! Content that is JSON is passed on as it was written, number by number: only its line ends become
//! spaces, so that an entry is one line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maia_common::ids::{GroupId, RegionName, TenantId};
use maia_common::limits::MAX_SHOWN_DEPTH;
use maia_common::position::{GroupPosition, Index, Position, Term};
use maia_common::wire::record as wire;
use maia_common::wire::record::data_operation::What;
use prost::Message;
use serde::Serialize;
use serde_json::value::RawValue;

use super::data::etag;
use super::record::{Record, RecordKind};

/// Why an entry can't be shown: it must have a trace, and has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what the entry did is not known")]
pub struct Untold;

#[derive(Serialize)]
struct Shown<'a> {
    position: String,
    group: GroupId,
    term: Term,
    index: Index,
    hlc: Reading,
    origin_region: Option<&'a RegionName>,
    tenant_id: Option<&'a TenantId>,
    kind: &'static str,
    operations: Vec<Change<'a>>,
}

#[derive(Serialize)]
struct Reading {
    physical_ms: u64,
    logical: u64,
}

#[derive(Serialize)]
struct Change<'a> {
    operation: &'static str,
    resource_type: &'a str,
    resource_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

/// The entry as JSON in one line; none: it is not shown. `trace`: what it did, if its record does not
/// tell.
///
/// # Errors
/// [`Untold`].
pub fn shown(
    group: GroupId,
    at: Position,
    record: &Record,
    trace: Option<&wire::Trace>,
) -> Result<Option<String>, Untold> {
    let kind = match record.kind {
        RecordKind::Meta | RecordKind::Expire => return Ok(None),
        RecordKind::Purge => "purge",
        RecordKind::Seal => "seal",
        RecordKind::Unseal => "unseal",
        RecordKind::ImportComplete => "import_complete",
        RecordKind::Data | RecordKind::Import | RecordKind::Reconcile => "data",
    };
    let body;
    let operations: Vec<Change<'_>> = match (record.kind, trace) {
        (_, Some(trace)) => trace.resources.iter().map(changed).collect(),
        (RecordKind::Data, None) => {
            body = wire::DataOperations::decode(record.body.clone()).map_err(|_| Untold)?;
            let version = wire::Version {
                group: group.get(),
                term: at.term.get(),
                index: at.index.get(),
            };
            let each = body.operations.iter();
            each.map(|operation| plain(operation, version))
                .collect::<Result<_, _>>()?
        }
        (RecordKind::Import | RecordKind::Reconcile, None) => return Err(Untold),
        (_, None) => Vec::new(),
    };
    // A control entry has a trace when it had no effect.
    if operations.is_empty() && (kind == "data" || trace.is_some()) {
        return Ok(None);
    }
    let shown = Shown {
        position: GroupPosition { group, at }.to_string(),
        group,
        term: at.term,
        index: at.index,
        hlc: Reading {
            physical_ms: record.hlc.physical_ms(),
            logical: record.hlc.get() & 0xffff,
        },
        origin_region: record.origin.as_ref(),
        tenant_id: record.tenant.as_ref(),
        kind,
        operations,
    };
    let json = serde_json::to_string(&shown);
    Ok(Some(
        json.expect("its keys are text, and a string takes all"),
    ))
}

fn changed(resource: &wire::TracedResource) -> Change<'_> {
    let (kind, id) = (&resource.resource_type, &resource.resource_id);
    match &resource.now {
        None => deleted(kind, id),
        Some(now) => put(kind, id, &now.content_type, &now.data, now.version.as_ref()),
    }
}

/// As the operation says; a patch does not say it.
fn plain(operation: &wire::DataOperation, version: wire::Version) -> Result<Change<'_>, Untold> {
    let (kind, id) = (&operation.resource_type, &operation.resource_id);
    match &operation.what {
        Some(What::Put(data)) => {
            let content_type = &operation.content_type;
            Ok(put(kind, id, content_type, data, Some(&version)))
        }
        Some(What::Delete(_)) => Ok(deleted(kind, id)),
        Some(What::MergePatch(_)) | None => Err(Untold),
    }
}

fn deleted<'a>(resource_type: &'a str, resource_id: &'a str) -> Change<'a> {
    Change {
        operation: "delete",
        resource_type,
        resource_id,
        etag: None,
        content_type: None,
        data: None,
        data_base64: None,
    }
}

fn put<'a>(
    resource_type: &'a str,
    resource_id: &'a str,
    content_type: &'a str,
    data: &[u8],
    version: Option<&wire::Version>,
) -> Change<'a> {
    let (data, data_base64) = content(content_type, data);
    Change {
        operation: "put",
        resource_type,
        resource_id,
        etag: Some(etag(version)),
        content_type: Some(content_type),
        data,
        data_base64,
    }
}

/// A resource's content within a JSON document: JSON in one line and else unchanged, or all else in
/// base64.
#[must_use]
pub fn content(content_type: &str, data: &[u8]) -> (Option<Box<RawValue>>, Option<String>) {
    let json = content_type
        .starts_with("application/json")
        .then(|| one_line(data))
        .flatten();
    let bytes = json.is_none().then(|| STANDARD.encode(data));
    (json, bytes)
}

fn one_line(data: &[u8]) -> Option<Box<RawValue>> {
    let json: Box<RawValue> = serde_json::from_slice(data).ok()?;
    if depth(json.get().as_bytes()) > MAX_SHOWN_DEPTH {
        return None;
    }
    if !json.get().contains(['\n', '\r']) {
        return Some(json);
    }
    // In strings they are escaped.
    RawValue::from_string(json.get().replace(['\n', '\r'], " ")).ok()
}

/// How deep valid JSON is nested.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = depth.max(deepest);
    }
    deepest
}

#[cfg(test)]
#[path = "entries_test.rs"]
mod tests;
