//! What the cluster says of itself: health, groups, events.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::NotWell;
use super::args::Output;
use super::print;
use super::session::Session;

/// How often `events --follow` asks.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// Every coordinator's view of the cluster's health.
///
/// # Errors
/// [`NotWell`] unless every coordinator answers `healthy`.
pub async fn health(session: &Session) -> anyhow::Result<()> {
    let mut answers = Vec::new();
    for url in session.api.urls() {
        let api = session.api.only(url);
        let mut body = match api
            .call(Method::GET, "/v1/replication/health", &[], None)
            .await
        {
            Ok(answer) if answer.body["status"].is_string() => answer.body,
            Ok(answer) => json!({
                "status": "unhealthy",
                "reasons": [print::text(&answer.body["detail"])],
            }),
            Err(error) => json!({"status": "unreachable", "reasons": [format!("{error:#}")]}),
        };
        body["api_url"] = json!(url);
        answers.push(body);
    }
    let well = answers.iter().all(|answer| answer["status"] == "healthy");
    let columns = [
        ("API", "api_url"),
        ("REGION", "region"),
        ("NODE", "node"),
        ("STATUS", "status"),
        ("ROLE", "role"),
        ("LEADERLESS", "leaderless"),
        ("UNDER-REPLICATED", "under_replicated"),
        ("REASONS", "reasons"),
    ];
    print::objects(
        session.output,
        &json!({"coordinators": answers}),
        "coordinators",
        &columns,
    );
    if well { Ok(()) } else { Err(NotWell.into()) }
}

/// Groups, leaders, members.
///
/// # Errors
/// What the cluster refuses.
pub async fn groups(session: &Session) -> anyhow::Result<()> {
    let answer = session.api.get("/admin/replication/election").await?;
    let columns = [
        ("GROUP", "group"),
        ("TERM", "term"),
        ("LEADER", "leader"),
        ("REGION", "region"),
        ("VOTERS", "voters"),
        ("LEARNERS", "learners"),
        ("WITNESS", "witness"),
    ];
    print::objects(session.output, &answer, "groups", &columns);
    Ok(())
}

/// What happened, from a revision on; with `follow` until interrupted.
///
/// # Errors
/// What the cluster refuses.
pub async fn events(session: &Session, after: u64, follow: bool) -> anyhow::Result<()> {
    let mut after = after;
    loop {
        let answer = session
            .api
            .get(&format!("/admin/events?after={after}"))
            .await?;
        let empty = Vec::new();
        let events = answer["events"].as_array().unwrap_or(&empty);
        for event in events {
            event_line(session.output, event);
            after = after.max(event["revision"].as_u64().unwrap_or(after));
        }
        let next = answer["next"].as_u64();
        if let Some(next) = next.filter(|_| !events.is_empty()) {
            after = after.max(next);
        } else if follow {
            tokio::time::sleep(FOLLOW_EVERY).await;
        } else {
            return Ok(());
        }
    }
}

/// One line an event: JSON lines for programs.
fn event_line(output: Output, event: &Value) {
    if output == Output::Json {
        return print::line(&event.to_string());
    }
    let known = ["revision", "time", "kind"];
    let rest = event.as_object().into_iter().flatten();
    let rest = rest.filter(|(name, value)| !known.contains(&name.as_str()) && !value.is_null());
    let rest: Vec<String> = rest
        .map(|(name, value)| format!("{name}={}", print::text(value)))
        .collect();
    print::line(&format!(
        "{:>8}  {}  {}  {}",
        print::text(&event["revision"]),
        event["time"]
            .as_u64()
            .map_or_else(|| print::text(&event["time"]), print::utc),
        print::text(&event["kind"]),
        rest.join(" ")
    ));
}
