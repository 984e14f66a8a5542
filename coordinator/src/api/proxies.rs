//! `/admin/proxies…`: the registered proxies and where they are connected.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maia_common::ids::ProxyId;
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::extract::Checked;
use super::openapi::{Problems, shapes};
use super::placements::page_limit;
use super::problem::ApiError;
use super::{Api, deadline};

/// Which page of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// At most so many, up to 1,000; 100 unless given.
    limit: Option<usize>,
    /// Only what follows this proxy.
    after: Option<String>,
}

/// A page of registered proxies, with what the coordinators that answer say of them.
#[utoipa::path(
    get,
    path = "/admin/proxies",
    operation_id = "list_proxies",
    tag = "cluster",
    params(Page),
    responses((status = 200, description = "A page", body = shapes::ProxyPage), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn list(
    State(api): State<Api>,
    Checked(Query(page)): Checked<Query<Page>>,
) -> Result<Response, ApiError> {
    let limit = page_limit(page.limit)?;
    let after = page.after.map(ProxyId::new).transpose()?;
    let proxies = api.parts.proxies.list(after.as_ref(), limit).await?;
    let next = proxies
        .last()
        .filter(|_| proxies.len() == limit)
        .map(|p| &p.id);
    Ok(Json(json!({ "proxies": proxies, "next": next })).into_response())
}

/// Takes a registration back; 409 while the proxy is connected.
#[utoipa::path(
    delete,
    path = "/admin/proxies/{proxy}",
    operation_id = "remove_proxy",
    tag = "cluster",
    params(("proxy" = String, Path, description = "The proxy")),
    responses((status = 204, description = "Its registration is gone"), Problems),
    security(("bearer" = ["admin"]))
)]
pub async fn remove(
    State(api): State<Api>,
    Checked(Path(proxy)): Checked<Path<String>>,
) -> Result<Response, ApiError> {
    let id = ProxyId::new(proxy)?;
    api.parts.proxies.remove(&id, deadline()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
