//! Regions and their states; what a PUT would do; requests that come twice.

use maia_tests::cluster::SOON;
use maia_tests::{Cluster, wait_until};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_drained_region_takes_no_new_tenants_and_hands_over_what_it_leads() {
    let cluster = Cluster::start().await;
    let placement = cluster.place("wide", 0, &[1, 2]).await;
    cluster.place("narrow", 0, &[]).await;
    let (a, b) = (&cluster.region(0).name, &cluster.region(1).name);
    cluster.run(&["region", "drain", a, "--yes"]).await;
    wait_until(SOON, "another region leads", || async {
        cluster.leader_of(&placement["group"]).await != 0
    })
    .await;
    // To whichever of the two has been well long enough; the group is young. By priority among those:
    // `core/homecoming.rs`.
    let new = json!({"primary_region": a});
    let refused = cluster.put_placement(1, "new", &new).await;
    refused.expect_problem(409, "placement_conflict");
    assert!(refused.text().contains("draining"), "{}", refused.text());
    let dry = dry_run(&cluster, "new", &json!({"primary_region": b})).await;
    assert_eq!(
        (&dry["would"], &dry["group"]),
        (&json!("created"), &Value::Null)
    );
    // Who is there already stays, and its properties may change.
    let spec = json!({"primary_region": a, "write_routing": "forward"});
    let changed = cluster.put_placement(1, "narrow", &spec).await;
    assert_eq!(changed.expect_success("changed").json()["version"], 2);
    cluster
        .run(&["region", "set", a, "--state", "active"])
        .await;
    let placed = cluster.put_placement(2, "new", &new).await;
    assert_eq!(placed.status, 201, "{}", placed.text());
    let events = cluster
        .api_get(0, "/admin/events?limit=1000")
        .await
        .to_string();
    assert!(
        events.contains("region_changed") && events.contains("draining"),
        "{events}"
    );
}

