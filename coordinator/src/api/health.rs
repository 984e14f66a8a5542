//! `/v1/replication/health`: is this node, and what it leads, well? Healthy, degraded (works, but a
//! copy is missing or behind) or unhealthy (503: what it should do, it can't).

use std::path::Path;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maia_common::ids::{GroupId, NodeId};
use maia_common::rpc::Expiry;
use serde_json::{Value, json};

use super::Api;
use super::openapi::{Problems, shapes};
use crate::core::cluster_state::ClusterState;
use crate::raft::{Follower, GroupStatus, Role};
use crate::shell::vitals::Vitals;

/// A follower that has been behind for longer is not healthy.
const MAX_LAG: Duration = Duration::from_secs(30);

/// What this node sees of one group.
pub(super) struct Seen {
    pub(super) group: GroupId,
    pub(super) status: GroupStatus,
}

impl Seen {
    fn leads(&self) -> bool {
        self.status.role == Role::Leader
    }
}

/// A follower as all groups that are led here see it together.
fn follower(
    seen: &[Seen],
    id: NodeId,
    region: &str,
    vitals: &Vitals,
    silence: Duration,
) -> Option<Value> {
    let views: Vec<(&Seen, &Follower)> = seen
        .iter()
        .filter(|s| s.leads())
        .flat_map(|s| s.status.followers.iter().map(move |f| (s, f)))
        .filter(|(_, f)| f.node == id)
        .collect();
    let lag_entries = views.iter().map(|(s, f)| s.status.lag_entries(f)).max()?;
    let last_seen_ms = views.iter().filter_map(|(_, f)| f.millis_since_ack).min();
    let answers = last_seen_ms.is_some_and(|ms| Duration::from_millis(ms) < silence);
    let lag = vitals.lag(id, Instant::now());
    let state = match (answers, lag_entries) {
        (false, _) => "unreachable",
        (true, 0) => "streaming",
        (true, _) => "catching_up",
    };
    Some(json!({
        "id": id,
        "region": region,
        "lag": format!("{}s", lag.as_secs()),
        "lag_seconds": lag.as_secs_f64(),
        "lag_entries": lag_entries,
        "healthy": answers && lag < MAX_LAG,
        "state": state,
        "last_seen_ms": last_seen_ms,
    }))
}

pub(super) fn followers(seen: &[Seen], state: &ClusterState, api: &Api) -> Vec<Value> {
    let vitals = api.parts.vitals.load();
    let silence = api.parts.replica_silence;
    let others = state
        .nodes
        .values()
        .filter(|node| node.id != api.parts.me.0);
    others
        .filter_map(|node| follower(seen, node.id, node.region.as_str(), &vitals, silence))
        .collect()
}

/// All groups that were started here.
pub(super) fn seen(api: &Api) -> Vec<Seen> {
    let engine = &api.parts.engine;
    let groups = engine.group_ids().into_iter();
    let seen = groups.filter_map(|group| {
        Some(Seen {
            group,
            status: engine.status(group)?,
        })
    });
    seen.collect()
}

/// This node's log, over all groups.
pub(super) fn wal(api: &Api) -> Value {
    let (vitals, size_bytes) = (api.parts.vitals.load(), log_bytes(&api.parts.log_dir));
    json!({
        "position": api.parts.engine.log_stats().appends,
        "size": human_bytes(size_bytes),
        "size_bytes": size_bytes,
        "entries_per_s": vitals.entries_per_s,
        "bytes_per_s": vitals.bytes_per_s,
    })
}

fn group(seen: &Seen) -> Value {
    json!({
        "group": seen.group,
        "role": format!("{:?}", seen.status.role).to_lowercase(),
        "term": seen.status.term,
        "leader": seen.status.leader,
        "stopped": seen.status.stopped,
        "damaged": seen.status.damaged,
    })
}

/// What is wrong, and whether the node can't do what it should.
struct Diagnosis {
    reasons: Vec<String>,
    unhealthy: bool,
}

