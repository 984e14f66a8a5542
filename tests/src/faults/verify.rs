//! After the last fault: everything is healed, and what was acknowledged must be there. Strong reads
//! end each history; then each is judged by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use reqwest::Method;
use serde_json::Value as Json;

use super::Found;
use super::load::{Key, Refusals, value_of};
use super::stage::{Mode, Stage, Tenant};
use super::strike::says_clock;
use crate::history::{
    Clock, Event, Operation, Outcome, Value, Verdict, cross, effects_that_differ, lost_behind,
    told, wgl,
};

/// How long the cluster may take until nothing of what was broken is left.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Histories up to this long are asked of both checkers.
const CROSS_UP_TO: usize = 9;
/// Reads at a time.
const READS: usize = 8;

/// Waits until a condition holds; says what did not come about.
macro_rules! within {
    ($found:expr, $what:expr, $condition:expr) => {{
        let end = Instant::now() + QUIET_WITHIN;
        loop {
            match $condition.await {
                Ok(value) => break Some(value),
                Err(why) if Instant::now() >= end => {
                    let text = format!("after {QUIET_WITHIN:?} not so: {}: {why}", $what);
                    $found.violations.push(text);
                    break None;
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }};
}

type Histories = BTreeMap<Key, Vec<Event>>;

/// Waits for quiet, reads everything back, and judges.
pub async fn verify(
    stage: &Stage,
    (mut histories, refusals): (Histories, Refusals),
    clock: Clock,
    found: &mut Found,
) {
    within!(found, "every process is ready", ready(stage));
    for tenant in &stage.tenants {
        let what = format!("{} takes writes", tenant.name);
        within!(found, what, takes_writes(stage, tenant));
    }
    within!(found, "every clock is found right", clocks_agree(stage));
    within!(found, "nothing waits in quarantine", resolved(stage));
    let groups: BTreeMap<String, &Tenant> = (stage.tenants.iter())
        .map(|tenant| (tenant.group.to_string(), tenant))
        .collect();
    for tenant in groups.values() {
        let what = format!("replicas of group {} agree", tenant.group);
        let digests = within!(found, what, one_digest(stage, tenant));
        found.digests += digests.unwrap_or(0);
    }
    let read = read_all(stage, &histories, clock).await;
    for (key, events) in &mut histories {
        let tenant = &stage.tenants[key.tenant];
        let Some(Ok((last, copies))) = read.get(key) else {
            let why = read.get(key).and_then(|r| r.as_ref().err().cloned());
            let text = format!("{} {}: can't be read: {why:?}", tenant.name, key.id);
            found.violations.push(text);
            continue;
        };
        events.push(last.clone());
        let false_words = refused_and_there(events, &refusals);
        found
            .violations
            .extend(false_words.map(|text| format!("{} {}: {text}", tenant.name, key.id)));
        if let Some(mut text) = judge(tenant, key, events, copies, found) {
            for refused in refusals.on.get(key).into_iter().flatten() {
                text.push_str("\n    refused: ");
                text.push_str(refused);
            }
            found.violations.push(text);
        }
    }
    found.keys = histories.len();
    found.refusals = refusals.counts;
    for i in 0..stage.cluster.regions().len() {
        let log = stage.cluster.coordinator_log(i);
        let panics = log.lines().filter(|line| line.contains("panicked at"));
        let panics = panics.map(|line| format!("node {}: {line}", i + 1));
        found.violations.extend(panics);
    }
}

async fn ready(stage: &Stage) -> Result<(), String> {
    let status = stage.cluster.maiactl(&["cluster", "status"]).await;
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    if status.status.success() {
        Ok(())
    } else {
        Err(text)
    }
}

async fn takes_writes(stage: &Stage, tenant: &Tenant) -> Result<(), String> {
    let request = stage
        .cluster
        .api(tenant.members[0], Method::PUT, "/v1/data/probe/0")
        .header("x-maia-tenant-id", &tenant.name)
        .body("0");
    let answer = stage.client.try_send(&request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.is_success() {
        Ok(())
    } else {
        Err(answer.text())
    }
}

async fn clocks_agree(stage: &Stage) -> Result<(), String> {
    for i in 0..stage.cluster.regions().len() {
        let health = get(stage, i, "/v1/replication/health").await?;
        if says_clock(&health) {
            return Err(health.to_string());
        }
    }
    Ok(())
}

/// What only waits for the operator stays: nobody was told that it is safe.
async fn resolved(stage: &Stage) -> Result<(), String> {
    for i in 0..stage.cluster.regions().len() {
        let page = get(stage, i, "/admin/replication/quarantine?limit=1000").await?;
        let entries = page["entries"].as_array().cloned().unwrap_or_default();
        let pending = entries.iter().find(|entry| entry["waiting"].is_null());
        let waiting = entries
            .iter()
            .find(|entry| entry["waiting"] != "not-acknowledged" && !entry["waiting"].is_null());
        if let Some(entry) = pending.or(waiting) {
            return Err(entry.to_string());
        }
    }
    Ok(())
}

async fn get(stage: &Stage, i: usize, path: &str) -> Result<Json, String> {
    let request = stage.cluster.api(i, Method::GET, path);
    let answer = stage.client.try_send(&request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.is_success() {
        Ok(answer.json())
    } else {
        Err(answer.text())
    }
}

/// How many replicas have one digest at one position.
async fn one_digest(stage: &Stage, tenant: &Tenant) -> Result<usize, String> {
    let path = format!("/admin/replication/digest?group={}", tenant.group);
    let mut digests = BTreeSet::new();
    for i in &tenant.members {
        let digest = get(stage, *i, &path).await?;
        let of = ["term", "index", "digest"].map(|field| digest[field].to_string());
        digests.insert(of.join(" "));
    }
    match digests.len() {
        1 => Ok(tenant.members.len()),
        _ => Err(format!("{digests:?}")),
    }
}

/// The last strong read of a resource, and what each replica has.
type Last = Result<(Event, Vec<Option<Value>>), String>;

async fn read_all(stage: &Stage, histories: &Histories, clock: Clock) -> BTreeMap<Key, Last> {
    let reads = histories.keys().map(|key| async move {
        let tenant = &stage.tenants[key.tenant];
        let path = format!("/v1/data/k/{}", key.id);
        let call = clock.now();
        let strong = format!("{path}?consistency=strong");
        let last = read(stage, tenant, tenant.members[0], &strong).await;
        let answer = Some(clock.now());
        let mut copies = Vec::new();
        for i in &tenant.members {
            copies.push(read(stage, tenant, *i, &path).await);
        }
        let copies = copies.into_iter().map(|copy| copy.map(|(value, _)| value));
        let copies: Result<Vec<_>, String> = copies.collect();
        let last = last.and_then(|(value, tag)| {
            let event = Event {
                operation: Operation::Read,
                outcome: Outcome::Saw(value),
                call,
                answer,
                tag,
                by: "at the end".to_owned(),
            };
            Ok((event, copies?))
        });
        (key.clone(), last)
    });
    stream::iter(reads).buffer_unordered(READS).collect().await
}

async fn read(
    stage: &Stage,
    tenant: &Tenant,
    at: usize,
    path: &str,
) -> Result<(Option<Value>, Option<String>), String> {
    let request = stage.cluster.api(at, Method::GET, path);
    let request = request.header("x-maia-tenant-id", &tenant.name);
    let answer = stage.client.try_send(&request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.status {
        200 => Ok((
            value_of(&answer.body),
            answer.header("etag").map(str::to_owned),
        )),
        404 if answer.code() == "not_found" => Ok((None, None)),
        _ => Err(answer.text()),
    }
}

/// What was called unwritten and was seen all the same.
fn refused_and_there(events: &[Event], refusals: &Refusals) -> impl Iterator<Item = String> {
    let seen = events.iter().filter_map(|event| match event.outcome {
        Outcome::Saw(value) => value,
        _ => None,
    });
    let seen: BTreeSet<Value> = seen.collect();
    seen.into_iter().filter_map(|value| {
        let refusal = refusals.of.get(&value)?;
        Some(format!("{value} was refused, and is there: {refusal}"))
    })
}

/// What is wrong with a history, with all of it.
fn judge(
    tenant: &Tenant,
    key: &Key,
    events: &[Event],
    copies: &[Option<Value>],
    found: &mut Found,
) -> Option<String> {
    let mut faults = Vec::new();
    let last = match events.last().map(|event| event.outcome) {
        Some(Outcome::Saw(value)) => value,
        _ => None,
    };
    if copies.iter().any(|copy| *copy != last) {
        faults.push(format!(
            "copies differ: {copies:?}, the leader has {last:?}"
        ));
    }
    let acknowledged = events.iter().filter(|e| e.is_acknowledged_write()).count();
    *found.acknowledged.entry(tenant.mode).or_default() += acknowledged;
    found.unknown += events
        .iter()
        .filter(|e| e.outcome == Outcome::Unknown)
        .count();
    found.operations += events.len();
    let lost = lost_behind(events, last);
    *found.lost.entry(tenant.mode).or_default() += lost.len();
    if !lost.is_empty() {
        faults.push(format!("lost:\n{}", told(&lost)));
    }
    // An asynchronous write that was cut off and resolved has another version afterwards, and none
    // has an order before it is applied.
    if tenant.mode != Mode::Async {
        faults.extend(effects_that_differ(events));
        faults.extend(order(events, found));
    }
    (!faults.is_empty()).then(|| {
        let faults = faults.join("\n");
        format!("{} {}: {faults}\n{}", tenant.name, key.id, told(events))
    })
}

fn order(events: &[Event], found: &mut Found) -> Option<String> {
    let verdict = wgl::check(events);
    found.checked += 1;
    if events.len() <= CROSS_UP_TO {
        found.checked_twice += 1;
        if cross::check(events) != verdict {
            return Some(format!("the checkers differ: {verdict:?}"));
        }
    }
    match verdict {
        Verdict::Linearizable => None,
        Verdict::Impossible => Some("no order explains every answer".to_owned()),
        Verdict::Undecided => {
            found.undecided += 1;
            None
        }
    }
}
