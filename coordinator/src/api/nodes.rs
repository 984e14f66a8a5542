//! `/admin/nodes`: the cluster's coordinators, adding one, taking one out.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maia_common::ids::NodeId;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::extract::{Checked, NoParameters};
use super::openapi::{Problems, shapes};
use super::problem::ApiError;
use super::{Api, deadline};
use crate::core::nodes::NewNode;
use crate::shell::nodes::{HowToRemove, Removed};

/// The cluster's coordinators, as this node knows them.
#[utoipa::path(
    get,
    path = "/admin/nodes",
    operation_id = "list_nodes",
    tag = "cluster",
    responses((status = 200, description = "All coordinators", body = shapes::Nodes), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn list(State(api): State<Api>) -> Json<Value> {
    Json(json!({ "nodes": api.parts.nodes.list() }))
}

/// Adds a coordinator: 202 with its record; the same again changes nothing.
#[utoipa::path(
    post,
    path = "/admin/nodes",
    operation_id = "add_node",
    tag = "cluster",
    request_body = shapes::NewNode,
    responses((status = 202, description = "It takes part as soon as it runs", body = shapes::Node), Problems),
    security(("bearer" = ["admin"]))
)]
pub async fn add(
    State(api): State<Api>,
    Checked(Query(NoParameters {})): Checked<Query<NoParameters>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let new: NewNode = serde_json::from_slice(&body)
        .map_err(|error| ApiError::invalid(format!("the body is no node: {error}")))?;
    let view = api.parts.nodes.add(&new, deadline()).await?;
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// How to take a coordinator out.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct How {
    /// Changes nothing.
    #[serde(default)]
    dry_run: bool,
    /// Gives up the groups of which the coordinator has the only copy, with their tenants and their
    /// data; without it such a removal is refused.
    #[serde(default)]
    accept_data_loss: bool,
    /// Gives up what stands in the coordinator's quarantine and nowhere else: without it the coordinator
    /// stays until that is resolved or handed over, and one that is down and has something is refused.
    #[serde(default)]
    accept_quarantine_loss: bool,
}

/// Takes a coordinator out: 202 with what it does, 204 when it is out; a dry run 200.
#[utoipa::path(
    delete,
    path = "/admin/nodes/{id}",
    operation_id = "remove_node",
    tag = "cluster",
    params(("id" = u64, Path, description = "The coordinator"), How),
    responses(
        (status = 200, description = "What would happen", body = shapes::Removal),
        (status = 202, description = "What happens", body = shapes::RemovalOrState),
        (status = 204, description = "It is out"),
        Problems
    ),
    security(("bearer" = ["admin"]))
)]
pub async fn remove(
    State(api): State<Api>,
    Checked(Path(node)): Checked<Path<u64>>,
    Checked(Query(how)): Checked<Query<How>>,
) -> Result<Response, ApiError> {
    let node = NodeId::new(node);
    let asked = HowToRemove {
        dry_run: how.dry_run,
        accept_data_loss: how.accept_data_loss,
        accept_quarantine_loss: how.accept_quarantine_loss,
    };
    let removed = api.parts.nodes.remove(node, asked, deadline()).await?;
    Ok(match removed {
        Removed::Going(plan) if how.dry_run => Json(plan).into_response(),
        Removed::Going(plan) => (StatusCode::ACCEPTED, Json(plan)).into_response(),
        Removed::Already(waits_for) => {
            let body = json!({ "node": node, "state": "removing", "waits_for": waits_for });
            (StatusCode::ACCEPTED, Json(body)).into_response()
        }
        Removed::Gone => StatusCode::NO_CONTENT.into_response(),
    })
}
