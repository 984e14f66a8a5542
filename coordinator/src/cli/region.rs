//! `maiactl region …`: the cluster's regions and their states.

use maia_common::ids::RegionName;
use maia_common::topology::RegionState;
use reqwest::Method;
use serde_json::{Value, json};

use super::args::{Output, RegionVerb};
use super::print;
use super::session::Session;
use super::tenant::confirm;

const COLUMNS: &[(&str, &str)] = &[
    ("NAME", "name"),
    ("PUBLIC URL", "public_url"),
    ("PRIORITY", "priority"),
    ("STATE", "state"),
];

/// Carries out a `region` verb.
///
/// # Errors
/// What the cluster refuses, with its code.
pub async fn run(session: &Session, verb: RegionVerb) -> anyhow::Result<()> {
    match verb {
        RegionVerb::List => {
            let answer = session.api.get("/admin/regions").await?;
            print::objects(session.output, &answer, "regions", COLUMNS);
            Ok(())
        }
        RegionVerb::Add {
            name,
            public_url,
            priority,
        } => {
            let spec = json!({"public_url": public_url, "priority": priority});
            put(session, &name, &spec, ("if-none-match", "*".to_owned())).await
        }
        RegionVerb::Set {
            name,
            public_url,
            priority,
            state,
        } => {
            let (mut region, etag) = get(session, &name).await?;
            if let Some(url) = public_url {
                region["public_url"] = json!(url);
            }
            if let Some(priority) = priority {
                region["priority"] = json!(priority);
            }
            if let Some(state) = state {
                region["state"] = json!(state);
            }
            put(session, &name, &region, ("if-match", etag)).await
        }
        RegionVerb::Drain { name, yes } => {
            let (mut region, etag) = get(session, &name).await?;
            if !yes {
                print::complain(&format!(
                    "region {name} takes no new tenants from now on, and hands over what it leads"
                ));
                confirm()?;
            }
            region["state"] = json!(RegionState::Draining);
            put(session, &name, &region, ("if-match", etag)).await
        }
    }
}

/// The region as the body of a PUT, and its ETag.
async fn get(session: &Session, name: &RegionName) -> anyhow::Result<(Value, String)> {
    let path = format!("/admin/regions/{name}");
    let answer = session.api.send(Method::GET, &path, &[], None).await?;
    let mut region = answer.body;
    if let Some(fields) = region.as_object_mut() {
        fields.remove("name");
    }
    Ok((region, answer.etag.unwrap_or_else(|| "*".to_owned())))
}

async fn put(
    session: &Session,
    name: &RegionName,
    region: &Value,
    precondition: (&str, String),
) -> anyhow::Result<()> {
    let path = format!("/admin/regions/{name}");
    let answer = session
        .api
        .send(Method::PUT, &path, &[precondition], Some(region))
        .await?;
    if session.output == Output::Json {
        print::json(&answer.body);
    } else {
        let whole = json!({"regions": [answer.body]});
        print::objects(session.output, &whole, "regions", COLUMNS);
    }
    Ok(())
}
