//! `/v1/replication/position`, `/stats`, `/leader`, `/followers`: where the logs are, and who leads.

use axum::Json;
use axum::extract::{Query, State};
use maia_common::ids::GroupId;
use maia_common::position::{GroupPosition, Position};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::admin::{newest_leader, role_name};
use super::entries::followed;
use super::extract::Checked;
use super::health::{followers, seen, wal};
use super::openapi::{Problems, shapes};
use super::problem::ApiError;
use super::{Api, deadline};
use crate::shell::data::Reach;

/// Whose.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Whose {
    /// Of this tenant's group.
    tenant: Option<String>,
    /// Of this group; all groups unless one or the other is given.
    group: Option<u64>,
}

impl Whose {
    /// The groups that are asked for; without a question `all`.
    async fn groups(self, api: &Api, all: Vec<GroupId>) -> Result<Vec<GroupId>, ApiError> {
        if self.tenant.is_none() && self.group.is_none() {
            return Ok(all);
        }
        let followed = followed(self.tenant, self.group)?;
        Ok(vec![api.parts.data.group_of(&followed, deadline()).await?])
    }
}

fn groups_here(api: &Api) -> Vec<GroupId> {
    let groups = api.parts.engine.group_ids().into_iter();
    groups.filter(|group| !group.is_metastore()).collect()
}

fn text(group: GroupId, at: Option<Position>) -> Option<String> {
    at.map(|at| GroupPosition { group, at }.to_string())
}

/// Up to where groups are applied, and from where on their entries can be had.
#[utoipa::path(
    get,
    path = "/v1/replication/position",
    operation_id = "position",
    tag = "replication",
    params(Whose),
    responses((status = 200, description = "The group asked for, or all that are kept here", body = shapes::Positions), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn position(
    State(api): State<Api>,
    Checked(Query(whose)): Checked<Query<Whose>>,
) -> Result<Json<Value>, ApiError> {
    let mut here = groups_here(&api);
    here.retain(|group| api.parts.data.has_entries(*group));
    let mut positions = Vec::new();
    for group in whose.groups(&api, here).await? {
        let Reach { applied, oldest } = api.parts.data.reach(group, deadline()).await?;
        positions.push(json!({
            "group": group,
            "position": text(group, applied),
            "oldest": text(group, oldest),
        }));
    }
    Ok(Json(json!({ "positions": positions })))
}

/// What this node's logs hold, and the streams that it serves.
#[utoipa::path(
    get,
    path = "/v1/replication/stats",
    operation_id = "stats",
    tag = "replication",
    responses((status = 200, description = "Of this node", body = shapes::Stats), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn stats(State(api): State<Api>) -> Json<Value> {
    let (me, region) = &api.parts.me;
    let groups = seen(&api).into_iter().map(|seen| {
        let (group, status) = (seen.group, seen.status);
        let oldest = api.parts.data.reach_here(group).ok();
        let oldest = oldest.and_then(|reach| reach.oldest);
        json!({
            "group": group,
            "role": role_name(status.role),
            "term": status.term,
            "position": text(group, status.applied),
            "committed": text(group, status.committed),
            "last_index": status.last_log,
            "oldest": text(group, oldest),
            "size_bytes": api.parts.engine.log_size_bytes(group),
        })
    });
    Json(json!({
        "node": me,
        "region": region,
        "wal": wal(&api),
        "retention_bytes": api.parts.engine.retention_bytes(),
        "groups": groups.collect::<Vec<_>>(),
        "streams": api.parts.streams.count(),
    }))
}

/// Who leads.
#[utoipa::path(
    get,
    path = "/v1/replication/leader",
    operation_id = "leader",
    tag = "replication",
    params(Whose),
    responses((status = 200, description = "As this node knows it", body = shapes::Leaders), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn leader(
    State(api): State<Api>,
    Checked(Query(whose)): Checked<Query<Whose>>,
) -> Result<Json<Value>, ApiError> {
    let state = api.parts.cluster.state();
    let all = state.groups.keys().copied().collect();
    let leaders = whose.groups(&api, all).await?.into_iter().map(|group| {
        let status = api.parts.engine.status(group);
        let leader = newest_leader(&state, group, status.as_ref());
        let node = leader
            .as_ref()
            .and_then(|leader| state.nodes.get(&leader.node));
        json!({
            "group": group,
            "term": leader.as_ref().map(|leader| leader.term),
            "leader": leader.as_ref().map(|leader| leader.node),
            "region": leader.as_ref().map(|leader| &leader.region),
            "api_url": node.map(|node| &node.api_url),
        })
    });
    Ok(Json(json!({ "leaders": leaders.collect::<Vec<_>>() })))
}

/// The followers of what this node leads.
#[utoipa::path(
    get,
    path = "/v1/replication/followers",
    operation_id = "followers",
    tag = "replication",
    params(Whose),
    responses((status = 200, description = "Empty where this node does not lead", body = shapes::Followers), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn list_followers(
    State(api): State<Api>,
    Checked(Query(whose)): Checked<Query<Whose>>,
) -> Result<Json<Value>, ApiError> {
    let wanted = whose.groups(&api, api.parts.engine.group_ids()).await?;
    let mut seen = seen(&api);
    seen.retain(|seen| wanted.contains(&seen.group));
    let state = api.parts.cluster.state();
    Ok(Json(json!({ "followers": followers(&seen, &state, &api) })))
}
