//! A leader dies with records that nobody else has: they are kept, resolved when it comes back, and
//! nothing of it is silent.

use std::collections::BTreeSet;

use maia_tests::client::Client;
use maia_tests::cluster::SOON;
use maia_tests::metrics::Metrics;
use maia_tests::{Cluster, Options, wait_until, wait_value};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const TENANT: &str = "acme";
const CONFLICTS: &str = "maia_replication_conflicts_total";

async fn metrics(cluster: &Cluster, i: usize) -> Metrics {
    let answer = cluster
        .client
        .send(&cluster.api(i, Method::GET, "/metrics"))
        .await;
    Metrics::parse(&String::from_utf8_lossy(&answer.body))
}

/// Writes one resource after the other at this coordinator until a write is not answered; returns the
/// ids of all, of which all but the last were acknowledged.
async fn write(client: Client, first: maia_tests::client::Request, name: String) -> Vec<String> {
    let (mut n, mut ids) = (0, Vec::new());
    loop {
        n += 1;
        let id = format!("{name}-{n}");
        let mut request = first.clone();
        request.url = format!("{}/{id}", first.url);
        ids.push(id);
        match client.try_send(&request).await {
            Ok(answer) if answer.is_success() => {}
            _ => return ids,
        }
    }
}

async fn has(cluster: &Cluster, i: usize, id: &str) -> bool {
    let path = format!("/v1/data/k/{id}");
    let request = cluster
        .api(i, Method::GET, &path)
        .header("x-maia-tenant-id", TENANT);
    cluster.client.send(&request).await.status == 200
}

/// Places the tenant everywhere, in async mode; returns its group.
async fn place_async(cluster: &Cluster, strategy: &str) -> Value {
    let placement = cluster.place(TENANT, 0, &[1, 2]).await;
    let names: Vec<&str> = [1, 2].map(|i| cluster.region(i).name.as_str()).into();
    let spec = json!({
        "primary_region": cluster.region(0).name, "replicas": names, "sync_mode": "async",
        "conflict_strategy": strategy,
    });
    let answer = cluster.put_placement(0, TENANT, &spec).await;
    answer.expect_success("async");
    placement["group"].clone()
}

/// The digest of the group's state on every coordinator, once all are in one position.
async fn digests(cluster: &Cluster, group: &Value) -> BTreeSet<String> {
    wait_value(SOON, "all replicas are in one position", || async {
        let found = cluster.digests(group).await?;
        let position = |d: &Value| (d["term"].clone(), d["index"].clone());
        let is_one = found.iter().all(|d| position(d) == position(&found[0]));
        is_one.then(|| found.iter().map(|d| d["digest"].to_string()).collect())
    })
    .await
}

/// Has the group's leader write what no other member has, and the others go on without it. Returns who
/// that was, and the ids of what it acknowledged. It is down now.
async fn cut_off(cluster: &Cluster, group: &Value, clients: usize) -> (usize, Vec<String>) {
    let leader = cluster.leader_of(group).await;
    let others: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let first = cluster
        .api(leader, Method::PUT, "/v1/data/k")
        .header("x-maia-tenant-id", TENANT)
        .body("1");
    let mut writers = JoinSet::new();
    for n in 0..clients {
        writers.spawn(write(
            cluster.client.clone(),
            first.clone(),
            format!("w{n}"),
        ));
    }
    for other in &others {
        cluster.kill_coordinator(*other).await;
    }
    wait_until(SOON, "the leader is alone", || async {
        let request = cluster.api(leader, Method::GET, "/v1/replication/health");
        let health = cluster.client.send(&request).await.json();
        let leaderless = health["leaderless"].as_array();
        leaderless.is_some_and(|groups| groups.contains(group))
    })
    .await;
    cluster.kill_coordinator(leader).await;
    let written: Vec<Vec<String>> = writers.join_all().await;
    let acknowledged = written.iter().flat_map(|ids| &ids[..ids.len() - 1]);
    let acknowledged: Vec<String> = acknowledged.cloned().collect();
    for other in &others {
        let id = cluster.region(*other).coordinator_id.to_string();
        cluster
            .run(&["cluster", "restart", "--no-wait", "--node", &id])
            .await;
    }
    let probe = cluster
        .api(others[0], Method::PUT, "/v1/data/k/probe")
        .header("x-maia-tenant-id", TENANT)
        .body("1");
    wait_until(SOON, "the others go on without it", || async {
        let answer = cluster.client.try_send(&probe).await;
        answer.is_ok_and(|answer| answer.is_success())
    })
    .await;
    (leader, acknowledged)
}

