//! `/v1/replication/entries` and `/stream`: committed entries by pages and as Server-Sent Events, for
//! origins that keep a store of their own; and appending to the log.

use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, body};
use maia_common::ids::{GroupId, TenantId};
use maia_common::position::{GroupPosition, Index, Position, Term};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use utoipa::IntoParams;

use super::append;
use super::extract::Checked;
use super::openapi::{Problems, shapes};
use super::placements::{idempotency_key, page_limit};
use super::problem::ApiError;
use super::{Api, deadline};
use crate::core::data::etag;
use crate::core::record::Idempotency;
use crate::shell::data::Followed;

/// What a reader names a stream's last event by, when it comes back.
const LAST_EVENT_ID: &str = "last-event-id";

/// Which page of whose entries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EntryPage {
    /// Of this tenant; either this or `group`.
    tenant: Option<String>,
    /// Of all tenants of this group.
    group: Option<u64>,
    /// Only what follows this position, `group/term/index`; unless given, from the first record on.
    after: Option<String>,
    /// At most so many, up to 1,000; 100 unless given.
    limit: Option<usize>,
}

/// Which entries to stream.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct StreamStart {
    /// Of this tenant; either this or `group`.
    tenant: Option<String>,
    /// Of all tenants of this group.
    group: Option<u64>,
    /// Only what follows this position, `group/term/index`; a `Last-Event-ID` stands above it.
    after: Option<String>,
}

/// Whose entries are asked for.
pub(super) fn followed(tenant: Option<String>, group: Option<u64>) -> Result<Followed, ApiError> {
    match (tenant, group) {
        (Some(tenant), None) => Ok(Followed::Tenant(TenantId::new(tenant)?)),
        (None, Some(group)) if !GroupId::new(group).is_metastore() => {
            Ok(Followed::Group(GroupId::new(group)))
        }
        (None, Some(_)) => Err(ApiError::invalid(
            "group 0 is the metastore: it has no entries",
        )),
        _ => Err(ApiError::invalid("give either tenant or group")),
    }
}

fn position(text: Option<&str>) -> Result<Option<GroupPosition>, ApiError> {
    let parsed = text.map(str::parse);
    parsed
        .transpose()
        .map_err(|error: maia_common::position::PositionError| ApiError::invalid(error.to_string()))
}

/// A page of committed entries, in the order of the log.
#[utoipa::path(
    get,
    path = "/v1/replication/entries",
    operation_id = "list_entries",
    tag = "replication",
    params(EntryPage),
    responses((status = 200, description = "A page", body = shapes::EntryPage), Problems),
    security(("bearer" = ["data"]))
)]
pub async fn list(
    State(api): State<Api>,
    Checked(Query(page)): Checked<Query<EntryPage>>,
) -> Result<Response, ApiError> {
    let followed = followed(page.tenant, page.group)?;
    let after = position(page.after.as_deref())?;
    let asked = (page_limit(page.limit)?, Duration::ZERO);
    let read = api.parts.data.entries(&followed, after, asked, deadline());
    let (group, page) = read.await?;
    let entries: Vec<&[u8]> = page.entries.iter().map(|(_, entry)| &entry[..]).collect();
    let next = page.upto.map(|at| GroupPosition { group, at }.to_string());
    let tail = format!("],\"next\":{},\"more\":{}}}", json!(next), page.more);
    let body = [
        b"{\"entries\":[",
        &entries.join(&b","[..])[..],
        tail.as_bytes(),
    ]
    .concat();
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], body).into_response())
}

/// Committed entries as they come (Server-Sent Events).
#[utoipa::path(
    get,
    path = "/v1/replication/stream",
    operation_id = "stream_entries",
    tag = "replication",
    params(StreamStart, shapes::LastEventId),
    responses(
        (status = 200, description = "Events `entry`, `position` and `end`, each with its position as id", body = String, content_type = "text/event-stream"),
        Problems
    ),
    security(("bearer" = ["data"]))
)]
pub async fn stream(
    State(api): State<Api>,
    Checked(Query(start)): Checked<Query<StreamStart>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let followed = followed(start.tenant, start.group)?;
    let last = headers.get(LAST_EVENT_ID).map(HeaderValue::to_str);
    let last = last
        .transpose()
        .map_err(|_| ApiError::invalid("an illegal Last-Event-ID"))?;
    // A browser that has had no event with an id sends none, or an empty one.
    let last = last.filter(|last| !last.is_empty());
    let after = position(last.or(start.after.as_deref()))?;
    let reader = api.parts.streams.open(followed, after).await?;
    let chunks = futures::stream::unfold(reader, |mut reader| async move {
        let chunk = reader.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), reader))
    });
    let mut response = Body::from_stream(chunks).into_response();
    let answer = response.headers_mut();
    answer.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Appends an operation, or several of one tenant as one: all or none takes effect.
#[utoipa::path(
    post,
    path = "/v1/replication/entries",
    operation_id = "append_entries",
    tag = "replication",
    params(shapes::Key),
    request_body = shapes::AppendBody,
    responses((status = 201, description = "Durable, as the tenant's sync mode asks, and applied", body = shapes::Appended), Problems),
    security(("bearer" = ["data"]))
)]
pub async fn append(
    State(api): State<Api>,
    headers: HeaderMap,
    content: Result<body::Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let content = super::data::body(content)?;
    let mut request = append::request(&content)?;
    request.idempotency = idempotency_key(&headers)?.map(|key| Idempotency {
        key,
        body_hash: append::hash(&content),
    });
    let done = api.parts.data.write(request, deadline()).await?;
    let version = done.written.version.unwrap_or_default();
    let at = Position::new(Term::new(version.term), Index::new(version.index));
    let group = GroupId::new(version.group);
    let answer: Value = json!({
        "position": GroupPosition { group, at }.to_string(),
        "etag": etag(Some(&version)),
        "created": done.written.created,
        "replayed": done.written.replayed,
        "acked_regions": done.acked_regions,
    });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}
