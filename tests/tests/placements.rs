//! Placements: what is refused, with which code; conditions; and that a change made anywhere is in
//! force everywhere.

use maia_tests::client::Request;
use maia_tests::cluster::SOON;
use maia_tests::{Answer, Cluster, Options, wait_value};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn what_can_not_be_is_refused_with_a_code() {
    let cluster = Cluster::start().await;
    let (a, b) = (
        cluster.region(0).name.clone(),
        cluster.region(1).name.clone(),
    );
    let conflicts = [
        json!({"primary_region": "atlantis-1"}),
        json!({"primary_region": a, "replicas": ["atlantis-1"]}),
        json!({"primary_region": a, "replicas": [b, b]}),
        json!({"primary_region": a, "replicas": [a]}),
        json!({"primary_region": a, "replicas": [b], "mode": "single"}),
        json!({"primary_region": a, "replicas": [], "mode": "replicated"}),
        json!({"primary_region": a, "replicas": [b], "min_sync_replicas": 2}),
    ];
    for spec in conflicts {
        let answer = cluster.put_placement(0, "t", &spec).await;
        answer.expect_problem(409, "placement_conflict");
    }
    let malformed = [
        json!({}),
        json!({"primary_region": "NO REGION"}),
        json!({"primary_region": a, "replica": [b]}),
        json!({"primary_region": a, "mode": "everywhere"}),
        json!([]),
    ];
    for spec in malformed {
        let answer = cluster.put_placement(0, "t", &spec).await;
        answer.expect_problem(400, "invalid_request");
    }
    let spec = json!({"primary_region": a});
    for name in ["a%20b", ".a", "%C3%A4", &"a".repeat(129)] {
        let answer = cluster.put_placement(0, name, &spec).await;
        answer.expect_problem(400, "invalid_tenant");
    }
    let answer = cluster
        .client
        .send(&cluster.api(0, Method::GET, "/v1/placements/t"))
        .await;
    answer.expect_problem(404, "unknown_tenant");
}

#[tokio::test]
async fn conditions_hold_or_the_placement_stays() {
    let cluster = Cluster::start().await;
    let spec = json!({"primary_region": cluster.region(0).name});
    let put = |header: &str, value: &str| {
        cluster
            .api(1, Method::PUT, "/v1/placements/t")
            .header(header, value)
            .json(&json!({"primary_region": cluster.region(0).name, "write_routing": "forward"}))
    };
    let answer = cluster.client.send(&put("if-match", "\"1\"")).await;
    answer.expect_problem(412, "precondition_failed");
    let created = cluster
        .put_placement(0, "t", &spec)
        .await
        .expect_success("created");
    let etag = created.header("etag").expect("an ETag").to_owned();
    assert_eq!(etag, format!("\"{}\"", created.json()["version"]));
    let answer = cluster.client.send(&put("if-none-match", "*")).await;
    answer.expect_problem(412, "precondition_failed");
    let changed = cluster
        .client
        .send(&put("if-match", &etag))
        .await
        .expect_success("matches");
    assert_eq!(changed.json()["write_routing"], "forward");
    let answer = cluster.client.send(&put("if-match", &etag)).await;
    answer.expect_problem(412, "precondition_failed");
    // Every coordinator says the same.
    for i in 0..3 {
        let placement = cluster.api_get(i, "/v1/placements/t").await;
        assert_eq!(
            placement["version"],
            changed.json()["version"],
            "{placement}"
        );
        assert_eq!(placement["home_region"], json!(cluster.region(0).name));
    }
}

#[tokio::test]
async fn a_move_to_another_group_is_a_migration() {
    let cluster = Cluster::start().await;
    cluster.place("t", 0, &[1]).await;
    let spec = json!({"primary_region": cluster.region(1).name});
    let answer = cluster.put_placement(0, "t", &spec).await;
    answer.expect_problem(409, "placement_conflict");
    assert!(answer.text().contains("migrat"), "{}", answer.text());
}

#[tokio::test]
async fn tenants_of_one_spec_share_a_group() {
    let cluster = Cluster::start().await;
    let names: Vec<String> = cluster.regions().iter().map(|r| r.name.clone()).collect();
    let mut groups = std::collections::BTreeMap::new();
    for tenant in ["a", "b"] {
        for (primary, replicas) in [
            (0, vec![]),
            (0, vec![1, 2]),
            (0, vec![2, 1]),
            (1, vec![0, 2]),
        ] {
            let replicas: Vec<&String> = replicas.iter().map(|i: &usize| &names[*i]).collect();
            let spec = json!({"primary_region": names[primary], "replicas": replicas});
            let name = format!("{tenant}-{}", groups.len());
            let placement = place(&cluster, &name, &spec)
                .await
                .expect_success("placed")
                .json();
            groups.insert(name, placement["group"].to_string());
        }
    }
    let distinct: std::collections::BTreeSet<&String> = groups.values().collect();
    // The order of replicas makes no difference.
    assert_eq!(distinct.len(), 3, "{groups:?}");
}

