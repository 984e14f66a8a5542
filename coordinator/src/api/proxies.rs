//! `/admin/proxies…`: the registered proxies and where they are connected.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maia_common::ids::ProxyId;
use serde::Deserialize;
use serde_json::json;

use super::extract::Checked;
use super::placements::page_limit;
use super::problem::ApiError;
use super::{Api, deadline};

/// Which page of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    limit: Option<usize>,
    after: Option<String>,
}

/// A page of registered proxies, with what the coordinators that answer say of them.
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
pub async fn remove(
    State(api): State<Api>,
    Checked(Path(proxy)): Checked<Path<String>>,
) -> Result<Response, ApiError> {
    let id = ProxyId::new(proxy)?;
    api.parts.proxies.remove(&id, deadline()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
