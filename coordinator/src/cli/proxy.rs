//! `maiactl proxy …`: the registered proxies.

use maia_common::ids::ProxyId;
use reqwest::Method;
use serde_json::{Value, json};

use super::args::{Output, ProxyVerb};
use super::print;
use super::session::Session;
use super::tenant::confirm;

const PAGE: usize = 1000;

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "id"),
    ("REGION", "region"),
    ("CONNECTED TO", "connected_to"),
    ("REVISION", "revision"),
    ("LAST SEEN (ms ago)", "last_seen_ms"),
];

/// Carries out a `proxy` verb.
///
/// # Errors
/// What the cluster refuses, with its code.
pub async fn run(session: &Session, verb: ProxyVerb) -> anyhow::Result<()> {
    match verb {
        ProxyVerb::List => {
            let whole = json!({ "proxies": list(session).await? });
            print::objects(session.output, &whole, "proxies", COLUMNS);
            Ok(())
        }
        ProxyVerb::Remove { id, yes } => remove(session, &id, yes).await,
    }
}

/// All of them, from whichever coordinator connects: it asks the others.
async fn list(session: &Session) -> anyhow::Result<Vec<Value>> {
    let mut proxies: Vec<Value> = Vec::new();
    let mut path = format!("/admin/proxies?limit={PAGE}");
    loop {
        let mut answer = session.api.get(&path).await?;
        let rows = answer["proxies"].as_array_mut().map(std::mem::take);
        proxies.extend(rows.unwrap_or_default());
        match answer["next"].as_str() {
            Some(next) => path = format!("/admin/proxies?limit={PAGE}&after={next}"),
            None => return Ok(proxies),
        }
    }
}

async fn remove(session: &Session, id: &ProxyId, yes: bool) -> anyhow::Result<()> {
    if !yes {
        print::complain(&format!(
            "forgets the proxy {id}: migrations no longer wait for it"
        ));
        confirm()?;
    }
    let path = format!("/admin/proxies/{id}");
    session.api.send(Method::DELETE, &path, &[], None).await?;
    if session.output == Output::Json {
        print::json(&json!({ "removed": id }));
    } else {
        print::line(&format!("removed {id}"));
    }
    Ok(())
}