async fn dry_run(cluster: &Cluster, tenant: &str, spec: &Value) -> Value {
    let path = format!("/v1/placements/{tenant}?dry_run=true");
    let request = cluster.api(0, Method::PUT, &path).json(spec);
    let answer = cluster.client.send(&request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test]
async fn regions_are_added_and_changed_under_conditions() {
    let cluster = Cluster::start().await;
    let add = [
        "region",
        "add",
        "mars",
        "--public-url",
        "http://mars.example/",
        "--priority",
        "7",
    ];
    cluster.run(&add).await;
    assert!(!cluster.maiactl(&add).await.status.success(), "it exists");
    let get = cluster.api(2, Method::GET, "/admin/regions/mars");
    let answer = cluster.client.send(&get).await.expect_success("mars");
    let etag = answer.header("etag").expect("an ETag").to_owned();
    let mars = answer.json();
    assert_eq!(mars["public_url"], "http://mars.example");
    assert_eq!(
        (&mars["priority"], &mars["state"]),
        (&json!(7), &json!("active"))
    );
    let put = |body: Value| {
        cluster
            .api(1, Method::PUT, "/admin/regions/mars")
            .json(&body)
    };
    let body = json!({"public_url": "http://mars.example", "priority": 1});
    let changed = cluster
        .client
        .send(&put(body.clone()).header("if-match", &etag))
        .await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    let stale = cluster
        .client
        .send(&put(body.clone()).header("if-match", &etag))
        .await;
    stale.expect_problem(412, "precondition_failed");
    let bad = cluster
        .client
        .send(&put(json!({"public_url": "mars"})))
        .await;
    bad.expect_problem(400, "invalid_request");
    let missing = cluster.api(0, Method::GET, "/admin/regions/venus");
    cluster
        .client
        .send(&missing)
        .await
        .expect_problem(404, "not_found");
    // No node of it could hold data.
    let homeless = json!({"primary_region": "mars"});
    let refused = cluster.put_placement(0, "t", &homeless).await;
    refused.expect_problem(409, "placement_conflict");
    // Four are there: twelve more, and then no other.
    for n in 0..12 {
        let url = "http://r.example";
        cluster
            .run(&["region", "add", &format!("r{n}"), "--public-url", url])
            .await;
    }
    let full = cluster
        .maiactl(&["region", "add", "last", "--public-url", "http://x"])
        .await;
    assert!(!full.status.success());
    let said = String::from_utf8_lossy(&full.stderr);
    assert!(said.contains("16 regions"), "{said}");
}

#[tokio::test]
async fn a_dry_run_says_what_a_put_would_do_and_does_nothing() {
    let cluster = Cluster::start().await;
    let (a, b) = (&cluster.region(0).name, &cluster.region(1).name);
    let spec = json!({"primary_region": a, "replicas": [b]});
    let dry = dry_run(&cluster, "t", &spec).await;
    assert_eq!(
        (&dry["would"], &dry["group"]),
        (&json!("created"), &Value::Null)
    );
    assert_eq!(dry["placement"]["home_region"], **a);
    let get = cluster.api(0, Method::GET, "/v1/placements/t");
    cluster
        .client
        .send(&get)
        .await
        .expect_problem(404, "unknown_tenant");
    let placed = cluster.place("t", 0, &[1]).await;
    let dry = dry_run(&cluster, "t", &spec).await;
    assert_eq!(
        (&dry["would"], &dry["group"]),
        (&json!("unchanged"), &placed["group"])
    );
    let other = json!({"primary_region": a, "replicas": [b], "sync_mode": "sync"});
    let dry = dry_run(&cluster, "t", &other).await;
    assert_eq!(
        (&dry["would"], &dry["placement"]["version"]),
        (&json!("changed"), &json!(2))
    );
    let moved = cluster
        .api(0, Method::PUT, "/v1/placements/t?dry_run=true")
        .json(&json!({"primary_region": b}));
    let refused = cluster.client.send(&moved).await;
    refused.expect_problem(409, "placement_conflict");
    assert!(refused.text().contains("migrate"), "{}", refused.text());
    let of_b = cluster
        .api_get(0, &format!("/v1/placements?region={b}"))
        .await;
    assert_eq!(of_b["placements"], json!([]), "{of_b}");
    let group = &placed["group"];
    let of_group = cluster
        .api_get(0, &format!("/v1/placements?group={group}"))
        .await;
    assert_eq!(of_group["placements"][0]["tenant"], "t", "{of_group}");
}

#[tokio::test]
async fn a_key_stands_for_one_request() {
    let cluster = Cluster::start().await;
    let a = &cluster.region(0).name;
    let ask = |method: Method, tenant: &str, body: Option<Value>| {
        let path = format!("/v1/placements/{tenant}");
        let request = cluster.api(1, method, &path).header("idempotency-key", "k");
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        cluster.client.clone().send_owned(request)
    };
    let spec = json!({"primary_region": a});
    let first = ask(Method::PUT, "t", Some(spec.clone())).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let forward = json!({"primary_region": a, "write_routing": "forward"});
    let changed = cluster.put_placement(0, "t", &forward).await;
    assert_eq!(changed.expect_success("changed").json()["version"], 2);
    let again = ask(Method::PUT, "t", Some(spec.clone())).await;
    assert_eq!(again.status, 201, "what the first did: {}", again.text());
    assert_eq!(again.json()["version"], 1, "{}", again.text());
    let now = cluster.api_get(0, "/v1/placements/t").await;
    assert_eq!(now["version"], 2, "and nothing more: {now}");
    for (method, tenant, body) in [
        (Method::PUT, "t", Some(forward)),
        (Method::DELETE, "t", None),
    ] {
        let answer = ask(method, tenant, body).await;
        answer.expect_problem(409, "idempotency_conflict");
    }
    let other = ask(Method::PUT, "other", Some(spec)).await;
    assert_eq!(other.status, 201, "a key is its tenant's: {}", other.text());
}
