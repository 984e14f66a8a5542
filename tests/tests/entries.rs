//! Committed entries for those who keep a store of their own: pages, streams, appends.

use std::time::Duration;

use maia_tests::client::{Answer, Request};
use maia_tests::cluster::SOON;
use maia_tests::{Cluster, Events, wait_value};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};

const ENTRIES: &str = "/v1/replication/entries";

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.place("acme", 0, &[1, 2]).await;
    cluster
}

fn change(operation: &str, id: &str, data: Value) -> Value {
    let mut append = json!({
        "tenant_id": "acme", "operation": operation, "resource_type": "notes", "resource_id": id,
    });
    if !data.is_null() {
        append["data"] = data;
    }
    append
}

async fn append(cluster: &Cluster, at: usize, key: Option<&str>, body: &Value) -> Answer {
    let mut request = cluster.api(at, Method::POST, ENTRIES).json(body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    cluster.client.send(&request).await
}

/// All entries of the tenant after a position, page by page.
async fn all(cluster: &Cluster, at: usize, tenant: &str, after: Option<&str>) -> Vec<Value> {
    let (mut found, mut after) = (Vec::new(), after.map(str::to_owned));
    loop {
        let from = after.map_or(String::new(), |at| format!("&after={at}"));
        let path = format!("{ENTRIES}?tenant={tenant}&limit=3{from}");
        let page = cluster.api_get(at, &path).await;
        found.extend(page["entries"].as_array().expect("entries").iter().cloned());
        after = page["next"].as_str().map(str::to_owned);
        if page["more"] == false {
            return found;
        }
    }
}

/// Where the log is; asked at every node that is up, since the others may still be behind the leader.
async fn position(cluster: &Cluster, at: usize, tenant: &str) -> String {
    let path = format!("/v1/replication/position?tenant={tenant}");
    let index = |at: &str| at.rsplit('/').next().and_then(|i| i.parse::<u64>().ok());
    let mut newest = String::new();
    for i in (at..at + 3).map(|i| i % 3) {
        let answer = cluster.api_get(i, &path).await;
        let position = answer["positions"][0]["position"].as_str();
        let position = position.expect("something is applied");
        if index(position) > index(&newest) {
            position.clone_into(&mut newest);
        }
    }
    newest
}

fn stream(cluster: &Cluster, at: usize, tenant: &str, after: &str) -> Request {
    let path = format!("/v1/replication/stream?tenant={tenant}&after={after}");
    cluster.api(at, Method::GET, &path)
}

#[tokio::test]
async fn what_was_appended_is_read_in_order_on_every_node() {
    let cluster = cluster().await;
    let start = position(&cluster, 0, "acme").await;
    let first = append(&cluster, 1, None, &change("create", "1", json!({"n": 1}))).await;
    let first = first.expect_success("append").json();
    let both = json!([
        change("update", "2", json!({"n": 2})),
        change("update", "3", json!([3]))
    ]);
    let second = append(&cluster, 2, None, &both)
        .await
        .expect_success("two")
        .json();
    assert_eq!(second["created"], json!([true, true]));
    // Refused, so no entry: one of the two can't be created.
    let refused = json!([
        change("update", "4", json!(4)),
        change("create", "1", json!(0))
    ]);
    append(&cluster, 0, None, &refused)
        .await
        .expect_problem(412, "precondition_failed");
    let patch = cluster
        .through(0, "acme", Method::PATCH, "/v1/data/notes/1")
        .json(&json!({"m": 2}));
    cluster.client.send(&patch).await.expect_success("patch");
    let mut delete = change("delete", "2", Value::Null);
    delete["if_version"] = second["etag"].clone();
    append(&cluster, 0, None, &delete)
        .await
        .expect_success("delete");

    for i in 0..3 {
        let found = wait_value(SOON, "every node has the entries", || async {
            let found = all(&cluster, i, "acme", Some(&start)).await;
            (found.len() == 4).then_some(found)
        })
        .await;
        let shown: Vec<&Value> = found.iter().map(|entry| &entry["operations"]).collect();
        assert_eq!(found[0]["position"], first["position"]);
        assert_eq!(found[1]["position"], second["position"]);
        assert_eq!(shown[0][0]["etag"], first["etag"]);
        assert_eq!(shown[1][1]["data"], json!([3]));
        assert_eq!(
            shown[2][0]["data"],
            json!({"n": 1, "m": 2}),
            "a patch shows the whole"
        );
        assert_eq!(shown[3][0]["operation"], "delete");
        let indexes: Vec<u64> = found.iter().filter_map(|e| e["index"].as_u64()).collect();
        assert!(indexes.is_sorted(), "{indexes:?}");
        assert!(
            found
                .iter()
                .all(|e| e["tenant_id"] == "acme" && e["origin_region"].is_string())
        );
    }
}

#[tokio::test]
async fn a_repeated_append_takes_effect_once() {
    let cluster = cluster().await;
    let start = position(&cluster, 0, "acme").await;
    let body = json!([
        change("create", "1", json!(1)),
        change("create", "2", json!(2))
    ]);
    let first = append(&cluster, 0, Some("k"), &body)
        .await
        .expect_success("first")
        .json();
    let again = append(&cluster, 1, Some("k"), &body)
        .await
        .expect_success("again")
        .json();
    assert_eq!(
        (&first["replayed"], &again["replayed"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(first["position"], again["position"]);
    let other = append(&cluster, 0, Some("k"), &change("update", "1", json!(3))).await;
    other.expect_problem(409, "idempotency_conflict");
    assert_eq!(all(&cluster, 0, "acme", Some(&start)).await.len(), 1);
}

#[tokio::test]
async fn a_position_that_is_not_of_the_history_is_refused() {
    let cluster = cluster().await;
    append(&cluster, 0, None, &change("update", "1", json!(1)))
        .await
        .expect_success("append");
    let here = position(&cluster, 0, "acme").await;
    let parts: Vec<u64> = here
        .split('/')
        .map(|part| part.parse().expect("a number"))
        .collect();
    let ask = |after: String| {
        let path = format!("{ENTRIES}?tenant=acme&after={after}");
        let request = cluster.api(0, Method::GET, &path);
        let client = cluster.client.clone();
        async move { client.send(&request).await }
    };
    let (group, term, index) = (parts[0], parts[1], parts[2]);
    let elsewhere = ask(format!("{}/{term}/{index}", group + 1)).await;
    elsewhere.expect_problem(409, "diverged_history");
    let never = ask(format!("{group}/{}/{index}", term + 7)).await;
    never.expect_problem(409, "diverged_history");
    let later = ask(format!("{group}/{term}/{}", index + 1000)).await;
    later.expect_problem(503, "not_yet");
    for malformed in ["1/2", ""] {
        let refused = ask(malformed.to_owned()).await;
        refused.expect_problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_node_without_the_data_passes_on_and_keeps_nothing() {
    let cluster = Cluster::start().await;
    cluster.place("acme", 0, &[]).await;
    let start = position(&cluster, 1, "acme").await;
    let secret = "a-payload-that-must-not-travel-to-disks";
    append(&cluster, 1, None, &change("update", "1", json!(secret)))
        .await
        .expect_success("append");
    assert_eq!(all(&cluster, 1, "acme", Some(&start)).await.len(), 1);
    let opened = Events::open(&stream(&cluster, 2, "acme", &start)).await;
    let entry = opened.expect("a stream").next_of("entry").await.json();
    assert_eq!(entry["operations"][0]["data"], secret);
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_and_says_where_it_is() {
    let cluster = cluster().await;
    let start = position(&cluster, 1, "acme").await;
    let mut events = Events::open(&stream(&cluster, 1, "acme", &start))
        .await
        .expect("a stream");
    for n in 0..5 {
        let body = change("update", &n.to_string(), json!(n));
        append(&cluster, 0, None, &body)
            .await
            .expect_success("append");
    }
    let mut last = String::new();
    for n in 0..3 {
        let event = events.next_of("entry").await;
        assert_eq!(event.json()["operations"][0]["data"], json!(n));
        assert_eq!(event.json()["position"], event.id.as_str());
        last = event.id;
    }
    drop(events);
    // At another node, by what browsers send.
    let request = stream(&cluster, 2, "acme", &start).header("last-event-id", &last);
    let mut events = Events::open(&request).await.expect("a stream");
    for n in 3..5 {
        let event = events.next_of("entry").await;
        assert_eq!(
            event.json()["operations"][0]["data"],
            json!(n),
            "no entry twice, none missing"
        );
    }
    // Others' entries move the position on.
    cluster.place("other", 0, &[1, 2]).await;
    let reached = position(&cluster, 2, "other").await;
    let index = |at: &str| at.rsplit('/').next().and_then(|i| i.parse::<u64>().ok());
    loop {
        let event = events.next_of("position").await;
        if index(&event.id) >= index(&reached) {
            break;
        }
    }
}

#[tokio::test]
async fn a_stream_ends_with_a_word_when_its_node_stops() {
    let cluster = cluster().await;
    let start = position(&cluster, 1, "acme").await;
    let mut events = Events::open(&stream(&cluster, 1, "acme", &start))
        .await
        .expect("a stream");
    let pid = Pid::from_raw(cluster.region(1).coordinator_pid);
    kill(pid, Signal::SIGTERM).expect("the coordinator runs");
    let end = tokio::time::timeout(SOON, events.next_of("end"))
        .await
        .expect("it ends soon");
    assert_eq!(end.json()["reason"], "stopping");
    assert_eq!(events.next().await, None);
}

/// What is written exceeds what sockets take by far.
#[tokio::test]
async fn a_slow_reader_is_ended_and_resumes_without_a_gap() {
    const WRITES: usize = 120;
    let cluster = cluster().await;
    let start = position(&cluster, 1, "acme").await;
    let mut events = Events::open(&stream(&cluster, 1, "acme", &start))
        .await
        .expect("a stream");
    let large = "x".repeat(200_000);
    for n in 0..WRITES {
        let body = change("update", &n.to_string(), json!({"n": n, "large": large}));
        append(&cluster, 0, None, &body)
            .await
            .expect_success("append");
    }
    wait_value(
        Duration::from_secs(40),
        "the reader is given up",
        || async {
            let metrics = cluster
                .client
                .send(&cluster.api(1, Method::GET, "/metrics"))
                .await;
            let line = "maia_replication_streams_ended_total{reason=\"slow_reader\"} 1";
            metrics.text().contains(line).then_some(())
        },
    )
    .await;
    let places = async || {
        let metrics = cluster
            .client
            .send(&cluster.api(1, Method::GET, "/metrics"))
            .await
            .text();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("maia_replication_streams "));
        line.and_then(|count| count.parse::<f64>().ok())
    };
    assert_eq!(
        places().await,
        Some(1.0),
        "its connection still has its place"
    );
    let (mut seen, mut last) = (0, start);
    while let Some(event) = events.next().await {
        match event.name.as_str() {
            "entry" => {
                assert_eq!(event.json()["operations"][0]["data"]["n"], json!(seen));
                (seen, last) = (seen + 1, event.id);
            }
            "end" => assert_eq!(event.json()["reason"], "slow_reader"),
            _ => {}
        }
    }
    assert!(seen < WRITES, "it was not slow");
    drop(events);
    wait_value(SOON, "its place is free", || async {
        (places().await == Some(0.0)).then_some(())
    })
    .await;
    let mut events = Events::open(&stream(&cluster, 1, "acme", &last))
        .await
        .expect("a stream");
    for n in seen..WRITES {
        let event = events.next_of("entry").await;
        assert_eq!(event.json()["operations"][0]["data"]["n"], json!(n));
    }
}

#[tokio::test]
async fn nobody_reads_without_a_token() {
    let cluster = cluster().await;
    let direct = format!("{}{ENTRIES}?tenant=acme", cluster.region(0).api_url);
    let through = format!("{}{ENTRIES}?tenant=acme", cluster.region(0).proxy_url);
    for url in [direct, through] {
        let request = Request::new(Method::GET, url).header("x-maia-tenant-id", "acme");
        cluster
            .client
            .send(&request)
            .await
            .expect_problem(401, "unauthenticated");
    }
}

/// As a member would: no more than asked for, nor than one message holds, and nothing between two pages.
#[tokio::test]
async fn pages_of_another_node_are_bounded_and_have_no_gap() {
    let cluster = Cluster::start().await;
    cluster.place("acme", 0, &[]).await;
    let start = position(&cluster, 1, "acme").await;
    let large = "x".repeat(150_000);
    for n in 0..12 {
        let data = if n < 6 { json!(n) } else { json!(large) };
        append(&cluster, 1, None, &change("update", &n.to_string(), data))
            .await
            .expect_success("append");
    }
    let (mut after, mut pages, mut found) = (start, Vec::new(), Vec::new());
    loop {
        let path = format!("{ENTRIES}?tenant=acme&limit=4&after={after}");
        let (near, far) = (
            cluster.api_get(0, &path).await,
            cluster.api_get(1, &path).await,
        );
        assert_eq!(near, far, "after {after}");
        let entries = far["entries"].as_array().expect("entries").clone();
        assert!(far.to_string().len() < 600_000, "a page of large entries");
        pages.push(entries.len());
        found.extend(entries);
        if far["more"] == false {
            break;
        }
        far["next"]
            .as_str()
            .expect("more has a next")
            .clone_into(&mut after);
    }
    assert!(pages.iter().all(|page| *page <= 4), "{pages:?}");
    assert!(pages.iter().any(|page| (1..4).contains(page)), "{pages:?}");
    let ids = found
        .iter()
        .map(|e| e["operations"][0]["resource_id"].to_string());
    let expected = (0..12).map(|n| format!("\"{n}\""));
    assert_eq!(ids.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    let most = format!("{ENTRIES}?tenant=acme&limit=1001");
    let refused = [0, 1].map(|at| cluster.api(at, Method::GET, &most));
    for request in refused {
        let answer = cluster.client.send(&request).await;
        answer.expect_problem(400, "invalid_request");
    }
}

/// Its neighbours write much: each page says how far it looked, and the reader gets on.
#[tokio::test]
async fn a_page_ends_before_all_of_a_long_log_was_read() {
    let cluster = cluster().await;
    cluster.place("loud", 0, &[1, 2]).await;
    append(&cluster, 0, None, &change("update", "1", json!(1)))
        .await
        .expect_success("append");
    let start = position(&cluster, 0, "acme").await;
    let large = json!("x".repeat(500_000));
    for n in 0..12 {
        let mut body = change("update", &n.to_string(), large.clone());
        body["tenant_id"] = json!("loud");
        append(&cluster, 0, None, &body)
            .await
            .expect_success("loud");
    }
    append(&cluster, 0, None, &change("update", "2", json!(2)))
        .await
        .expect_success("append");
    let path = format!("{ENTRIES}?tenant=acme&after={start}");
    let page = cluster.api_get(0, &path).await;
    assert_eq!(
        (&page["entries"], &page["more"]),
        (&json!([]), &json!(true))
    );
    let found = all(&cluster, 0, "acme", Some(&start)).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["operations"][0]["data"], json!(2));
}

#[tokio::test]
async fn the_last_entry_of_a_deleted_tenant_is_its_purge() {
    let cluster = cluster().await;
    let start = position(&cluster, 0, "acme").await;
    append(&cluster, 0, None, &change("update", "1", json!(1)))
        .await
        .expect_success("append");
    let streams = [0, 1].map(|i| stream(&cluster, i, "acme", &start));
    let mut events = Events::open(&streams[1]).await.expect("a stream");
    cluster.run(&["tenant", "remove", "acme", "--yes"]).await;

    assert_eq!(events.next_of("entry").await.json()["kind"], "data");
    let purge = events.next_of("entry").await;
    assert_eq!(purge.json()["kind"], "purge", "{}", purge.data);
    let end = events.next_of("end").await;
    assert_eq!(end.json()["reason"], "unknown_tenant");
    // As well for who comes later.
    let mut late = Events::open(&streams[0]).await.expect("a stream");
    late.next_of("entry").await;
    assert_eq!(late.next_of("entry").await.id, purge.id);
    let path = format!("{ENTRIES}?tenant=acme&after={}", purge.id);
    let gone = cluster
        .client
        .send(&cluster.api(0, Method::GET, &path))
        .await;
    gone.expect_problem(404, "unknown_tenant");
}

#[tokio::test]
async fn a_member_that_hangs_is_passed_over() {
    let cluster = Cluster::start().await;
    cluster.place("acme", 0, &[1]).await;
    let start = position(&cluster, 2, "acme").await;
    append(&cluster, 0, None, &change("update", "1", json!(1)))
        .await
        .expect_success("append");
    wait_value(SOON, "the other member has it", || async {
        (all(&cluster, 1, "acme", Some(&start)).await.len() == 1).then_some(())
    })
    .await;
    let pid = Pid::from_raw(cluster.region(0).coordinator_pid);
    kill(pid, Signal::SIGSTOP).expect("the coordinator runs");
    let found = all(&cluster, 2, "acme", Some(&start)).await;
    kill(pid, Signal::SIGCONT).expect("the coordinator runs");
    assert_eq!(found.len(), 1);
}
