//! `maiactl quarantine …`: records that were cut off a log before they were known to be committed. Each
//! coordinator has its own, so all that are named are asked.

mod bulk;

use reqwest::Method;
use serde_json::{Value, json};

use super::NotWell;
use super::api::{Api, Refused};
use super::args::{Output, QuarantineAction, QuarantineVerb, Resolve};
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
        QuarantineVerb::Resolve(how) => match &how.id {
            Some(id) => resolve(session, id, &how).await,
            None => bulk::resolve_all(session, &how).await,
        },
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

/// What a coordinator has: the entries, and the ids of those that are damaged. `only`: parameters that leave
/// some out, each with its `&`.
async fn list_of(api: &Api, only: &str) -> anyhow::Result<(Vec<Value>, Vec<String>)> {
    let (mut entries, mut damaged): (Vec<Value>, Vec<String>) = Default::default();
    let first = format!("/admin/replication/quarantine?limit={PAGE}{only}");
    let mut path = first.clone();
    loop {
        let mut answer = api.get(&path).await?;
        let rotten = answer["damaged"].as_array().into_iter().flatten();
        damaged.extend(rotten.map(print::text));
        let rows = answer["entries"].as_array_mut().map(std::mem::take);
        entries.extend(rows.unwrap_or_default());
        match answer["next"].as_str() {
            Some(next) => path = format!("{first}&after={next}"),
            None => return Ok((entries, damaged)),
        }
    }
}

async fn list(api: &Api) -> anyhow::Result<Vec<Value>> {
    let (entries, damaged) = list_of(api, "").await?;
    for id in damaged {
        let url = api.urls().concat();
        print::complain(&format!(
            "entry {id} at {url} is damaged: it can only be dropped"
        ));
    }
    Ok(entries)
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
async fn resolve(session: &Session, id: &str, how: &Resolve) -> anyhow::Result<()> {
    let held = find(session, id, how.node).await?;
    let (name, plan) = how.action.plan();
    if !how.yes {
        for (_, entry) in &held {
            match entry {
                Some(entry) => {
                    let (tenant, node) = (print::text(&entry["tenant_id"]), &entry["node"]);
                    let text = format!("entry {id} of tenant {tenant} on node {node} is {plan}");
                    let caution = caution(how.action, entry).map(|text| format!("; {text}"));
                    let caution = caution.unwrap_or_default();
                    print::complain(&format!("{entry:#}\n{text}{caution}"));
                }
                None => print::complain(&format!("entry {id}, which is damaged, is {plan}")),
            }
        }
        confirm()?;
    }
    for (api, _) in held {
        let done = decide(&api, id, name).await?;
        if session.output == Output::Json {
            print::json(&done);
        } else {
            print::line(&format!("{id}: {}", print::text(&done["outcome"])));
        }
    }
    Ok(())
}

/// What an operator should know before the entry is applied, by why it waits.
fn caution(action: QuarantineAction, entry: &Value) -> Option<&'static str> {
    if action == QuarantineAction::Drop {
        return None;
    }
    match entry["waiting"].as_str()? {
        "too-old" | "forgotten" => Some(
            "CAUTION: it is so old that a retry of it may have taken effect, or its resource been deleted, and \
             nobody remembers",
        ),
        "ahead-of-clock" => Some(
            "CAUTION: a clock that was ahead wrote it: what was written since may be newer, whatever the times say",
        ),
        "removed-node" => Some(
            "CAUTION: only a node that had been removed says that there was such a write: look at it first",
        ),
        _ => None,
    }
}

/// What came of the decision.
async fn decide(api: &Api, id: &str, action: &str) -> anyhow::Result<Value> {
    let path = format!("/admin/replication/quarantine/{id}/resolve");
    let body = json!({ "action": action });
    let done = api.send(Method::POST, &path, &[], Some(&body)).await?;
    Ok(done.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_applies_what_nobody_can_judge_is_cautioned() {
        let cautioned = |action, waiting: Value| {
            let entry = json!({ "waiting": waiting });
            caution(action, &entry).is_some()
        };
        for waiting in ["too-old", "forgotten", "ahead-of-clock", "removed-node"] {
            assert!(cautioned(QuarantineAction::Apply, json!(waiting)));
            assert!(!cautioned(QuarantineAction::Drop, json!(waiting)));
        }
        for waiting in [json!("strategy-reject"), json!(null)] {
            assert!(!cautioned(QuarantineAction::Apply, waiting));
        }
    }
}