/// PUT of a placement; while something is electing it is tried again.
async fn place(cluster: &Cluster, tenant: &str, spec: &Value) -> Answer {
    wait_value(SOON, "the placement is answered", || async {
        let answer = cluster.put_placement(0, tenant, spec).await;
        (answer.status != 503).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn too_many_groups_are_refused() {
    // Five regions allow 5 primaries × 16 sets of replicas: more than the cap of 64. With longer
    // timeouts, because this is about the count and not about speed.
    let options = Options::default()
        .argument("--regions")
        .argument("a,b,c,d,e");
    let options = options.argument("--preset").argument("metro");
    let cluster = Cluster::start_with(options).await;
    let names: Vec<String> = cluster.regions().iter().map(|r| r.name.clone()).collect();
    let mut placed = 0;
    for primary in 0..5 {
        let others: Vec<&String> = names
            .iter()
            .filter(|name| **name != names[primary])
            .collect();
        for set in 0..16usize {
            let in_set = others.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1);
            let replicas: Vec<&&String> = in_set.map(|(_, name)| name).collect();
            let spec = json!({"primary_region": names[primary], "replicas": replicas});
            let answer = place(&cluster, &format!("t-{primary}-{set}"), &spec).await;
            if !answer.is_success() {
                answer.expect_problem(409, "too_many_groups");
                assert_eq!(placed, 64);
                // A spec that has its group already is still taken.
                let spec = json!({"primary_region": names[0]});
                place(&cluster, "one-more", &spec)
                    .await
                    .expect_success("shares");
                return;
            }
            placed += 1;
        }
    }
    panic!("{placed} groups, and no refusal");
}

#[tokio::test]
async fn nobody_gets_in_without_a_token() {
    let cluster = Cluster::start().await;
    let url = |path: &str| format!("{}{path}", cluster.region(0).api_url);
    let spec = json!({"primary_region": cluster.region(0).name});
    for path in [
        "/v1/placements/t",
        "/v1/placements",
        "/admin/regions",
        "/admin/nodes",
        "/admin/proxies",
        "/admin/events",
        "/admin/replication/election",
        "/v1/replication/health",
    ] {
        let bare = Request::new(Method::GET, url(path));
        let answer = cluster.client.send(&bare).await;
        answer.expect_problem(401, "unauthenticated");
        let wrong = bare.header("authorization", "Bearer 0000");
        cluster
            .client
            .send(&wrong)
            .await
            .expect_problem(401, "unauthenticated");
    }
    let put = Request::new(Method::PUT, url("/v1/placements/t")).json(&spec);
    cluster
        .client
        .send(&put)
        .await
        .expect_problem(401, "unauthenticated");
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = cluster
            .client
            .send(&Request::new(Method::GET, url(path)))
            .await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_change_at_any_coordinator_is_in_force_at_every_proxy() {
    let cluster = Cluster::start().await;
    cluster.place("t", 1, &[0, 2]).await;
    for (at, routing) in [(0, "forward"), (1, "redirect"), (2, "forward")] {
        let spec = json!({
            "primary_region": cluster.region(1).name,
            "replicas": [cluster.region(0).name, cluster.region(2).name],
            "write_routing": routing,
        });
        let placement = cluster
            .put_placement(at, "t", &spec)
            .await
            .expect_success("put")
            .json();
        assert_eq!(placement["write_routing"], routing);
        cluster.in_force("t", &placement["version"]).await;
    }
}

#[tokio::test]
async fn a_removed_tenant_is_unknown_everywhere_and_lists_are_paged() {
    let cluster = Cluster::start().await;
    for n in 0..5 {
        cluster.place(&format!("t-{n}"), 0, &[]).await;
    }
    let listed = cluster.run(&["tenant", "list", "--output", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(
        listed["placements"].as_array().map(Vec::len),
        Some(5),
        "{listed}"
    );
    let page = cluster.api_get(2, "/v1/placements?limit=2").await;
    assert_eq!(
        page["placements"].as_array().map(Vec::len),
        Some(2),
        "{page}"
    );
    let next = page["next"].as_str().expect("more to come");
    let page = cluster
        .api_get(2, &format!("/v1/placements?limit=2&after={next}"))
        .await;
    assert_eq!(page["placements"][0]["tenant"], "t-2", "{page}");

    cluster.run(&["tenant", "remove", "t-0", "--yes"]).await;
    for i in 0..3 {
        wait_value(SOON, "the proxy forgets the tenant", || async {
            let read = cluster.through(i, "t-0", Method::GET, "/v1/data/notes/1");
            (cluster.client.send(&read).await.code() == "unknown_tenant").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_happened_is_recorded_in_order() {
    let cluster = Cluster::start().await;
    cluster.place("t", 0, &[1]).await;
    let answer = cluster.api_get(1, "/admin/events?after=0").await;
    let events = answer["events"].as_array().expect("events").clone();
    assert!(!events.is_empty(), "{answer}");
    let revisions: Vec<u64> = events
        .iter()
        .filter_map(|e| e["revision"].as_u64())
        .collect();
    assert!(revisions.is_sorted(), "{answer}");
    assert!(answer.to_string().contains("\"t\""), "{answer}");
    let printed = cluster.run(&["events"]).await;
    assert!(printed.lines().count() >= events.len(), "{printed}");
}
