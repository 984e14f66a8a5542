//! `maiactl node …`: the cluster's coordinators, adding one, taking one out.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::args::{AddNode, NodeVerb, Output};
use super::print;
use super::session::Session;
use super::tenant::confirm;

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "id"),
    ("REGION", "region"),
    ("STATE", "state"),
    ("METASTORE", "metastore"),
    ("GROUPS", "groups"),
    ("WITNESS", "witness"),
    ("RPC", "rpc_addr"),
    ("API", "api_url"),
];
/// How often `--wait` looks, and for how long.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const WAIT_AT_MOST: Duration = Duration::from_secs(120);

/// Carries out a `node` verb.
///
/// # Errors
/// What the cluster refuses, with its code.
pub async fn run(session: &Session, verb: NodeVerb) -> anyhow::Result<()> {
    match verb {
        NodeVerb::List => {
            let answer = session.api.get("/admin/nodes").await?;
            print::objects(session.output, &answer, "nodes", COLUMNS);
            Ok(())
        }
        NodeVerb::Add(new) => add(session, &new).await,
        NodeVerb::Remove {
            id,
            yes,
            wait,
            accept_data_loss,
            accept_quarantine_loss,
        } => {
            let mut path = format!("/admin/nodes/{id}?");
            if accept_data_loss {
                path.push_str("accept_data_loss=true&");
            }
            if accept_quarantine_loss {
                path.push_str("accept_quarantine_loss=true&");
            }
            remove(session, (id, &path), yes, wait).await
        }
    }
}

async fn add(session: &Session, new: &AddNode) -> anyhow::Result<()> {
    let body = json!({
        "id": new.id,
        "region": new.region,
        "rpc_addr": new.rpc_addr,
        "api_url": new.api_url,
        "witness": new.witness,
    });
    let sent = session
        .api
        .send(Method::POST, "/admin/nodes", &[], Some(&body));
    let mut node = sent.await?.body;
    if new.wait {
        let part = |node: &Value| node["metastore"] != "none" && node["state"] == "active";
        let what = format!("node {} takes part", new.id);
        let found = wait(session, new.id, &what, |node| node.is_some_and(part)).await?;
        node = found.unwrap_or_default();
    }
    if session.output == Output::Json {
        print::json(&node);
    } else {
        print::objects(session.output, &json!({"nodes": [node]}), "nodes", COLUMNS);
    }
    Ok(())
}

/// `path` ends where a further parameter may stand.
async fn remove(
    session: &Session,
    (id, path): (u64, &str),
    yes: bool,
    wait_for_it: bool,
) -> anyhow::Result<()> {
    let dry_run = format!("{path}dry_run=true");
    let plan = session
        .api
        .send(Method::DELETE, &dry_run, &[], None)
        .await?;
    if plan.status == StatusCode::OK && !yes {
        print::complain(&describe(&plan.body));
        confirm()?;
    }
    let begun = session.api.send(Method::DELETE, path, &[], None).await?;
    if wait_for_it {
        let what = format!("node {id} is out");
        wait(session, id, &what, |node| node.is_none()).await?;
    }
    if session.output == Output::Json {
        print::json(&begun.body);
    } else if wait_for_it || begun.status == StatusCode::NO_CONTENT {
        print::line(&format!("node {id} is out of the cluster"));
    } else {
        let reason = begun.body["waits_for"].as_str().unwrap_or_default();
        print::line(&format!(
            "node {id} is being taken out: maiactl node list {reason}"
        ));
    }
    Ok(())
}

/// The plan, for a person to agree to.
fn describe(plan: &Value) -> String {
    let of = |name: &str| print::text(&plan[name]);
    let mut text = format!(
        "takes node {} ({}) out of the cluster for ever; {} of {} voters of the metastore stay",
        of("node"),
        of("region"),
        of("metastore_voters_left"),
        of("metastore_voters"),
    );
    if plan["answers"] == false {
        text.push_str("; it does not answer now, and deletes its data when it comes back");
    }
    for group in plan["groups"].as_array().into_iter().flatten() {
        let copies = group["copies_left"].as_array().map_or(0, Vec::len);
        let home = if group["loses_home"] == true {
            ", and loses its home"
        } else {
            ""
        };
        let witness = if group["loses_witness"] == true {
            ", and goes on without its witness"
        } else {
            ""
        };
        let keep = if copies == 1 {
            "node keeps"
        } else {
            "nodes keep"
        };
        let id = print::text(&group["group"]);
        text.push_str("\n  ");
        text.push_str(
            &[
                format!("group {id}: {copies} {keep} its data"),
                home.to_owned(),
                witness.to_owned(),
            ]
            .concat(),
        );
    }
    text.push_str(&of_quarantine(&plan["quarantine"]));
    for lost in plan["lost"].as_array().into_iter().flatten() {
        let (group, tenants) = (print::text(&lost["group"]), print::text(&lost["tenants"]));
        let line =
            format!("\n  group {group}: LOST, with its {tenants} tenants and all their data");
        text.push_str(&line);
    }
    text
}

/// What becomes of what is in its quarantine, and perhaps of what only its log has.
fn of_quarantine(plan: &Value) -> String {
    let count = |name: &str| plan[name].as_u64().unwrap_or_default();
    let (acknowledged, others) = (count("acknowledged"), count("others"));
    let stand = format!("{acknowledged} acknowledged and {others} other records");
    match plan["waited_for"].as_bool() {
        Some(false) => format!(
            "\n  GONE with it, unless its disk comes back: writes that no other node got, and its \
             quarantine ({stand}, as it last said)"
        ),
        Some(true) if acknowledged + others > 0 => {
            format!("\n  it stays until the {stand} in its quarantine are resolved or handed over")
        }
        _ => String::new(),
    }
}

/// Looks until the node's row is as wanted; returns it.
async fn wait(
    session: &Session,
    id: u64,
    what: &str,
    wanted: impl Fn(Option<&Value>) -> bool,
) -> anyhow::Result<Option<Value>> {
    let end = Instant::now() + WAIT_AT_MOST;
    let mut waits_for = String::new();
    loop {
        // All are asked: the one that goes does not hear how it ends.
        for url in session.api.urls() {
            let Ok(answer) = session.api.only(url).get("/admin/nodes").await else {
                continue;
            };
            let rows = answer["nodes"].as_array().filter(|rows| !rows.is_empty());
            let row = rows.and_then(|rows| rows.iter().find(|row| row["id"] == id));
            if rows.is_some() && wanted(row) {
                return Ok(row.cloned());
            }
            if let Some(reason) = row.and_then(|row| row["waits_for"].as_str()) {
                waits_for = format!(" (it waits for: {reason})");
            }
        }
        anyhow::ensure!(
            Instant::now() < end,
            "not within {} s: {what}{waits_for}; it goes on by itself",
            WAIT_AT_MOST.as_secs()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_says_what_is_left() {
        let plan = json!({
            "node": 3, "region": "us", "answers": false,
            "metastore_voters": 3, "metastore_voters_left": 2,
            "groups": [{"group": 5, "copies_left": [1], "loses_home": true}],
            "lost": [{"group": 6, "tenants": 17}],
        });
        let text = describe(&plan);
        assert!(
            text.contains("2 of 3 voters") && text.contains("does not answer"),
            "{text}"
        );
        assert!(
            text.contains("group 5: 1 node keeps its data, and loses its home"),
            "{text}"
        );
        assert!(
            text.contains("group 6: LOST, with its 17 tenants"),
            "{text}"
        );
    }
}
