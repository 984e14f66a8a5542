//! Every request to the right place: what a client sees when it comes to the wrong region, when it
//! prefers one, and when its tenant is missing, illegal or unknown.

use maia_tests::{Cluster, wait_value};
use reqwest::Method;
use serde_json::json;

const NOTE: &str = r#"{"n":1}"#;

/// The tenant's primary is the second region, its only replica the first.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.place("acme", 1, &[0]).await;
    cluster
}

#[tokio::test]
async fn a_misrouted_write_is_redirected_exactly_and_stored() {
    let cluster = cluster().await;
    // Odd but legal bytes: they must come through untouched.
    let path = "/v1/data/notes/a%2Fb%20c?x=1&y=%zz&&z";
    let write = cluster.through(0, "acme", Method::PUT, path).body(NOTE);
    let answer = cluster.client.send(&write).await;
    assert_eq!(answer.status, 307, "{}", answer.text());
    let expected = format!("{}{path}", cluster.region(1).proxy_url);
    assert_eq!(answer.header("location"), Some(expected.as_str()));
    assert_eq!(
        answer.header("x-maia-redirect-reason"),
        Some("write-to-primary")
    );
    assert_eq!(
        answer.header("x-maia-primary-region"),
        Some(cluster.region(1).name.as_str())
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("content-length"), Some("0"));

    let path = "/v1/data/notes/followed";
    let write = cluster.through(0, "acme", Method::PUT, path).body(NOTE);
    let stored = cluster
        .client
        .follow(&write)
        .await
        .expect_success("followed");
    assert_eq!(stored.hops.len(), 1);
    assert_eq!(
        stored.header("x-maia-region"),
        Some(cluster.region(1).name.as_str())
    );
    let read = cluster.through(1, "acme", Method::GET, path);
    let answer = cluster
        .client
        .send(&read)
        .await
        .expect_success("read at the primary");
    assert_eq!(answer.body, NOTE.as_bytes());
}

