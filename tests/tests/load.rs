//! Loading many tenants: all are there exactly once, whatever dies meanwhile; a load may be
//! repeated, and says which lines were not carried out.

use std::io::Write;
use std::path::PathBuf;

use maia_tests::cluster::SOON;
use maia_tests::{Cluster, wait_until, wait_value};
use reqwest::Method;
use serde_json::{Value, json};

/// One line for each tenant: homes in turn, every other with a replica.
fn write_file(cluster: &Cluster, name: &str, tenants: impl Iterator<Item = usize>) -> PathBuf {
    let path = cluster.dir().join(name);
    let mut text = String::new();
    for n in tenants {
        let region = |i: usize| cluster.region(i % 3).name.clone();
        let replicas = if n % 2 == 0 {
            vec![region(n + 1)]
        } else {
            vec![]
        };
        let line = json!({
            "tenant": format!("t-{n:06}"), "primary_region": region(n), "replicas": replicas,
        });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    let mut file = std::fs::File::create(&path).expect("the cluster's folder takes files");
    file.write_all(text.as_bytes()).expect("the disk has room");
    path
}

/// `maiactl tenant load`: whether it exited with 0, its summary, its complaints.
async fn load(cluster: &Cluster, file: &str) -> (bool, Value, String) {
    let output = cluster
        .maiactl(&["tenant", "load", file, "--output", "json"])
        .await;
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    let summary = serde_json::from_slice(&output.stdout);
    let summary = summary.unwrap_or_else(|error| panic!("{error}: {complaints}"));
    (output.status.success(), summary, complaints)
}

/// Every tenant that coordinator `at` knows, with its version.
async fn list(cluster: &Cluster, at: usize) -> Vec<(String, u64)> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let path = match after.as_str() {
            "" => "/v1/placements?limit=1000".to_owned(),
            after => format!("/v1/placements?limit=1000&after={after}"),
        };
        let page = cluster.api_get(at, &path).await;
        for row in page["placements"].as_array().into_iter().flatten() {
            let name = row["tenant"].as_str().unwrap_or_default().to_owned();
            all.push((name, row["version"].as_u64().unwrap_or_default()));
        }
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => return all,
        }
    }
}

/// The region whose coordinator leads group 0, as one says that leads.
async fn metastore_leader(cluster: &Cluster) -> usize {
    wait_value(SOON, "the metastore has a leader", || async {
        for i in 0..3 {
            let request = cluster.api(i, Method::GET, "/admin/replication/election");
            let Ok(answer) = cluster.client.try_send(&request).await else {
                continue;
            };
            if answer.json()["state"] == "leader" {
                return Some(i);
            }
        }
        None
    })
    .await
}

fn counts(summary: &Value) -> [u64; 4] {
    ["created", "changed", "unchanged", "failed"].map(|c| summary[c].as_u64().unwrap_or(u64::MAX))
}

