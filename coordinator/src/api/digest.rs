//! `/admin/replication/digest`: what a group's state is on this coordinator, as a digest to compare.

use axum::Json;
use axum::extract::{Query, State};
use maia_common::error_code::ErrorCode;
use maia_common::ids::GroupId;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::Api;
use super::extract::Checked;
use super::openapi::{Problems, shapes};
use super::problem::ApiError;

/// Which group.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct OfGroup {
    /// Its id.
    group: u64,
}

/// The digest of a group's state as applied by this coordinator. Replicas at one position must agree.
#[utoipa::path(
    get,
    path = "/admin/replication/digest",
    operation_id = "state_digest",
    tag = "replication",
    params(OfGroup),
    responses((status = 200, description = "As of its position", body = shapes::StateDigest), Problems),
    security(("bearer" = ["admin"]))
)]
pub async fn get(
    State(api): State<Api>,
    Checked(Query(of)): Checked<Query<OfGroup>>,
) -> Result<Json<Value>, ApiError> {
    let (engine, group) = (&api.parts.engine, GroupId::new(of.group));
    let status = engine.status(group);
    if status.is_none_or(|status| status.witness == Some(api.parts.me.0)) {
        let text = format!("this coordinator keeps no state of group {group}");
        return Err(ApiError::new(ErrorCode::NotFound, text));
    }
    // As while a snapshot replaces the state: for a moment, unless health says otherwise.
    let digest = engine.digest(group).await;
    let digest =
        digest.map_err(|error| ApiError::new(ErrorCode::Unavailable, error.to_string()))?;
    Ok(Json(json!({
        "node": api.parts.me.0,
        "group": group,
        "term": digest.position.map(|position| position.term),
        "index": digest.position.map(|position| position.index),
        "digest": blake3::Hash::from(digest.digest).to_hex().as_str(),
        "rows": digest.rows,
    })))
}
