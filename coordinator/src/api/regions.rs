//! `/admin/regions…`: the cluster's regions. ETag is the revision that last changed the region.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use maia_common::ids::RegionName;
use maia_common::limits;
use serde_json::{Value, json};

use super::extract::Checked;
use super::openapi::{Problems, shapes};
use super::placements::{Body, expected, idempotency_key, tagged, whole};
use super::problem::ApiError;
use super::{Api, deadline};
use crate::config::is_public_url;
use crate::core::placements::Change;
use crate::core::regions::RegionSpec;
use crate::shell::regions::PutRequest;

/// The cluster's regions.
#[utoipa::path(
    get,
    path = "/admin/regions",
    operation_id = "list_regions",
    tag = "cluster",
    responses((status = 200, description = "All regions", body = shapes::Regions), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn list(State(api): State<Api>) -> Json<Value> {
    let state = api.parts.cluster.state();
    Json(json!({ "regions": state.regions.values().collect::<Vec<_>>() }))
}

/// One region, as of the newest commit.
#[utoipa::path(
    get,
    path = "/admin/regions/{name}",
    operation_id = "get_region",
    tag = "cluster",
    params(("name" = String, Path, description = "The region")),
    responses((status = 200, description = "The region; its ETag changes with it", body = shapes::Region), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn get(
    State(api): State<Api>,
    Checked(Path(name)): Checked<Path<String>>,
) -> Result<Response, ApiError> {
    let name = RegionName::new(name)?;
    let (region, version) = api.parts.regions.get(&name, deadline()).await?;
    Ok(tagged(StatusCode::OK, &region, version))
}

/// Adds a region, or changes it.
#[utoipa::path(
    put,
    path = "/admin/regions/{name}",
    operation_id = "put_region",
    tag = "cluster",
    params(("name" = String, Path, description = "The region"), shapes::Conditions),
    request_body = shapes::RegionSpec,
    responses(
        (status = 200, description = "It was there already", body = shapes::Region),
        (status = 201, description = "It is added", body = shapes::Region),
        Problems
    ),
    security(("bearer" = ["admin"]))
)]
pub async fn put(
    State(api): State<Api>,
    Checked(Path(name)): Checked<Path<String>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let name = RegionName::new(name)?;
    let body: Bytes = whole(body, limits::MAX_ADMIN_BODY_BYTES)?;
    let spec: RegionSpec = serde_json::from_slice(&body)
        .map_err(|error| ApiError::invalid(format!("the body is no region: {error}")))?;
    let is_short = spec.public_url.len() <= limits::MAX_PUBLIC_URL_BYTES;
    if !is_public_url(&spec.public_url) || !is_short {
        let text = "public_url must be http://… or https://… without a query";
        return Err(ApiError::invalid(text));
    }
    let request = PutRequest {
        name,
        spec,
        expected: expected(&headers)?,
        key: idempotency_key(&headers)?,
    };
    let (put, version) = api.parts.regions.put(&request, deadline()).await?;
    let status = match put.change {
        Change::Created => StatusCode::CREATED,
        Change::Changed | Change::Unchanged => StatusCode::OK,
    };
    Ok(tagged(status, &put.region, version))
}
