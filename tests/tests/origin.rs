//! The example origin (tests/origin/origin.py) keeps a store of its own by the stream, whatever is
//! killed, and starts anew when the log no longer has what it lacks.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use maia_tests::cluster::SOON;
use maia_tests::{Cluster, Options, wait_value};
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

const TYPES: [&str; 2] = ["notes", "docs"];

fn python() -> Command {
    let script = maia_tests::folder().join("origin/origin.py");
    let mut command = Command::new("python3");
    command.arg(script).stdin(Stdio::null());
    command
}

/// The origin's process, and its store.
struct Origin {
    store: PathBuf,
    child: Child,
}

fn start(cluster: &Cluster, store: PathBuf) -> Origin {
    let urls = [1, 2].map(|i| cluster.region(i).api_url.clone());
    start_at(&urls, &cluster.files_now().admin_token, store)
}

fn start_at(urls: &[String], token: &str, store: PathBuf) -> Origin {
    let log = std::fs::OpenOptions::new();
    let log = log
        .clone()
        .create(true)
        .append(true)
        .open(store.with_extension("log"));
    let child = python()
        .arg("follow")
        .args(urls.iter().flat_map(|url| ["--api", url]))
        .args(["--token", token])
        .args(["--tenant", "acme", "--types", &TYPES.join(",")])
        .arg("--store")
        .arg(&store)
        .stderr(log.expect("a log"))
        .kill_on_drop(true)
        .spawn()
        .expect("python3 starts");
    Origin { store, child }
}

impl Origin {
    /// kill -9; what is left is its store.
    async fn kill(mut self) -> PathBuf {
        self.child.kill().await.expect("it runs");
        self.store
    }

    async fn holds(&self) -> Value {
        let output = python()
            .arg("dump")
            .arg("--store")
            .arg(&self.store)
            .output()
            .await;
        let output = output.expect("python3 starts");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.store.with_extension("log")).unwrap_or_default()
    }
}

/// The tenant's resources as the leader has them, in the form of the origin's dump.
async fn state(cluster: &Cluster) -> Value {
    let mut found = Map::new();
    for kind in TYPES {
        let path = format!("/v1/data/{kind}?limit=1000&consistency=strong");
        let list = cluster
            .api(0, Method::GET, &path)
            .header("x-maia-tenant-id", "acme");
        let list = cluster
            .client
            .send(&list)
            .await
            .expect_success("list")
            .json();
        assert_eq!(list["next"], Value::Null, "one page holds all");
        for item in list["items"].as_array().expect("items") {
            let id = item["id"].as_str().expect("an id");
            let content = match &item["data"] {
                Value::Null => json!({ "data_base64": item["data_base64"] }),
                data => json!({ "data": data }),
            };
            found.insert(format!("{kind}/{id}"), content);
        }
    }
    Value::Object(found)
}

/// Changes of all kinds; each is tried until it is accepted, or refused for good.
async fn write(cluster: &Cluster, from: u64, count: u64) {
    for n in from..from + count {
        let (kind, id) = (TYPES[usize::from(n % 3 == 0)], n % 40);
        let path = format!("/v1/data/{kind}/{id}");
        let request = |method| cluster.through(0, "acme", method, &path);
        let request = match n % 7 {
            0 => request(Method::DELETE),
            1 | 2 => request(Method::PATCH).json(&json!({ "patched": n })),
            3 => request(Method::PUT).body(vec![0, 159, 146, 150]),
            _ => request(Method::PUT).json(&json!({ "n": n, "nested": { "of": [n] } })),
        };
        let request = request.header("idempotency-key", format!("write-{n}"));
        wait_value(SOON, "the write is answered", || async {
            let answer = cluster.client.try_follow(&request).await.ok()?;
            (answer.status < 500).then_some(())
        })
        .await;
    }
}

async fn agrees(origin: &Origin, cluster: &Cluster) -> Value {
    let expected = state(cluster).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let holds = origin.holds().await;
        if holds == expected {
            return expected;
        }
        let late = tokio::time::Instant::now() > deadline;
        assert!(
            !late,
            "it holds {holds}, not {expected}; its log:\n{}",
            origin.log()
        );
    }
}

