//! `/v1/placements…`: placements by HTTP. ETag is the placement's version.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maia_common::error_code::ErrorCode;
use maia_common::headers;
use maia_common::ids::{GroupId, IdempotencyKey, RegionName, TenantId};
use maia_common::limits;
use maia_common::placement::PlacementSpec;
use maia_common::position::Version;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::extract::Checked;
use super::openapi::{Problems, shapes};
use super::problem::ApiError;
use super::{Api, deadline};
use crate::core::placements::Expected;
use crate::core::placements::load::parse;
use crate::shell::placements::{Filter, PlacementView, PutRequest, unknown_tenant};

type Answer = Result<Response, ApiError>;

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// At most so many, up to 1,000; 100 unless given.
    limit: Option<usize>,
    /// Only what follows this tenant.
    after: Option<String>,
    /// Only tenants whose home is this region.
    region: Option<String>,
    /// Only tenants of this group.
    group: Option<u64>,
}

/// How fresh a read must be.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Freshness {
    /// `strong` (default): as of the newest commit; `local`: as this node knows it.
    consistency: Option<String>,
}

pub(super) fn page_limit(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit.unwrap_or(limits::DEFAULT_PAGE) {
        limit @ 1..=limits::MAX_PAGE => Ok(limit),
        _ => Err(ApiError::invalid(format!(
            "limit must be 1 to {}",
            limits::MAX_PAGE
        ))),
    }
}

/// The idempotency key of a request, if it has one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    let Some(value) = headers.get(headers::IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    Ok(Some(IdempotencyKey::new(
        value.to_str().unwrap_or_default(),
    )?))
}

pub(super) fn expected(headers: &HeaderMap) -> Result<Expected, ApiError> {
    let text = |name| {
        headers
            .get(name)
            .map(|v| v.to_str().unwrap_or_default().trim())
    };
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Expected::Any),
        (Some("*"), None) => Ok(Expected::Present),
        (None, Some("*")) => Ok(Expected::Absent),
        (Some(tag), None) => tag
            .strip_prefix('"')
            .and_then(|t| t.strip_suffix('"'))
            .and_then(|t| t.parse::<Version>().ok())
            .map(Expected::Version)
            .ok_or_else(|| ApiError::invalid("If-Match must be an ETag as it was answered, or *")),
        _ => Err(ApiError::invalid(
            "send either If-Match, or If-None-Match: *",
        )),
    }
}