#[tokio::test]
async fn every_writing_method_is_a_write_and_every_reading_one_a_read() {
    let cluster = cluster().await;
    let path = "/v1/data/notes/m";
    cluster
        .client
        .send(&cluster.through(1, "acme", Method::PUT, path).body(NOTE))
        .await;
    for method in [Method::PUT, Method::POST, Method::PATCH, Method::DELETE] {
        let request = cluster.through(0, "acme", method.clone(), path);
        let answer = cluster.client.send(&request).await;
        assert_eq!(answer.status, 307, "{method}: {}", answer.text());
    }
    for method in [Method::GET, Method::HEAD] {
        let request = cluster.through(0, "acme", method.clone(), path);
        wait_value(maia_tests::cluster::SOON, "the replica has it", || async {
            let answer = cluster.client.send(&request).await;
            assert_ne!(answer.status, 307, "{method}");
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn reads_are_local_where_there_is_a_copy_and_follow_the_preference() {
    let cluster = cluster().await;
    let path = "/v1/data/notes/r";
    let write = cluster.through(1, "acme", Method::PUT, path).body(NOTE);
    cluster.client.send(&write).await.expect_success("write");
    let (first, second) = (&cluster.region(0).name, &cluster.region(1).name);

    let local = cluster.through(0, "acme", Method::GET, path);
    let answer = wait_value(maia_tests::cluster::SOON, "the replica has it", || async {
        let answer = cluster.client.send(&local).await;
        answer.is_success().then_some(answer)
    })
    .await;
    assert_eq!(answer.header("x-maia-region"), Some(first.as_str()));

    let preferring = local.clone().header("x-maia-preferred-region", second);
    let answer = cluster.client.send(&preferring).await;
    assert_eq!(answer.status, 307, "{}", answer.text());
    assert_eq!(
        answer.header("x-maia-redirect-reason"),
        Some("preferred-region")
    );
    let answer = cluster
        .client
        .follow(&preferring)
        .await
        .expect_success("preferred");
    assert_eq!(answer.header("x-maia-region"), Some(second.as_str()));
    assert_eq!(answer.body, NOTE.as_bytes());

    // The third region has no copy: the read goes where there is one.
    let away = cluster.through(2, "acme", Method::GET, path);
    let answer = cluster.client.send(&away).await;
    assert_eq!(answer.status, 307);
    assert_eq!(
        answer.header("x-maia-redirect-reason"),
        Some("no-local-replica")
    );
    // A preference for a region that holds no copy, or that does not exist, changes nothing.
    for region in [
        cluster.region(2).name.as_str(),
        "atlantis-1",
        "NO REGION",
        "",
    ] {
        let request = local.clone().header("x-maia-preferred-region", region);
        let answer = cluster.client.send(&request).await;
        assert_eq!(answer.status, 200, "`{region}`: {}", answer.text());
        assert_eq!(
            answer.header("x-maia-region"),
            Some(first.as_str()),
            "`{region}`"
        );
    }
    // A preference never moves a write.
    let write = cluster.through(1, "acme", Method::PUT, path).body(NOTE);
    let answer = cluster
        .client
        .send(&write.header("x-maia-preferred-region", first))
        .await;
    answer
        .expect_success("a write at its primary")
        .header("etag")
        .expect("an ETag");
}

#[tokio::test]
async fn explain_says_where_and_why() {
    let cluster = cluster().await;
    let write = cluster
        .explain(0, "acme", "PUT", "/v1/data/notes/1", None)
        .await;
    let text = write.to_string();
    assert!(
        text.contains("redirect") && text.contains("write-to-primary"),
        "{text}"
    );
    assert!(text.contains(&cluster.region(1).name), "{text}");
    let read = cluster
        .explain(0, "acme", "GET", "/v1/data/notes/1", None)
        .await;
    assert!(read["decision"].to_string().contains("local"), "{read}");
    let preferred = Some(cluster.region(1).name.as_str());
    let read = cluster
        .explain(0, "acme", "GET", "/v1/data/notes/1", preferred)
        .await
        .to_string();
    assert!(read.contains("preferred-region"), "{read}");
    let unknown = cluster
        .explain(0, "nobody", "GET", "/v1/data/notes/1", None)
        .await
        .to_string();
    assert!(unknown.contains("unknown_tenant"), "{unknown}");
    let table = cluster.run(&["tenant", "explain", "acme"]).await;
    assert!(table.contains("write-to-primary"), "{table}");
}

#[tokio::test]
async fn a_tenant_that_is_missing_illegal_or_unknown_is_refused() {
    let cluster = cluster().await;
    let path = "/v1/data/notes/1";
    for method in [Method::GET, Method::PUT] {
        let url = format!("{}{path}", cluster.region(0).proxy_url);
        let bare = maia_tests::client::Request::new(method.clone(), url);
        cluster
            .client
            .send(&bare)
            .await
            .expect_problem(400, "tenant_required");
        for illegal in [
            "a b",
            ".a",
            "a/b",
            "a,b",
            "%61",
            &"a".repeat(129),
            &"a".repeat(4000),
        ] {
            let request = cluster.through(0, illegal, method.clone(), path);
            cluster
                .client
                .send(&request)
                .await
                .expect_problem(400, "invalid_tenant");
        }
        let request = cluster.through(0, "nobody", method.clone(), path);
        cluster
            .client
            .send(&request)
            .await
            .expect_problem(404, "unknown_tenant");
        // Two names are none.
        let twice = cluster
            .through(0, "acme", method, path)
            .header("x-maia-tenant-id", "other");
        let answer = cluster.client.send(&twice).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_client_can_not_set_what_only_proxies_may() {
    let cluster = cluster().await;
    let path = "/v1/data/notes/forged";
    let write = cluster
        .through(1, "acme", Method::PUT, path)
        .header("x-maia-placement-epoch", "999/999/999")
        .header("x-maia-hops", "3")
        .body(NOTE);
    cluster
        .client
        .send(&write)
        .await
        .expect_success("forged headers are dropped");
}

#[tokio::test]
async fn a_proxy_goes_to_another_coordinator_when_one_dies() {
    let cluster = cluster().await;
    cluster.kill_coordinator(0).await;
    // The proxy of the first region now follows another one: a change still reaches it.
    let spec = json!({"primary_region": cluster.region(1).name,
        "replicas": [cluster.region(0).name], "write_routing": "forward"});
    let placement = wait_value(
        maia_tests::cluster::SOON,
        "the placement changes",
        || async {
            let answer = cluster.put_placement(1, "acme", &spec).await;
            (answer.status != 503).then(|| answer.expect_success("placement").json())
        },
    )
    .await;
    cluster.in_force("acme", &placement["version"]).await;
}
