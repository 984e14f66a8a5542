//! `maiactl quarantine …`: records that were cut off a log before they were known to be committed. Each
//! coordinator has its own, so all that are named are asked.

use reqwest::Method;
use serde_json::{Value, json};

use super::NotWell;
use super::api::{Api, Refused};
use super::args::{Output, QuarantineAction, QuarantineVerb};
use super::print;
use super::session::Session;
use super::tenant::confirm;

const PAGE: usize = 1000;

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "id"),
    ("NODE", "node"),
    ("TENANT", "tenant_id"),
    ("ACKNOWLEDGED", "acknowledged"),
    ("WHY", "why"),
    ("WAITING", "waiting"),
    ("CUT OFF", "cut_off"),
];

/// Carries out a `quarantine` verb. What one coordinator can't answer keeps nobody from the others'
/// answers, but the command fails then.
///
/// # Errors
/// What the cluster refuses, with its code; a coordinator that does not answer.
pub async fn run(session: &Session, verb: QuarantineVerb) -> anyhow::Result<()> {
    match verb {
        QuarantineVerb::List => list_all(session).await,
        QuarantineVerb::Show { id } => {
            let mut held = find(session, &id, None).await?;
            let entry = held.iter_mut().find_map(|(_, entry)| entry.take());
            print::json(&entry.ok_or_else(|| anyhow::anyhow!("entry {id} is damaged"))?);
            Ok(())
        }
        QuarantineVerb::Export => export(session).await,
        QuarantineVerb::Resolve {
            id,
            action,
            node,
            yes,
        } => resolve(session, &id, action, node, yes).await,
    }
}

fn coordinators(session: &Session) -> impl Iterator<Item = Api> + '_ {
    let urls = session.api.urls().iter();
    urls.map(|url| session.api.only(url))
}

/// Whether the coordinator answered that it has no such entry.
fn is_absent(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Refused>()
        .is_some_and(|r| r.status == 404)
}

async fn list_all(session: &Session) -> anyhow::Result<()> {
    let (mut entries, mut whole) = (Vec::new(), Ok(()));
    for api in coordinators(session) {
        match list(&api).await {
            Ok(found) => entries.extend(found),
            Err(error) => whole = missed(&error),
        }
    }
    for entry in &mut entries {
        let ms = entry["cut_off_at_unix_ms"].as_u64().unwrap_or_default();
        entry["cut_off"] = json!(print::utc(ms.saturating_mul(1000)));
    }
    print::objects(
        session.output,
        &json!({ "entries": entries }),
        "entries",
        COLUMNS,
    );
    whole
}

/// Says that something is missing in what was printed.
fn missed(error: &anyhow::Error) -> anyhow::Result<()> {
    print::complain(&format!("not all was read: {error:#}"));
    Err(NotWell.into())
}

async fn list(api: &Api) -> anyhow::Result<Vec<Value>> {
    let mut entries: Vec<Value> = Vec::new();
    let mut path = format!("/admin/replication/quarantine?limit={PAGE}");
    loop {
        let mut answer = api.get(&path).await?;
        for id in answer["damaged"].as_array().into_iter().flatten() {
            let (id, node) = (print::text(id), print::text(&answer["node"]));
            print::complain(&format!(
                "entry {id} of node {node} is damaged: it can only be dropped"
            ));
        }
        let rows = answer["entries"].as_array_mut().map(std::mem::take);
        entries.extend(rows.unwrap_or_default());
        match answer["next"].as_str() {
            Some(next) => path = format!("/admin/replication/quarantine?limit={PAGE}&after={next}"),
            None => return Ok(entries),
        }
    }
}

/// The coordinators that have the entry, each with what it has: none where that is damaged.
async fn find(
    session: &Session,
    id: &str,
    node: Option<u64>,
) -> anyhow::Result<Vec<(Api, Option<Value>)>> {
    let (mut held, mut failed) = (Vec::new(), None);
    for api in coordinators(session) {
        match find_at(&api, id, node).await {
            Ok(Some(entry)) => held.push((api, entry)),
            Ok(None) => {}
            Err(error) if is_absent(&error) => failed = failed.or(Some(error)),
            Err(error) => {
                print::complain(&format!("not asked: {error:#}"));
                failed = Some(error);
            }
        }
    }
    match failed {
        _ if !held.is_empty() => Ok(held),
        Some(error) => Err(error),
        None => Err(anyhow::anyhow!(
            "none of the named coordinators is that node"
        )),
    }
}

/// What this coordinator has of it, if it is the node that is meant.
async fn find_at(api: &Api, id: &str, node: Option<u64>) -> anyhow::Result<Option<Option<Value>>> {
    if let Some(node) = node {
        let page = api.get("/admin/replication/quarantine?limit=1").await?;
        if page["node"].as_u64() != Some(node) {
            return Ok(None);
        }
    }
    let found = api
        .get(&format!("/admin/replication/quarantine/{id}"))
        .await;
    match found {
        Ok(entry) => Ok(Some(Some(entry))),
        Err(error) => match error.downcast_ref::<Refused>() {
            Some(refused) if refused.status == 500 => Ok(Some(None)),
            _ => Err(error),
        },
    }
}

async fn export(session: &Session) -> anyhow::Result<()> {
    let mut whole = Ok(());
    for api in coordinators(session) {
        let entries = match list(&api).await {
            Ok(entries) => entries,
            Err(error) => {
                whole = missed(&error);
                continue;
            }
        };
        for entry in entries {
            let id = print::text(&entry["id"]);
            let found = api
                .get(&format!("/admin/replication/quarantine/{id}"))
                .await;
            match found {
                Ok(entry) => print::line(&entry.to_string()),
                Err(error) if is_absent(&error) => {
                    print::complain(&format!("entry {id} was resolved meanwhile"));
                }
                Err(error) => whole = missed(&error.context(format!("entry {id}"))),
            }
        }
    }
    whole
}

/// On every coordinator that has it: a record may have been cut off several logs.
async fn resolve(
    session: &Session,
    id: &str,
    action: QuarantineAction,
    node: Option<u64>,
    yes: bool,
) -> anyhow::Result<()> {
    let held = find(session, id, node).await?;
    let (name, plan) = match action {
        QuarantineAction::Apply => ("apply", "is written over whatever is there now"),
        QuarantineAction::Drop => ("drop", "is gone for good"),
    };
    if !yes {
        for (_, entry) in &held {
            match entry {
                Some(entry) => {
                    let (tenant, node) = (print::text(&entry["tenant_id"]), &entry["node"]);
                    let text = format!("entry {id} of tenant {tenant} on node {node} {plan}");
                    print::complain(&format!("{entry:#}\n{text}"));
                }
                None => print::complain(&format!("entry {id}, which is damaged, {plan}")),
            }
        }
        confirm()?;
    }
    let path = format!("/admin/replication/quarantine/{id}/resolve");
    let body = json!({ "action": name });
    for (api, _) in held {
        let done = api.send(Method::POST, &path, &[], Some(&body)).await?;
        if session.output == Output::Json {
            print::json(&done.body);
        } else {
            print::line(&format!("{id}: {}", print::text(&done.body["outcome"])));
        }
    }
    Ok(())
}