/// The document with its version as ETag.
pub(super) fn tagged(status: StatusCode, what: &impl Serialize, version: Version) -> Response {
    let mut response = (status, Json(what)).into_response();
    let etag = format!("\"{version}\"");
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A request's body, or why it can't be read.
pub(super) type Body = Result<Bytes, axum::extract::rejection::BytesRejection>;

/// The whole body.
pub(super) fn whole(body: Body, max_bytes: usize) -> Result<Bytes, ApiError> {
    body.map_err(|_| {
        let text = format!("the body may have {max_bytes} bytes");
        ApiError::new(ErrorCode::BodyTooLarge, text)
    })
}

fn answer(status: StatusCode, view: &PlacementView) -> Response {
    tagged(status, view, view.version)
}

/// One placement; as of the newest commit unless `?consistency=local`.
#[utoipa::path(
    get,
    path = "/v1/placements/{tenant}",
    operation_id = "get_placement",
    tag = "placements",
    params(("tenant" = String, Path, description = "The tenant"), Freshness),
    responses((status = 200, description = "The placement; its ETag is the version", body = shapes::Placement), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn get(
    State(api): State<Api>,
    Checked(Path(tenant)): Checked<Path<String>>,
    Checked(Query(freshness)): Checked<Query<Freshness>>,
) -> Answer {
    let tenant = TenantId::new(tenant)?;
    match freshness.consistency.as_deref() {
        Some("local") => {}
        None | Some("strong") => api.parts.placements.catch_up(deadline()).await?,
        Some(_) => return Err(ApiError::invalid("consistency is strong or local")),
    }
    let view = api
        .parts
        .placements
        .get(&tenant)?
        .ok_or_else(|| unknown_tenant(&tenant))?;
    Ok(answer(StatusCode::OK, &view))
}

/// A page of placements, as this node knows them.
#[utoipa::path(
    get,
    path = "/v1/placements",
    operation_id = "list_placements",
    tag = "placements",
    params(Page),
    responses((status = 200, description = "A page", body = shapes::PlacementPage), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn list(State(api): State<Api>, Checked(Query(page)): Checked<Query<Page>>) -> Answer {
    let limit = page_limit(page.limit)?;
    let after = page.after.map(TenantId::new).transpose()?;
    let filter = Filter {
        home: page.region.map(RegionName::new).transpose()?,
        group: page.group.map(GroupId::new),
    };
    let page = api.parts.placements.list(&filter, after.as_ref(), limit)?;
    Ok(Json(page).into_response())
}

/// Whether only to say what would happen.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct How {
    /// Changes nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Places a tenant.
#[utoipa::path(
    put,
    path = "/v1/placements/{tenant}",
    operation_id = "put_placement",
    tag = "placements",
    params(("tenant" = String, Path, description = "The tenant"), How, shapes::Conditions),
    request_body = shapes::PlacementSpec,
    responses(
        (status = 200, description = "It was placed already; or what a dry run says", body = shapes::PlacementOrDryRun),
        (status = 201, description = "It is placed", body = shapes::Placement),
        Problems
    ),
    security(("bearer" = ["admin"]))
)]
pub async fn put(
    State(api): State<Api>,
    Checked(Path(tenant)): Checked<Path<String>>,
    Checked(Query(how)): Checked<Query<How>>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let tenant = TenantId::new(tenant)?;
    let body = whole(body, limits::MAX_ADMIN_BODY_BYTES)?;
    let spec: PlacementSpec = serde_json::from_slice(&body)
        .map_err(|error| ApiError::invalid(format!("the body is no placement: {error}")))?;
    let request = PutRequest {
        tenant,
        spec,
        expected: expected(&headers)?,
        key: idempotency_key(&headers)?,
    };
    if how.dry_run {
        let plan = api.parts.placements.dry_run(&request, deadline()).await?;
        return Ok(Json(plan).into_response());
    }
    let put = api.parts.placements.put(&request, deadline()).await?;
    let status = if put.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(answer(status, &put.view))
}

/// Places a tenant, by the path that operators know.
#[utoipa::path(
    post,
    path = "/admin/tenants/{tenant}/placement",
    operation_id = "place_tenant",
    tag = "placements",
    params(("tenant" = String, Path, description = "The tenant"), How, shapes::Conditions),
    request_body = shapes::PlacementSpec,
    responses(
        (status = 200, description = "It was placed already; or what a dry run says", body = shapes::PlacementOrDryRun),
        (status = 201, description = "It is placed", body = shapes::Placement),
        Problems
    ),
    security(("bearer" = ["admin"]))
)]
pub async fn place(
    api: State<Api>,
    tenant: Checked<Path<String>>,
    how: Checked<Query<How>>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    put(api, tenant, how, headers, body).await
}

/// Places many tenants: one JSON object a line.
#[utoipa::path(
    post,
    path = "/v1/placements",
    operation_id = "load_placements",
    tag = "placements",
    params(shapes::Key),
    request_body(
        content = String,
        content_type = "application/x-ndjson",
        description = "Up to 1,000 lines: `tenant`, and the fields of a placement's spec"
    ),
    responses((status = 200, description = "What became of the lines", body = shapes::Loaded), Problems),
    security(("bearer" = ["admin"]))
)]
pub async fn load(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer {
    let body = whole(body, limits::MAX_LOAD_BODY_BYTES)?;
    let lines = parse(&body).map_err(|error| ApiError::invalid(error.to_string()))?;
    if lines.len() > limits::MAX_LOAD_ITEMS {
        let text = format!(
            "a load has at most {} tenants: send several",
            limits::MAX_LOAD_ITEMS
        );
        return Err(ApiError::new(ErrorCode::BodyTooLarge, text));
    }
    let key = idempotency_key(&headers)?;
    let placements = &api.parts.placements;
    let loaded = placements
        .load((&lines, &body), key.as_ref(), deadline())
        .await?;
    Ok(Json(loaded).into_response())
}

/// Takes a placement away.
#[utoipa::path(
    delete,
    path = "/v1/placements/{tenant}",
    operation_id = "remove_placement",
    tag = "placements",
    params(("tenant" = String, Path, description = "The tenant"), shapes::Conditions),
    responses((status = 204, description = "It is deleted, with its data"), Problems),
    security(("bearer" = ["admin"]))
)]
pub async fn remove(
    State(api): State<Api>,
    Checked(Path(tenant)): Checked<Path<String>>,
    headers: HeaderMap,
) -> Answer {
    let tenant = TenantId::new(tenant)?;
    let (expected, key) = (expected(&headers)?, idempotency_key(&headers)?);
    api.parts
        .placements
        .remove(&tenant, expected, key.as_ref(), deadline())
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