/// Writes until the followers' logs no longer have what follows where they are now.
async fn outrun(cluster: &Cluster) {
    let reached = cluster
        .api_get(2, "/v1/replication/position?tenant=acme")
        .await;
    let reached = reached["positions"][0]["position"]
        .as_str()
        .expect("a position")
        .to_owned();
    let after = format!("/v1/replication/entries?tenant=acme&after={reached}");
    let large = json!({ "large": "x".repeat(400_000) });
    wait_value(
        Duration::from_secs(60),
        "the log is kept short everywhere",
        || async {
            let put = cluster
                .through(0, "acme", Method::PUT, "/v1/data/docs/large")
                .json(&large);
            cluster.client.follow(&put).await.expect_success("put");
            for i in 1..3 {
                let old = cluster.api(i, Method::GET, &after);
                let answer = cluster.client.send(&old).await;
                if answer.status == 200 {
                    return None;
                }
                answer.expect_problem(410, "not_retained");
            }
            Some(())
        },
    )
    .await;
    let delete = cluster.through(0, "acme", Method::DELETE, "/v1/data/docs/large");
    cluster
        .client
        .follow(&delete)
        .await
        .expect_success("delete");
}

#[tokio::test]
async fn an_origin_keeps_its_store_by_the_stream() {
    let options = Options::default().set("replication.retention_bytes=1000000");
    let cluster = Cluster::start_with(options).await;
    cluster.place("acme", 0, &[1, 2]).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(&cluster, 0, 30).await;
    let mut origin = start(&cluster, folder.path().join("store.db"));
    agrees(&origin, &cluster).await;

    write(&cluster, 30, 60).await;
    origin = start(&cluster, origin.kill().await);
    write(&cluster, 90, 60).await;
    cluster.kill_coordinator(1).await;
    write(&cluster, 150, 60).await;
    origin = start(&cluster, origin.kill().await);
    write(&cluster, 210, 30).await;
    cluster.restart_coordinator(1).await;
    write(&cluster, 240, 60).await;
    let held = agrees(&origin, &cluster).await;
    assert!(
        held.as_object().is_some_and(|held| held.len() > 20),
        "{held}"
    );
    assert_eq!(
        origin.log().matches("read the whole state").count(),
        1,
        "{}",
        origin.log()
    );

    // Away while the log moves on past what it keeps.
    let store = origin.kill().await;
    outrun(&cluster).await;
    origin = start(&cluster, store);
    write(&cluster, 300, 60).await;
    agrees(&origin, &cluster).await;
    let log = origin.log();
    assert_eq!(log.matches("read the whole state").count(), 2, "{log}");
    let metrics = cluster
        .client
        .send(&cluster.api(1, Method::GET, "/metrics"))
        .await
        .text();
    assert!(
        metrics.contains("maia_wal_retention_bytes 1000000"),
        "{metrics}"
    );
}

/// Answers as a coordinator that dies in the middle of a stream's chunk, each time; returns after two streams.
async fn break_off(listener: tokio::net::TcpListener) {
    let mut streams = 0;
    while streams < 2 {
        let (mut connection, _) = listener.accept().await.expect("a connection");
        let mut request = vec![0; 4096];
        let read = connection.read(&mut request).await.expect("a request");
        let request = String::from_utf8_lossy(&request[..read]).into_owned();
        let answer = if request.contains("/stream?") {
            streams += 1;
            "Transfer-Encoding: chunked\r\n\r\n100\r\nretry: 1000\n\n".to_owned()
        } else {
            let body = json!({ "positions": [{ "position": "1/1/1" }], "items": [], "next": null });
            let body = body.to_string();
            format!("Content-Length: {}\r\n\r\n{body}", body.len())
        };
        let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{answer}");
        connection
            .write_all(answer.as_bytes())
            .await
            .expect("an answer");
    }
}

#[tokio::test]
async fn an_origin_survives_a_stream_that_is_broken_off() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let origin = start_at(&[url], "token", folder.path().join("store.db"));
    let came_again = tokio::time::timeout(SOON, break_off(listener)).await;
    assert!(came_again.is_ok(), "its log:\n{}", origin.log());
}

#[tokio::test]
async fn an_origin_drops_what_a_deleted_tenant_had() {
    let cluster = Cluster::start().await;
    cluster.place("acme", 0, &[1, 2]).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(&cluster, 0, 10).await;
    let origin = start(&cluster, folder.path().join("store.db"));
    agrees(&origin, &cluster).await;
    cluster.run(&["tenant", "remove", "acme", "--yes"]).await;
    wait_value(SOON, "its store is empty", || async {
        (origin.holds().await == json!({})).then_some(())
    })
    .await;
}