#[tokio::test]
async fn what_only_a_dead_leader_had_is_resolved_when_it_is_back() {
    let cluster = Cluster::start().await;
    let group = place_async(&cluster, "last-write-wins").await;
    let (leader, acknowledged) = cut_off(&cluster, &group, 8).await;
    cluster.restart_coordinator(leader).await;

    let won = wait_value(SOON, "what it had is resolved", || async {
        let metrics = metrics(&cluster, leader).await;
        let won = metrics.sum(
            CONFLICTS,
            &["strategy=\"last-write-wins\"", "outcome=\"won\""],
        );
        let left = metrics.sum("maia_quarantine_entries", &[]);
        (won > 0.0 && left == 0.0).then_some(won)
    })
    .await;
    assert!(won > 0.0);
    // Some of these were acknowledged by a leader that nobody heard any more.
    assert!(!acknowledged.is_empty());
    for i in 0..3 {
        for id in &acknowledged {
            let what = format!("{id} is in region {i}: it was acknowledged (I3)");
            wait_until(SOON, &what, || has(&cluster, i, id)).await;
        }
    }
    assert_eq!(digests(&cluster, &group).await.len(), 1, "I13");
    let listed = cluster
        .run(&["quarantine", "list", "--output", "json"])
        .await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["entries"], json!([]));
}

/// The entries that this coordinator lists.
async fn entries(cluster: &Cluster, i: usize) -> Vec<Value> {
    let path = "/admin/replication/quarantine?limit=1000";
    let mut page = cluster.api_get(i, path).await;
    let mut found = Vec::new();
    loop {
        found.extend(page["entries"].as_array().cloned().unwrap_or_default());
        let Some(next) = page["next"].as_str() else {
            return found;
        };
        page = cluster.api_get(i, &format!("{path}&after={next}")).await;
    }
}

