//! The built-in origin: resources, conditions, idempotency.

use maia_tests::cluster::SOON;
use maia_tests::{Cluster, wait_value};
use reqwest::Method;
use serde_json::json;

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.place("acme", 0, &[1, 2]).await;
    cluster
}

const PATH: &str = "/v1/data/notes/1";

#[tokio::test]
async fn a_resource_is_written_read_changed_and_deleted() {
    let cluster = cluster().await;
    let put = cluster
        .through(0, "acme", Method::PUT, PATH)
        .json(&json!({"a": 1, "b": 2}));
    let created = cluster.client.send(&put).await.expect_success("put");
    let first = created.header("etag").expect("an ETag").to_owned();
    let read = cluster.through(0, "acme", Method::GET, PATH);
    let answer = cluster.client.send(&read).await.expect_success("get");
    assert_eq!(answer.json(), json!({"a": 1, "b": 2}));
    assert_eq!(answer.header("etag"), Some(first.as_str()));

    let patch = cluster
        .through(0, "acme", Method::PATCH, PATH)
        .json(&json!({"b": null, "c": 3}));
    let patched = cluster.client.send(&patch).await.expect_success("patch");
    assert_ne!(patched.header("etag"), Some(first.as_str()));
    let answer = cluster.client.send(&read).await.expect_success("get");
    assert_eq!(
        answer.json(),
        json!({"a": 1, "c": 3}),
        "a merge patch (RFC 7396)"
    );

    let delete = cluster.through(0, "acme", Method::DELETE, PATH);
    cluster.client.send(&delete).await.expect_success("delete");
    cluster
        .client
        .send(&read)
        .await
        .expect_problem(404, "not_found");
    // Bytes that are no JSON are kept as they are.
    let bytes: Vec<u8> = (0..=255).collect();
    let put = cluster
        .through(0, "acme", Method::PUT, "/v1/data/blobs/b")
        .body(bytes.clone());
    let put = put.header("content-type", "application/octet-stream");
    cluster
        .client
        .send(&put)
        .await
        .expect_success("put of bytes");
    for i in 0..3 {
        wait_value(SOON, "every copy has the bytes", || async {
            let read = cluster.through(i, "acme", Method::GET, "/v1/data/blobs/b");
            (cluster.client.send(&read).await.body == bytes).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn conditions_are_decided_by_the_last_write() {
    let cluster = cluster().await;
    let put = cluster.through(0, "acme", Method::PUT, PATH);
    let create = put.clone().header("if-none-match", "*").body("1");
    let first = cluster.client.send(&create).await.expect_success("created");
    let etag = first.header("etag").expect("an ETag").to_owned();
    cluster
        .client
        .send(&create)
        .await
        .expect_problem(412, "precondition_failed");

    let change = put.clone().header("if-match", &etag).body("2");
    cluster
        .client
        .send(&change)
        .await
        .expect_success("the version matches");
    cluster
        .client
        .send(&change)
        .await
        .expect_problem(412, "precondition_failed");
    let delete = cluster
        .through(0, "acme", Method::DELETE, PATH)
        .header("if-match", &etag);
    cluster
        .client
        .send(&delete)
        .await
        .expect_problem(412, "precondition_failed");
    let read = cluster.through(0, "acme", Method::GET, PATH);
    assert_eq!(cluster.client.send(&read).await.body, b"2");
}

#[tokio::test]
async fn of_many_concurrent_changes_of_one_version_one_wins() {
    let cluster = cluster().await;
    let put = cluster.through(0, "acme", Method::PUT, PATH);
    let created = cluster
        .client
        .send(&put.clone().body("0"))
        .await
        .expect_success("created");
    let etag = created.header("etag").expect("an ETag").to_owned();
    let changes = (0..20).map(|n| {
        let change = put.clone().header("if-match", &etag).body(n.to_string());
        let client = cluster.client.clone();
        async move { client.send(&change).await.status }
    });
    let statuses = futures::future::join_all(changes).await;
    let won = statuses
        .iter()
        .filter(|status| (200..300).contains(*status))
        .count();
    let lost = statuses.iter().filter(|status| **status == 412).count();
    assert_eq!((won, lost), (1, 19), "{statuses:?}");
}

#[tokio::test]
async fn a_repeated_key_is_the_same_write() {
    let cluster = cluster().await;
    let keyed = |body: &str| {
        cluster
            .through(0, "acme", Method::PUT, PATH)
            .header("idempotency-key", "once")
            .body(body)
    };
    let first = cluster
        .client
        .send(&keyed("1"))
        .await
        .expect_success("first");
    // Another write in between: the retry must not undo it.
    let other = cluster.through(0, "acme", Method::PUT, PATH).body("2");
    cluster.client.send(&other).await.expect_success("other");
    let again = cluster
        .client
        .send(&keyed("1"))
        .await
        .expect_success("again");
    assert_eq!(
        (again.status, again.header("etag")),
        (first.status, first.header("etag"))
    );
    let read = cluster.through(0, "acme", Method::GET, PATH);
    assert_eq!(cluster.client.send(&read).await.body, b"2");
    cluster
        .client
        .send(&keyed("3"))
        .await
        .expect_problem(409, "idempotency_conflict");
    // A tenant's keys are its own.
    cluster.place("other", 0, &[1, 2]).await;
    let foreign = cluster
        .through(0, "other", Method::PUT, PATH)
        .header("idempotency-key", "once")
        .body("9");
    cluster
        .client
        .send(&foreign)
        .await
        .expect_success("another tenant's key");
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let cluster = cluster().await;
    cluster.place("other", 0, &[1, 2]).await;
    let put = cluster.through(0, "acme", Method::PUT, PATH).body("mine");
    cluster.client.send(&put).await.expect_success("put");
    let read = cluster.through(0, "other", Method::GET, PATH);
    cluster
        .client
        .send(&read)
        .await
        .expect_problem(404, "not_found");
    let list = cluster.through(0, "other", Method::GET, "/v1/data/notes");
    let listed = cluster.client.send(&list).await.expect_success("list");
    assert!(!listed.text().contains("mine"), "{}", listed.text());
}

#[tokio::test]
async fn illegal_names_are_refused() {
    let cluster = cluster().await;
    let long = format!("/v1/data/notes/{}", "x".repeat(257));
    for path in [
        "/v1/data/no%20tes/1",
        "/v1/data/.notes/1",
        "/v1/data/notes/%00",
        long.as_str(),
    ] {
        let put = cluster.through(0, "acme", Method::PUT, path).body("1");
        let answer = cluster.client.send(&put).await;
        answer.expect_problem(400, "invalid_request");
    }
}
