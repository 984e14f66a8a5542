//! `maiactl quarantine …`: records that were cut off a log before they were known to be committed. Each
//! coordinator has its own, so all that are named are asked.

use reqwest::Method;
use serde_json::{Value, json};

use super::api::Api;
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

/// Carries out a `quarantine` verb.
///
/// # Errors
/// What the cluster refuses, with its code; a coordinator that does not answer.
pub async fn run(session: &Session, verb: QuarantineVerb) -> anyhow::Result<()> {
    match verb {
        QuarantineVerb::List => {
            let mut entries = Vec::new();
            for api in coordinators(session) {
                entries.extend(list(&api).await?);
            }
            for entry in &mut entries {
                let ms = entry["cut_off_at_unix_ms"].as_u64().unwrap_or_default();
                entry["cut_off"] = json!(print::utc(ms.saturating_mul(1000)));
            }
            let whole = json!({ "entries": entries });
            print::objects(session.output, &whole, "entries", COLUMNS);
            Ok(())
        }
        QuarantineVerb::Show { id } => {
            let (_, entry) = find(session, &id).await?;
            print::json(&entry);
            Ok(())
        }
        QuarantineVerb::Export => export(session).await,
        QuarantineVerb::Resolve { id, action, yes } => resolve(session, &id, action, yes).await,
    }
}

fn coordinators(session: &Session) -> impl Iterator<Item = Api> + '_ {
    let urls = session.api.urls().iter();
    urls.map(|url| session.api.only(url))
}

async fn list(api: &Api) -> anyhow::Result<Vec<Value>> {
    let mut entries: Vec<Value> = Vec::new();
    let mut path = format!("/admin/replication/quarantine?limit={PAGE}");
    loop {
        let mut answer = api.get(&path).await?;
        for id in answer["damaged"].as_array().into_iter().flatten() {
            let id = print::text(id);
            print::complain(&format!("entry {id} is damaged: it can only be dropped"));
        }
        let rows = answer["entries"].as_array_mut().map(std::mem::take);
        entries.extend(rows.unwrap_or_default());
        match answer["next"].as_str() {
            Some(next) => path = format!("/admin/replication/quarantine?limit={PAGE}&after={next}"),
            None => return Ok(entries),
        }
    }
}

/// The coordinator that has the entry, and the entry.
async fn find(session: &Session, id: &str) -> anyhow::Result<(Api, Value)> {
    let mut failed = None;
    for api in coordinators(session) {
        match api
            .get(&format!("/admin/replication/quarantine/{id}"))
            .await
        {
            Ok(entry) => return Ok((api, entry)),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| anyhow::anyhow!("no coordinator is named")))
}

async fn export(session: &Session) -> anyhow::Result<()> {
    for api in coordinators(session) {
        for entry in list(&api).await? {
            let id = print::text(&entry["id"]);
            let whole = api
                .get(&format!("/admin/replication/quarantine/{id}"))
                .await?;
            print::line(&whole.to_string());
        }
    }
    Ok(())
}

async fn resolve(
    session: &Session,
    id: &str,
    action: QuarantineAction,
    yes: bool,
) -> anyhow::Result<()> {
    let (api, entry) = find(session, id).await?;
    let (name, plan) = match action {
        QuarantineAction::Apply => ("apply", "is written over whatever is there now"),
        QuarantineAction::Drop => ("drop", "is gone for good"),
    };
    if !yes {
        let tenant = print::text(&entry["tenant_id"]);
        print::complain(&format!("{entry:#}\nentry {id} of tenant {tenant} {plan}"));
        confirm()?;
    }
    let path = format!("/admin/replication/quarantine/{id}/resolve");
    let body = json!({ "action": name });
    let done = api.send(Method::POST, &path, &[], Some(&body)).await?;
    if session.output == Output::Json {
        print::json(&done.body);
    } else {
        print::line(&format!("{id}: {}", print::text(&done.body["outcome"])));
    }
    Ok(())
}
