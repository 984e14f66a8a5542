//! `/admin/replication/quarantine`: the records that this coordinator's logs lost before they were known
//! to be committed. Each coordinator answers for itself: entries never leave the disk that had them.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use maia_common::error_code::ErrorCode;
use maia_common::wire::record as wire;
use prost::Message;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Checked, NoParameters};
use super::openapi::{Problems, shapes};
use super::placements::page_limit;
use super::problem::ApiError;
use super::{Api, deadline};
use crate::core::quarantine::{Entry, EntryId};
use crate::shell::quarantine::Action;

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EntryPage {
    /// Only entries behind this one, as `next` of the page before said.
    after: Option<String>,
    /// At most so many, up to 1,000; 100 unless given.
    limit: Option<usize>,
}

/// What is to become of an entry.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// What to do.
    action: ActionName,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ActionName {
    /// Written over whatever is there now.
    Apply,
    /// Gone for good.
    Drop,
}

fn id_of(text: &str) -> Result<EntryId, ApiError> {
    text.parse()
        .map_err(|error| ApiError::invalid(format!("`{text}`: {error}")))
}

/// An entry without what was written.
fn describe(node: maia_common::ids::NodeId, entry: &Entry) -> Value {
    let record = &entry.record;
    let body = wire::DataOperations::decode(record.body.clone()).unwrap_or_default();
    let operations: Vec<Value> = body.operations.iter().map(operation).collect();
    json!({
        "id": entry.id.to_string(),
        "node": node,
        "group": entry.id.group,
        "term": entry.id.position.term,
        "index": entry.id.position.index,
        "tenant_id": record.tenant,
        "sync_mode": record.sync_mode,
        "acknowledged": entry.acknowledged.name(),
        "why": entry.why.name(),
        "waiting": entry.waiting.map(crate::core::quarantine::Waiting::name),
        "cut_off_at_unix_ms": entry.at_unix_ms,
        "written_at_unix_ms": record.hlc.physical_ms(),
        "origin_region": record.origin,
        "idempotency_key": record.idempotency.as_ref().map(|key| &key.key),
        "operations": operations,
    })
}

fn operation(operation: &wire::DataOperation) -> Value {
    use wire::data_operation::What;
    let (name, size_bytes) = match &operation.what {
        Some(What::Put(data)) => ("put", data.len()),
        Some(What::MergePatch(patch)) => ("patch", patch.len()),
        Some(What::Delete(_)) => ("delete", 0),
        None => ("unknown", 0),
    };
    json!({
        "operation": name,
        "resource_type": operation.resource_type,
        "resource_id": operation.resource_id,
        "conditional": operation.condition.is_some(),
        "size_bytes": size_bytes,
    })
}

/// What was written: JSON as it is, other text as a string, other bytes in hexadecimal digits.
fn contents(entry: &Entry) -> Vec<Value> {
    use wire::data_operation::What;
    let body = wire::DataOperations::decode(entry.record.body.clone()).unwrap_or_default();
    let content = |operation: &wire::DataOperation| match &operation.what {
        Some(What::Put(data) | What::MergePatch(data)) => serde_json::from_slice(data)
            .ok()
            .or_else(|| Some(json!(std::str::from_utf8(data).ok()?)))
            .unwrap_or_else(|| json!({ "hex": hex(data) })),
        Some(What::Delete(_)) | None => Value::Null,
    };
    body.operations.iter().map(content).collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

/// A page of the entries of this coordinator, without what was written.
#[utoipa::path(
    get,
    path = "/admin/replication/quarantine",
    operation_id = "list_quarantine",
    tag = "replication",
    params(EntryPage),
    responses((status = 200, description = "A page", body = shapes::QuarantinePage), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn list(
    State(api): State<Api>,
    Checked(Query(page)): Checked<Query<EntryPage>>,
) -> Result<Json<Value>, ApiError> {
    let after = page.after.as_deref().map(id_of).transpose()?;
    let service = &api.parts.quarantine;
    let found = service.list(after, page_limit(page.limit)?)?;
    let next = found.last().map(|(id, _)| id.to_string());
    let damaged: Vec<String> = found
        .iter()
        .filter(|(_, entry)| entry.is_err())
        .map(|(id, _)| id.to_string())
        .collect();
    let entries: Vec<Value> = found
        .iter()
        .filter_map(|(_, entry)| Some(describe(service.node(), entry.as_ref().ok()?)))
        .collect();
    Ok(Json(
        json!({ "node": service.node(), "entries": entries, "damaged": damaged, "next": next }),
    ))
}

/// An entry of this coordinator, with what was written.
#[utoipa::path(
    get,
    path = "/admin/replication/quarantine/{id}",
    operation_id = "get_quarantine",
    tag = "replication",
    params(("id" = String, Path, description = "The entry: GROUP-TERM-INDEX")),
    responses((status = 200, description = "The entry", body = shapes::QuarantineEntry), Problems),
    security(("bearer" = ["admin"]))
)]
pub async fn get(
    State(api): State<Api>,
    Checked(Path(id)): Checked<Path<String>>,
) -> Result<Json<Value>, ApiError> {
    let service = &api.parts.quarantine;
    let entry = service.get(id_of(&id)?)?;
    let mut shown = describe(service.node(), &entry);
    shown["contents"] = json!(contents(&entry));
    Ok(Json(shown))
}

/// Decides what becomes of an entry: 200 when it is done, and gone. Safe to repeat until then.
#[utoipa::path(
    post,
    path = "/admin/replication/quarantine/{id}/resolve",
    operation_id = "resolve_quarantine",
    tag = "replication",
    params(("id" = String, Path, description = "The entry: GROUP-TERM-INDEX")),
    request_body = Decision,
    responses((status = 200, description = "It is done", body = shapes::QuarantineOutcome), Problems),
    security(("bearer" = ["admin"]))
)]
pub async fn resolve(
    State(api): State<Api>,
    Checked(Path(id)): Checked<Path<String>>,
    Checked(Query(NoParameters {})): Checked<Query<NoParameters>>,
    body: axum::body::Bytes,
) -> Result<Response, ApiError> {
    let decision: Decision = serde_json::from_slice(&body)
        .map_err(|error| ApiError::new(ErrorCode::InvalidRequest, format!("the body: {error}")))?;
    let action = match decision.action {
        ActionName::Apply => Action::Apply,
        ActionName::Drop => Action::Drop,
    };
    if action == Action::Apply && !api.latches.is_open("member") {
        let text = "this node was removed from the cluster: it can only drop entries; export it, and \
                    write it anew elsewhere";
        return Err(ApiError::new(ErrorCode::Unavailable, text));
    }
    let outcome = api.parts.quarantine.decide(id_of(&id)?, action, deadline());
    let outcome = outcome.await?.name();
    Ok(Json(json!({ "id": id, "outcome": outcome })).into_response())
}
