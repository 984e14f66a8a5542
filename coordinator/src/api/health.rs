//! `/v1/replication/health`: is this node, and what it leads, well? Healthy, degraded (works, but a
//! copy is missing or behind) or unhealthy (503: what it should do, it can't).

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maia_common::ids::{GroupId, NodeId};
use serde_json::{Value, json};

use super::Api;
use crate::core::cluster_state::ClusterState;
use crate::raft::{GroupStatus, Role};

/// A follower that is more records behind than this is not healthy.
const MAX_LAG_ENTRIES: u64 = 10_000;

/// What this node sees of one group.
struct Seen {
    group: GroupId,
    status: GroupStatus,
}

/// The follower's worst lag, in records, over the groups that are led here.
fn lag_entries(seen: &[Seen], node: NodeId) -> Option<u64> {
    let lags = seen
        .iter()
        .filter(|s| s.status.role == Role::Leader)
        .flat_map(|s| {
            let last = s.status.last_log.map_or(0, maia_common::Index::get);
            let matched = s.status.matched.iter().filter(move |(id, _)| *id == node);
            matched.map(move |(_, at)| last.saturating_sub(at.map_or(0, maia_common::Index::get)))
        });
    lags.max()
}

fn followers(seen: &[Seen], state: &ClusterState, me: NodeId) -> Vec<Value> {
    let others = state.nodes.values().filter(|node| node.id != me);
    others
        .filter_map(|node| {
            let lag = lag_entries(seen, node.id)?;
            Some(json!({
                "id": node.id,
                "region": node.region,
                "lag_entries": lag,
                "healthy": lag <= MAX_LAG_ENTRIES,
            }))
        })
        .collect()
}

fn group(seen: &Seen) -> Value {
    json!({
        "group": seen.group,
        "role": format!("{:?}", seen.status.role).to_lowercase(),
        "term": seen.status.term,
        "leader": seen.status.leader,
        "stopped": seen.status.stopped,
    })
}

/// The node's health.
pub async fn health(State(api): State<Api>) -> Response {
    let (me, region) = &api.parts.me;
    let engine = &api.parts.engine;
    let state = api.parts.cluster.state();
    let seen: Vec<Seen> = engine
        .group_ids()
        .into_iter()
        .filter_map(|group| {
            Some(Seen {
                group,
                status: engine.status(group)?,
            })
        })
        .collect();
    let root = seen.iter().find(|s| s.group.is_metastore());
    let followers = followers(&seen, &state, *me);
    let leaderless: Vec<GroupId> = seen
        .iter()
        .filter(|s| s.status.leader.is_none())
        .map(|s| s.group)
        .collect();
    let under_replicated: Vec<GroupId> = seen
        .iter()
        .filter(|s| s.status.role == Role::Leader && s.status.matched.iter().any(|m| m.1.is_none()))
        .map(|s| s.group)
        .collect();
    let mut reasons = Vec::new();
    let root_leaderless = root.is_none_or(|r| r.status.leader.is_none());
    if root_leaderless {
        reasons.push("the metastore has no leader".to_owned());
    }
    for s in seen.iter().filter(|s| s.status.stopped.is_some()) {
        let why = s.status.stopped.as_deref().unwrap_or_default();
        reasons.push(format!("group {} has stopped: {why}", s.group));
    }
    let unhealthy = !reasons.is_empty();
    for group in leaderless.iter().filter(|g| !g.is_metastore()) {
        reasons.push(format!("group {group} has no leader"));
    }
    for follower in followers.iter().filter(|f| f["healthy"] == false) {
        reasons.push(format!("follower {} is behind", follower["id"]));
    }
    let status = match (unhealthy, reasons.is_empty()) {
        (true, _) => "unhealthy",
        (false, false) => "degraded",
        (false, true) => "healthy",
    };
    let leads = root.is_some_and(|r| r.status.role == Role::Leader);
    let stats = engine.log_stats();
    let body = json!({
        "status": status,
        "reasons": reasons,
        "role": if leads { "leader" } else { "follower" },
        "region": region,
        "node": me,
        "wal": { "position": stats.appends },
        "followers": followers,
        "groups": seen.iter().map(group).collect::<Vec<_>>(),
        "leaderless": leaderless,
        "under_replicated": under_replicated,
    });
    let code = if unhealthy {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    (code, Json(body)).into_response()
}
