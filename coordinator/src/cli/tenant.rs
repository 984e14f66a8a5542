//! `maiactl tenant …`: placements, and what the proxies make of them.

use std::io::{BufRead, IsTerminal, Write};

use maia_common::ids::TenantId;
use maia_common::placement::PlacementSpec;
use reqwest::Method;
use serde_json::{Value, json};

use super::Usage;
use super::api::Api;
use super::args::{Explain, Output, Place, TenantVerb};
use super::print;
use super::session::Session;

const PAGE: usize = 500;

const COLUMNS: &[(&str, &str)] = &[
    ("TENANT", "tenant"),
    ("PRIMARY", "primary_region"),
    ("HOME", "home_region"),
    ("REPLICAS", "replicas"),
    ("MODE", "mode"),
    ("SYNC", "sync_mode"),
    ("GROUP", "group"),
    ("TERM", "term"),
    ("VERSION", "version"),
    ("STATE", "state"),
];

/// Carries out a `tenant` verb.
///
/// # Errors
/// What the cluster refuses, with its code.
pub async fn run(session: &Session, verb: TenantVerb) -> anyhow::Result<()> {
    match verb {
        TenantVerb::Place(place) => {
            let answer = put(session, *place).await?;
            show(session.output, answer);
        }
        TenantVerb::Show { tenant } => {
            show(session.output, session.api.get(&path(&tenant)).await?);
        }
        TenantVerb::List { limit } => {
            let placements = list(session, limit.unwrap_or(usize::MAX)).await?;
            let whole = json!({"placements": placements});
            print::objects(session.output, &whole, "placements", COLUMNS);
        }
        TenantVerb::Remove { tenant, yes } => remove(session, &tenant, yes).await?,
        TenantVerb::Explain(explain) => explain_all(session, &explain).await?,
    }
    Ok(())
}

/// Tenant names need no escaping: what they may consist of is legal in a path.
fn path(tenant: &TenantId) -> String {
    format!("/v1/placements/{tenant}")
}

fn show(output: Output, placement: Value) {
    if output == Output::Json {
        return print::json(&placement);
    }
    print::objects(
        output,
        &json!({"placements": [placement]}),
        "placements",
        COLUMNS,
    );
}

async fn put(session: &Session, place: Place) -> anyhow::Result<Value> {
    let spec = PlacementSpec {
        primary_region: place.primary,
        replicas: place.replicas,
        mode: place.mode,
        sync_mode: place.sync_mode,
        min_sync_replicas: place.min_sync_replicas,
        on_too_few: place.on_too_few,
        conflict_strategy: place.conflict,
        write_routing: place.write_routing,
    };
    let mut headers = Vec::new();
    if let Some(version) = place.if_match {
        headers.push(("if-match", format!("\"{version}\"")));
    }
    if place.create {
        headers.push(("if-none-match", "*".to_owned()));
    }
    let body = serde_json::to_value(&spec)?;
    let path = path(&place.tenant);
    Ok(session
        .api
        .send(Method::PUT, &path, &headers, Some(&body))
        .await?
        .body)
}

async fn list(session: &Session, limit: usize) -> anyhow::Result<Vec<Value>> {
    let mut placements: Vec<Value> = Vec::new();
    let mut after = String::new();
    while placements.len() < limit {
        let page = PAGE.min(limit - placements.len());
        let path = match after.as_str() {
            "" => format!("/v1/placements?limit={page}"),
            after => format!("/v1/placements?limit={page}&after={after}"),
        };
        let mut answer = session.api.get(&path).await?;
        let rows = answer["placements"]
            .as_array_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        let ended = rows.is_empty();
        placements.extend(rows);
        match answer["next"].as_str() {
            Some(next) if !ended => after = next.to_owned(),
            _ => break,
        }
    }
    placements.truncate(limit);
    Ok(placements)
}

async fn remove(session: &Session, tenant: &TenantId, yes: bool) -> anyhow::Result<()> {
    let placement = session.api.get(&path(tenant)).await?;
    if !yes {
        print::complain(&format!(
            "removes the placement of {tenant} (home {}, group {}): its requests are refused from then on",
            print::text(&placement["home_region"]),
            print::text(&placement["group"]),
        ));
        confirm()?;
    }
    // Only what was shown is removed: a placement that changed in between is refused.
    let version = print::text(&placement["version"]);
    let headers = [("if-match", format!("\"{version}\""))];
    session
        .api
        .send(Method::DELETE, &path(tenant), &headers, None)
        .await?;
    if session.output == Output::Json {
        print::json(&json!({"removed": tenant}));
    } else {
        print::line(&format!("removed {tenant}"));
    }
    Ok(())
}

pub(super) fn confirm() -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Usage("nobody to ask: say --yes".to_owned()).into());
    }
    drop(write!(std::io::stderr(), "go on? [y/N] "));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim().eq_ignore_ascii_case("y") {
        return Ok(());
    }
    anyhow::bail!("nothing was done");
}

async fn explain_all(session: &Session, explain: &Explain) -> anyhow::Result<()> {
    let proxies = proxies(session, explain)?;
    let methods = if explain.method.is_empty() {
        vec!["GET".to_owned(), "PUT".to_owned()]
    } else {
        explain.method.clone()
    };
    let mut answers = Vec::new();
    for (name, url) in &proxies {
        for method in &methods {
            let mut query = format!(
                "/explain?tenant={}&method={method}&path={}",
                explain.tenant, explain.path
            );
            if let Some(region) = &explain.preferred_region {
                query.push_str("&preferred_region=");
                query.push_str(region.as_str());
            }
            let mut answer = Api::new(vec![url.clone()], None)?.get(&query).await?;
            answer["proxy"] = json!(name);
            answer["method"] = json!(method);
            answers.push(answer);
        }
    }
    if session.output == Output::Json {
        print::json(&Value::Array(answers));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = answers.iter().map(explain_row).collect();
    print::table(&["PROXY", "METHOD", "DECISION", "REASON", "FACTS"], &rows);
    Ok(())
}

fn explain_row(answer: &Value) -> Vec<String> {
    let known = ["proxy", "method", "decision", "reason"];
    let mut row: Vec<String> = known
        .iter()
        .map(|field| print::text(&answer[*field]))
        .collect();
    let facts = answer["facts"].as_object().or(answer.as_object());
    let facts = facts.into_iter().flatten().filter(|(name, value)| {
        !known.contains(&name.as_str()) && !value.is_object() && !value.is_null()
    });
    let facts: Vec<String> = facts
        .map(|(name, value)| format!("{name}={}", print::text(value)))
        .collect();
    row.push(facts.join(" "));
    row
}

fn proxies(session: &Session, explain: &Explain) -> anyhow::Result<Vec<(String, String)>> {
    if !explain.proxy_admin.is_empty() {
        let named = explain
            .proxy_admin
            .iter()
            .map(|url| (url.clone(), url.clone()));
        return Ok(named.collect());
    }
    let Some(cluster) = &session.cluster else {
        let text = "which proxy? give --proxy-admin URL, or --dir of a local cluster";
        return Err(Usage(text.to_owned()).into());
    };
    let all = cluster.regions.iter();
    Ok(all
        .map(|r| (r.proxy_id.to_string(), r.proxy_admin_url.clone()))
        .collect())
}