/// The node's log and its metrics tell of what waits for the operator.
async fn says_so(cluster: &Cluster, i: usize, waiting: usize) {
    let lines = || {
        let log = cluster.coordinator_log(i);
        let lines = log.lines().filter(|l| l.contains("wait for the operator"));
        lines.count()
    };
    wait_until(SOON, "its log says so", || async { lines() > 0 }).await;
    assert!(lines() <= 3, "{} lines: one for each look", lines());
    let why = &["why=\"strategy-reject\""];
    wait_until(SOON, "the metric says so, too", || async {
        let waits = metrics(cluster, i)
            .await
            .sum("maia_quarantine_waiting", why);
        waits.to_string() == waiting.to_string()
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_taken_out_hands_over_what_waits_for_the_operator() {
    let cluster = Cluster::start().await;
    let group = place_async(&cluster, "reject").await;
    // Few: each is looked at, handed over and decided by itself.
    let (old, _) = cut_off(&cluster, &group, 1).await;
    let (id, others) = (
        cluster.region(old).coordinator_id,
        (0..3).filter(|i| *i != old),
    );
    let others: Vec<usize> = others.collect();
    cluster.restart_coordinator(old).await;
    let waiting = wait_value(SOON, "what it had waits for the operator", || async {
        let found = entries(&cluster, old).await;
        let all_wait = found.iter().all(|e| e["waiting"] == "strategy-reject");
        (!found.is_empty() && all_wait).then_some(found)
    })
    .await;
    says_so(&cluster, old, waiting.len()).await;
    exported_past_a_dead_one(&cluster, others[0], &waiting).await;
    let plan = format!("/admin/nodes/{id}?dry_run=true");
    wait_until(SOON, "it has said so", || async {
        let request = cluster.api(others[0], Method::DELETE, &plan);
        let plan = cluster.client.send(&request).await.json();
        plan["quarantine"]["waited_for"] == true
            && plan["quarantine"]["acknowledged"] == waiting.len()
    })
    .await;

    // Down, it can't hand anything over: it is not taken out without a word.
    cluster.kill_coordinator(old).await;
    let remove = format!("/admin/nodes/{id}");
    let request = cluster.api(others[0], Method::DELETE, &remove);
    let refused = wait_value(SOON, "the metastore has a leader", || async {
        let answer = cluster.client.send(&request).await;
        (answer.status == 409).then_some(answer)
    })
    .await;
    refused.expect_problem(409, "data_loss_refused");
    assert!(
        refused.text().contains("accept_quarantine_loss"),
        "{}",
        refused.text()
    );

    // A coordinator that is down is named, and keeps nobody from the answers of the others.
    let listed = cluster.maiactl(&["quarantine", "list"]).await;
    assert!(!listed.status.success());
    let said = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(said.contains(&cluster.region(old).api_url), "{said}");

    cluster.restart_coordinator(old).await;
    let id = id.to_string();
    cluster
        .run(&["node", "remove", &id, "--yes", "--wait"])
        .await;
    let mut kept = BTreeSet::new();
    for other in others {
        kept.extend(ids(&entries(&cluster, other).await));
    }
    assert_eq!(
        kept,
        ids(&waiting),
        "nothing is lost, and nothing is stranded"
    );
    assert_eq!(entries(&cluster, old).await, Vec::<Value>::new());
    let first = waiting[0]["id"].as_str().expect("an id");
    let applied = cluster
        .maiactl(&["quarantine", "resolve", first, "apply", "--yes"])
        .await;
    assert!(String::from_utf8_lossy(&applied.stdout).contains("won"));
    decide_all(&cluster, waiting.len() - 1).await;
}

/// A coordinator that is down is named, and keeps nobody from the entries of the others.
async fn exported_past_a_dead_one(cluster: &Cluster, dead: usize, expected: &[Value]) {
    cluster.kill_coordinator(dead).await;
    let exported = cluster.maiactl(&["quarantine", "export"]).await;
    assert!(!exported.status.success(), "it may have had some as well");
    let said = String::from_utf8_lossy(&exported.stderr).into_owned();
    assert!(said.contains(&cluster.region(dead).api_url), "{said}");
    assert_eq!(exported_ids(&exported.stdout), ids(expected));
    cluster.restart_coordinator(dead).await;
}

/// Of entries with what they hold: each a line.
fn exported_ids(lines: &[u8]) -> BTreeSet<String> {
    let lines = String::from_utf8_lossy(lines);
    let entries = lines.lines().map(|line| {
        let entry: Value = serde_json::from_str(line).expect("an entry is a line of JSON");
        assert!(!entry["operations"].is_null(), "with its content: {entry}");
        entry["id"].to_string()
    });
    entries.collect()
}

fn ids(entries: &[Value]) -> BTreeSet<String> {
    entries.iter().map(|e| e["id"].to_string()).collect()
}

/// It was taken out while it was down, and comes back with what it alone had: it hands it over, over TLS and
/// in the clear.
#[tokio::test]
async fn what_a_removed_node_brings_back_is_not_lost() {
    for is_plain in [false, true] {
        let options = if is_plain {
            Options::default().argument("--plaintext")
        } else {
            Options::default()
        };
        let cluster = Cluster::start_with(options).await;
        let group = place_async(&cluster, "reject").await;
        let (old, _) = cut_off(&cluster, &group, 1).await;
        let number = cluster.region(old).coordinator_id;
        let id = number.to_string();
        let others: Vec<usize> = (0..3).filter(|i| *i != old).collect();
        let path = format!("/admin/nodes/{id}?accept_quarantine_loss=true");
        let request = cluster.api(others[0], Method::DELETE, &path);
        wait_until(SOON, "it is taken out", || async {
            let answer = cluster.client.send(&request).await;
            answer.is_success() || answer.status == 404
        })
        .await;
        wait_until(SOON, "it is no member of the group", || async {
            let nodes = cluster.api_get(others[0], "/admin/nodes").await;
            let nodes = nodes["nodes"].as_array().cloned().unwrap_or_default();
            !nodes.is_empty() && nodes.iter().all(|node| node["id"] != number)
        })
        .await;
        cluster
            .run(&["cluster", "restart", "--no-wait", "--node", &id])
            .await;
        wait_until(SOON, "all of it is where it belongs", || async {
            let mut held = BTreeSet::new();
            for i in &others {
                let path = "/admin/replication/quarantine?limit=1000";
                let Ok(page) = cluster
                    .client
                    .try_send(&cluster.api(*i, Method::GET, path))
                    .await
                else {
                    return false;
                };
                held.extend(ids(page.json()["entries"].as_array().map_or(&[], |e| e)));
            }
            !held.is_empty()
        })
        .await;
        wait_until(SOON, "and nowhere else", || async {
            entries(&cluster, old).await.is_empty()
        })
        .await;
    }
}

/// One decision for all that are left; the node that was taken out still answers, and has nothing.
async fn decide_all(cluster: &Cluster, left: usize) {
    let resolve = |more: &[&'static str]| {
        let all = ["quarantine", "resolve", "drop", "--all", "--output", "json"];
        [&all[..], more].concat()
    };
    let nobody = cluster.maiactl(&resolve(&[])).await;
    let asked = String::from_utf8_lossy(&nobody.stderr).into_owned();
    let expected = format!("{left} entries are gone for good");
    assert_eq!(asked.contains(&expected), left > 0, "{asked}");
    let strangers = resolve(&["--yes", "--tenant", "stranger"]);
    for (arguments, outcomes) in [
        (strangers, json!({})),
        (
            resolve(&["--yes", "--tenant", TENANT]),
            json!({"dropped": left}),
        ),
        (resolve(&["--yes"]), json!({})),
    ] {
        let done = cluster.run(&arguments).await;
        let done: Value = serde_json::from_str(&done).expect("JSON");
        let expected = if left == 0 { json!({}) } else { outcomes };
        assert_eq!(done["outcomes"], expected, "{arguments:?}");
    }
}

/// A node is taken out while it is down, by somebody who goes on without what it has. Its disk comes back.
#[tokio::test]
async fn what_a_removed_node_still_has_is_taken_from_it_and_waits() {
    let cluster = Cluster::start().await;
    let group = place_async(&cluster, "last-write-wins").await;
    let (old, _) = cut_off(&cluster, &group, 1).await;
    let id = cluster.region(old).coordinator_id.to_string();
    let remove = ["node", "remove", &id, "--yes", "--wait"];
    cluster
        .run(&[&remove[..], &["--accept-quarantine-loss"]].concat())
        .await;
    cluster
        .run(&["cluster", "restart", "--no-wait", "--node", &id])
        .await;
    wait_until(SOON, "it has left its groups", || async {
        let log = cluster.coordinator_log(old);
        log.contains("this node has left all groups")
    })
    .await;
    wait_until(SOON, "it has handed over all it had", || async {
        let path = "/admin/replication/quarantine?limit=1";
        let asked = cluster.api(old, Method::GET, path);
        let answer = cluster.client.try_send(&asked).await;
        answer.is_ok_and(|a| a.json()["entries"] == json!([]))
    })
    .await;
    let mut kept = Vec::new();
    for other in (0..3).filter(|i| *i != old) {
        kept.extend(entries(&cluster, other).await);
    }
    assert!(!kept.is_empty(), "it had what nobody else has");
    for entry in &kept {
        assert_eq!(entry["waiting"], "removed-node", "{entry}");
    }
    // It could not know what of it the others have committed: all but the last may be.
    let index = |entry: &Value| {
        let id = entry["id"].as_str().unwrap_or_default();
        id.rsplit('-').next().and_then(|i| i.parse::<u64>().ok())
    };
    let last = kept.iter().max_by_key(|entry| index(entry));
    let last = last.and_then(|entry| entry["id"].as_str()).expect("an id");
    let applied = cluster
        .maiactl(&["quarantine", "resolve", last, "apply", "--yes"])
        .await;
    let said = String::from_utf8_lossy(&applied.stdout).into_owned();
    assert!(said.contains("won"), "the operator decides: {said}");
}
