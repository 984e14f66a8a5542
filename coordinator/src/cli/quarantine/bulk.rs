//! `maiactl quarantine resolve --all`: one decision for many entries, after a plan that says how many of
//! whom. Each is decided by itself: what fails keeps nothing else from being done, and is counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

use super::super::NotWell;
use super::super::api::Api;
use super::super::args::{Output, QuarantineAction, Resolve};
use super::super::print;
use super::super::session::Session;
use super::super::tenant::confirm;
use super::{caution, coordinators, decide, is_absent, list_of, missed};

/// Lines of the plan; of more rows only the number is said.
const MAX_PLAN_ROWS: usize = 30;

/// What is to be decided on one coordinator.
struct Part {
    api: Api,
    ids: Vec<String>,
}

/// How many entries of whom, and whether clients may count on them: (node, tenant, acknowledged).
type Plan = BTreeMap<(String, String, String), usize>;

/// Decides all entries that are meant.
///
/// # Errors
/// When nobody agrees; when not all coordinators answered, or not all could be decided.
pub(super) async fn resolve_all(session: &Session, how: &Resolve) -> anyhow::Result<()> {
    let (parts, plan, mut whole) = gather(session, how).await?;
    let (action, meaning) = how.action.plan();
    let count: usize = parts.iter().map(|part| part.ids.len()).sum();
    if count > 0 && !how.yes {
        print::complain(&format!("{}{count} entries are {meaning}", describe(&plan)));
        confirm()?;
    }
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for Part { api, ids } in parts {
        for id in ids {
            let outcome = match decide(&api, &id, action).await {
                Ok(done) => print::text(&done["outcome"]),
                Err(error) if is_absent(&error) => "gone-before".to_owned(),
                Err(error) => {
                    print::complain(&format!("{id}: {error:#}"));
                    whole = Err(NotWell.into());
                    "failed".to_owned()
                }
            };
            *outcomes.entry(outcome).or_default() += 1;
        }
    }
    if session.output == Output::Json {
        print::json(&json!({ "entries": count, "outcomes": outcomes }));
    } else {
        print::line(&format!("{count} entries"));
        for (outcome, count) in outcomes {
            print::line(&format!("  {outcome}: {count}"));
        }
    }
    whole
}

/// What is meant, and whether all coordinators have answered.
async fn gather(
    session: &Session,
    how: &Resolve,
) -> anyhow::Result<(Vec<Part>, Plan, anyhow::Result<()>)> {
    let mut only = String::new();
    if let Some(tenant) = &how.tenant {
        write!(only, "&tenant={tenant}")?;
    }
    if let Some(group) = how.group {
        write!(only, "&group={group}")?;
    }
    let (mut parts, mut plan, mut whole) = (Vec::new(), Plan::new(), Ok(()));
    for api in coordinators(session) {
        let (entries, damaged) = match list_of(&api, &only).await {
            Ok(found) => found,
            Err(error) => {
                whole = missed(&error);
                continue;
            }
        };
        let wanted = entries
            .iter()
            .filter(|entry| how.node.is_none_or(|n| entry["node"] == n));
        let mut ids = Vec::new();
        for entry in wanted {
            let of = |name: &str| print::text(&entry[name]);
            let caution = caution(how.action, entry).map(|text| format!("; {text}"));
            let acknowledged = of("acknowledged") + &caution.unwrap_or_default();
            *plan
                .entry((of("node"), of("tenant_id"), acknowledged))
                .or_default() += 1;
            ids.push(of("id"));
        }
        // Damaged ones are not of any tenant, and can only be dropped.
        let drops = how.action == QuarantineAction::Drop && how.tenant.is_none();
        if drops && is_meant(&api, how.node).await? {
            let row = ("?".to_owned(), "damaged".to_owned(), "perhaps".to_owned());
            if !damaged.is_empty() {
                *plan.entry(row).or_default() += damaged.len();
            }
            ids.extend(damaged);
        }
        parts.push(Part { api, ids });
    }
    Ok((parts, plan, whole))
}

/// Whether this coordinator is the node that was named, if one was.
async fn is_meant(api: &Api, node: Option<u64>) -> anyhow::Result<bool> {
    let Some(node) = node else {
        return Ok(true);
    };
    let page = api.get("/admin/replication/quarantine?limit=1").await?;
    Ok(page["node"] == node)
}

fn describe(plan: &Plan) -> String {
    let mut text = String::new();
    for ((node, tenant, acknowledged), count) in plan.iter().take(MAX_PLAN_ROWS) {
        let row = format!("node {node}, {tenant}, acknowledged: {acknowledged}: {count}\n");
        text.push_str(&row);
    }
    if let Some(more) = plan
        .len()
        .checked_sub(MAX_PLAN_ROWS)
        .filter(|more| *more > 0)
    {
        writeln!(text, "and {more} more rows").expect("a string takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_how_many_of_whom_and_no_more_than_fits() {
        let row = |n: usize| ((n.to_string(), format!("t{n}"), "yes".to_owned()), n);
        let text = describe(&[row(3)].into());
        assert_eq!(text, "node 3, t3, acknowledged: yes: 3\n");
        let text = describe(&(0..MAX_PLAN_ROWS + 2).map(row).collect());
        assert!(text.ends_with("and 2 more rows\n"), "{text}");
        assert_eq!(text.lines().count(), MAX_PLAN_ROWS + 1);
    }
}