fn diagnose(seen: &[Seen], leaderless: &[GroupId], followers: &[Value]) -> Diagnosis {
    let mut reasons = Vec::new();
    if leaderless.contains(&GroupId::METASTORE) {
        reasons.push("the metastore has no leader".to_owned());
    }
    for s in seen {
        if let Some(why) = &s.status.stopped {
            reasons.push(format!("group {} has stopped: {why}", s.group));
        }
    }
    let unhealthy = !reasons.is_empty();
    for s in seen.iter().filter(|s| s.status.is_witness_free) {
        reasons.push(format!(
            "group {} has one copy of its newest records: its witness stands in for the other one",
            s.group
        ));
    }
    let unfit = seen.iter().filter(|s| s.status.is_unfit).map(|s| s.group);
    let unfit: Vec<String> = unfit.map(|group| group.to_string()).collect();
    if !unfit.is_empty() {
        reasons.push(format!(
            "this node's clock is off from those of most members, or nobody confirms it yet: it begins to lead \
             none of groups {}",
            unfit.join(", ")
        ));
    }
    for group in leaderless.iter().filter(|g| !g.is_metastore()) {
        reasons.push(format!("group {group} has no leader"));
    }
    for follower in followers.iter().filter(|f| f["healthy"] == false) {
        let (id, state) = (
            &follower["id"],
            follower["state"].as_str().unwrap_or_default(),
        );
        reasons.push(format!("follower {id} is {state}"));
    }
    Diagnosis { reasons, unhealthy }
}

/// Groups led here of which records may have one copy now, since their witness runs free.
fn witness_free(seen: &[Seen]) -> Vec<GroupId> {
    let free = seen.iter().filter(|s| s.status.is_witness_free);
    free.map(|s| s.group).collect()
}

/// Groups led here that have two copies and no witness: without either they take no writes.
fn without_witness(seen: &[Seen], state: &ClusterState) -> Vec<GroupId> {
    let led = seen.iter().filter(|s| s.leads()).map(|s| s.group);
    let lacks = |group: &GroupId| {
        state.groups.get(group).is_some_and(|record| {
            let votes = record.staying().filter(|m| m.role.votes());
            record.copies().count() == 2 && votes.count() == 2
        })
    };
    led.filter(lacks).collect()
}

/// Groups without a leader that a quorum follows now.
fn leaderless(seen: &[Seen], silence: Duration) -> Vec<GroupId> {
    let lost = seen.iter().filter(|s| s.status.is_leaderless(silence));
    lost.map(|s| s.group).collect()
}

/// Bytes of the log's files.
fn log_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|m| m.len())
        .sum()
}

fn human_bytes(bytes: u64) -> String {
    let (mut amount, mut unit) = (bytes as f64, "B");
    for next in ["KB", "MB", "GB", "TB"] {
        if amount < 1000.0 {
            break;
        }
        (amount, unit) = (amount / 1000.0, next);
    }
    if unit == "B" {
        format!("{bytes}B")
    } else {
        format!("{amount:.1}{unit}")
    }
}

/// The node's health.
#[utoipa::path(
    get,
    path = "/v1/replication/health",
    operation_id = "health",
    tag = "cluster",
    responses(
        (status = 200, description = "Healthy or degraded", body = shapes::Health),
        (status = 503, description = "Unhealthy", body = shapes::Health),
        Problems
    ),
    security(("bearer" = ["read"]))
)]
pub async fn health(State(api): State<Api>) -> Response {
    let (me, region) = &api.parts.me;
    let state = api.parts.cluster.state();
    let seen = seen(&api);
    let followers = followers(&seen, &state, &api);
    let leaderless = leaderless(&seen, api.parts.replica_silence);
    let Diagnosis {
        mut reasons,
        unhealthy,
    } = diagnose(&seen, &leaderless, &followers);
    reasons.extend(api.parts.rpc.expiry().iter().flat_map(Expiry::warnings));
    let unreachable: Vec<&Value> = followers
        .iter()
        .filter(|f| f["state"] == "unreachable")
        .map(|f| &f["id"])
        .collect();
    let under_replicated: Vec<GroupId> = seen
        .iter()
        .filter(|s| s.leads())
        .filter(|s| {
            let copies = s.status.followers.iter();
            copies
                .filter(|f| s.status.witness != Some(f.node))
                .any(|f| unreachable.contains(&&json!(f.node)))
        })
        .map(|s| s.group)
        .collect();
    let status = match (unhealthy, reasons.is_empty()) {
        (true, _) => "unhealthy",
        (false, false) => "degraded",
        (false, true) => "healthy",
    };
    let leads = seen.iter().any(|s| s.group.is_metastore() && s.leads());
    let body = json!({
        "status": status,
        "reasons": reasons,
        "role": if leads { "leader" } else { "follower" },
        "region": region,
        "node": me,
        "wal": wal(&api),
        "followers": followers,
        "groups": seen.iter().map(group).collect::<Vec<_>>(),
        "leaderless": leaderless,
        "under_replicated": under_replicated,
        "witness_free": witness_free(&seen),
        "without_witness": without_witness(&seen, &state),
    });
    let code = if unhealthy {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    (code, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_people_write_them() {
        let shown = [0, 999, 1200, 1_200_000_000].map(human_bytes);
        assert_eq!(shown, ["0B", "999B", "1.2KB", "1.2GB"]);
    }
}
