//! `/admin/…`: what the cluster consists of, who leads, who listens, what happened.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use maia_common::ids::{GroupId, NodeId};
use maia_common::placement::{GroupRecord, MemberRole};
use maia_common::topology::Leader;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::Api;
use super::extract::Checked;
use super::openapi::{Problems, shapes};
use super::placements::page_limit;
use super::problem::ApiError;
use crate::core::cluster_state::ClusterState;
use crate::core::keyspace;
use crate::metastore;
use crate::raft::{GroupStatus, Role};

pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Candidate => "candidate",
        Role::Follower | Role::Learner => "follower",
        Role::Stopped => "stopped",
    }
}

/// The leader with the highest term: of what was announced or hinted, and what this node's own
/// instance of the group knows.
pub(super) fn newest_leader(
    state: &ClusterState,
    group: GroupId,
    status: Option<&GroupStatus>,
) -> Option<Leader> {
    let told = state.leaders.get(&group).cloned();
    let own = status.and_then(|status| {
        let node = status.leader?;
        let region = state.nodes.get(&node)?.region.clone();
        Some(Leader {
            term: status.term,
            node,
            region,
        })
    });
    [told, own]
        .into_iter()
        .flatten()
        .max_by_key(|leader| leader.term)
}

fn learners(record: &GroupRecord) -> Vec<NodeId> {
    let learners = record.staying().filter(|m| m.role == MemberRole::Learner);
    learners.map(|m| m.node).collect()
}

/// Group 0's election, and who leads every placement group.
#[utoipa::path(
    get,
    path = "/admin/replication/election",
    operation_id = "election",
    tag = "cluster",
    responses((status = 200, description = "As this node knows it", body = shapes::Election), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn election(State(api): State<Api>) -> Json<Value> {
    let root = api.parts.engine.status(GroupId::METASTORE);
    let state = api.parts.cluster.state();
    let groups: Vec<Value> = state
        .groups
        .values()
        .map(|record| {
            let status = api.parts.engine.status(record.id);
            let leader = newest_leader(&state, record.id, status.as_ref());
            json!({
                "group": record.id,
                "state": record.state,
                "key": record.key.to_string(),
                "home_region": record.key.home_region,
                "term": leader.as_ref().map(|l| l.term),
                "leader": leader.as_ref().map(|l| l.node),
                "region": leader.as_ref().map(|l| &l.region),
                "voters": record.voters(),
                "learners": learners(record),
                "witness": record.voters().into_iter().find(|v| record.witness() == Some(*v)),
                "stopped": status.and_then(|s| s.stopped),
            })
        })
        .collect();
    let role = root.as_ref().map_or(Role::Stopped, |s| s.role);
    let leader = root.as_ref().and_then(|s| s.leader);
    Json(json!({
        "state": role_name(role),
        "term": root.as_ref().map(|s| s.term),
        "leader": leader,
        "voted_for": root.as_ref().and_then(|s| s.leader),
        "backend": "embedded",
        "groups": groups,
    }))
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EventPage {
    /// Only events of later revisions.
    after: Option<u64>,
    /// At most so many, up to 1,000; 100 unless given.
    limit: Option<usize>,
}

/// A page of events, oldest first, after a revision.
#[utoipa::path(
    get,
    path = "/admin/events",
    operation_id = "list_events",
    tag = "cluster",
    params(EventPage),
    responses((status = 200, description = "A page", body = shapes::EventPage), Problems),
    security(("bearer" = ["read"]))
)]
pub async fn events(
    State(api): State<Api>,
    Checked(Query(page)): Checked<Query<EventPage>>,
) -> Result<Response, ApiError> {
    let limit = page_limit(page.limit)?;
    let after = page
        .after
        .map(|revision| format!("{}{revision:020}", keyspace::EVENTS));
    let mut rows = Vec::new();
    let read = api.parts.store.read(&mut |view| {
        rows = metastore::range(view, keyspace::EVENTS, after.as_deref(), limit)?;
        Ok(())
    });
    read.map_err(|error| ApiError::new(maia_common::ErrorCode::Internal, error.to_string()))?;
    let next = rows
        .last()
        .filter(|_| rows.len() == limit)
        .map(|(_, row)| row.revision);
    let events: Vec<Value> = rows
        .iter()
        .filter_map(|(_, row)| {
            let mut event: Value = serde_json::from_slice(&row.value).ok()?;
            event["revision"] = json!(row.revision);
            event["time"] = event["at_unix_us"].take();
            event.as_object_mut()?.remove("at_unix_us");
            Some(event)
        })
        .collect();
    Ok(Json(json!({ "events": events, "next": next })).into_response())
}