#[tokio::test]
async fn a_load_goes_on_over_killed_leaders_and_places_each_tenant_once() {
    const TENANTS: usize = 20_000;
    let cluster = Cluster::start().await;
    let file = write_file(&cluster, "all.ndjson", 0..TENANTS);
    let file = file.to_str().expect("a plain path");
    let some_are_there = |least: usize| {
        let cluster = &cluster;
        async move {
            let name = format!("/v1/placements/t-{least:06}?consistency=local");
            wait_until(SOON, "the load goes on", || async {
                let request = cluster.api(2, Method::GET, &name);
                let answer = cluster.client.try_send(&request).await;
                answer.is_ok_and(|answer| answer.status == 200)
            })
            .await;
        }
    };
    let kills = async {
        // Region 2 stays, so that it can be asked.
        for least in [500, 8000] {
            some_are_there(least).await;
            let leader = metastore_leader(&cluster).await;
            cluster.kill_coordinator(leader).await;
            cluster.restart_coordinator(leader).await;
        }
    };
    let ((well, summary, complaints), ()) = tokio::join!(load(&cluster, file), kills);
    assert!(well, "{summary} {complaints}");
    assert_eq!(counts(&summary), [TENANTS as u64, 0, 0, 0], "{summary}");
    for i in 0..3 {
        wait_until(SOON, "the coordinator has caught up", || async {
            let last = format!("/v1/placements/t-{:06}", TENANTS - 1);
            let request = cluster.api(i, Method::GET, &last);
            let answer = cluster.client.try_send(&request).await;
            answer.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        let listed = list(&cluster, i).await;
        let expected: Vec<_> = (0..TENANTS).map(|n| (format!("t-{n:06}"), 1)).collect();
        assert!(listed == expected, "region {i} lists {}", listed.len());
    }
    for i in 0..3 {
        wait_until(SOON, "the proxy knows them", || async {
            let table = cluster.proxy_metrics(i).await;
            table.sum("maia_proxy_table_tenants", &[]) as usize == TENANTS
        })
        .await;
    }
    let (well, summary, _) = load(&cluster, file).await;
    assert!(well, "{summary}");
    assert_eq!(counts(&summary), [0, 0, TENANTS as u64, 0], "{summary}");
}

#[tokio::test]
async fn a_malformed_line_stops_the_load_and_is_named() {
    let cluster = Cluster::start().await;
    let path = write_file(&cluster, "bad.ndjson", 0..2000);
    let text = std::fs::read_to_string(&path).expect("it was just written");
    let mut lines: Vec<&str> = text.lines().collect();
    lines[1500] = r#"{"tenant":"t-x","primary_region":"Nowhere At All"}"#;
    std::fs::write(&path, lines.join("\n")).expect("the disk has room");
    let (well, summary, complaints) = load(&cluster, path.to_str().expect("a plain path")).await;
    assert!(!well, "{summary}");
    assert!(complaints.contains("line 1501"), "{complaints}");
    assert_eq!(counts(&summary), [1000, 0, 0, 0], "{summary}");
    assert_eq!(summary["loaded_through_line"], 1000, "{summary}");
    assert_eq!(list(&cluster, 0).await.len(), 1000);

    let good = write_file(&cluster, "good.ndjson", 0..2000);
    let (well, summary, _) = load(&cluster, good.to_str().expect("a plain path")).await;
    assert!(well, "{summary}");
    assert_eq!(counts(&summary), [1000, 0, 1000, 0], "{summary}");
}

#[tokio::test]
async fn what_can_not_be_is_reported_and_stops_no_other() {
    let cluster = Cluster::start().await;
    let (a, b) = (&cluster.region(0).name, &cluster.region(1).name);
    cluster.place("settled", 0, &[]).await;
    cluster.place("gone", 0, &[]).await;
    cluster.run(&["tenant", "remove", "gone", "--yes"]).await;
    let lines = [
        json!({"tenant": "new", "primary_region": a}),
        json!({"tenant": "settled", "primary_region": b}),
        json!({"tenant": "lost", "primary_region": "atlantis"}),
        json!({"tenant": "gone", "primary_region": a}),
    ];
    let body = lines.each_ref().map(ToString::to_string).join("\n");
    let post = |key: &str, body: &str| {
        let request = cluster.api(1, Method::POST, "/v1/placements").body(body);
        cluster
            .client
            .clone()
            .send_owned(request.header("idempotency-key", key))
    };
    let answer = post("one", &body).await.expect_success("load").json();
    assert_eq!(
        (&answer["created"], &answer["unchanged"]),
        (&json!(2), &json!(0))
    );
    let failed: Vec<_> = answer["failed"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|f| (f["line"].as_u64(), f["code"].as_str().unwrap_or_default()))
        .collect();
    let conflict = "placement_conflict";
    assert_eq!(
        failed,
        [(Some(2), conflict), (Some(3), conflict)],
        "{answer}"
    );
    let gone = cluster.api_get(0, "/v1/placements/gone").await;
    assert_eq!(gone["version"], 3, "versions never go back: {gone}");

    let again = post("one", &body).await.expect_success("repeated").json();
    assert_eq!(again["created"], 2, "what the first did: {again}");
    assert_eq!(again["revision"], answer["revision"]);
    let other = format!("{}\n", lines[0]);
    post("one", &other)
        .await
        .expect_problem(409, "idempotency_conflict");
    let unchanged = post("two", &other).await.expect_success("two").json();
    assert_eq!(unchanged["unchanged"], 1, "{unchanged}");

    let bad = format!("{}\n{{}}\n", lines[0]);
    let answer = post("three", &bad).await;
    answer.expect_problem(400, "invalid_request");
    assert!(answer.text().contains("line 2"), "{}", answer.text());
    let many = (0..1001).map(|n| json!({"tenant": format!("m{n}"), "primary_region": a}));
    let many: Vec<String> = many.map(|line| line.to_string()).collect();
    let many = many.join("\n");
    post("four", &many)
        .await
        .expect_problem(413, "body_too_large");
    let large = " ".repeat((1 << 20) + 1);
    post("five", &large)
        .await
        .expect_problem(413, "body_too_large");
}
