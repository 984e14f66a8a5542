//! What was lost stays lost, and nothing else: disks that come back blank, copies of groups, regions
//! beyond the voters.

use maia_tests::client::Request;
use maia_tests::cluster::SOON;
use maia_tests::{Cluster, Extra, Options, wait_until, wait_value};
use reqwest::Method;
use serde_json::{Value, json};

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Adds a coordinator with a vote.
async fn voter(cluster: &Cluster, id: u64, region: usize, slot: u16) -> Extra {
    let mut extra = Extra::new(cluster, id, region, slot);
    extra.start();
    let added = extra.add(cluster, &["--wait"]).await;
    assert!(added.status.success(), "{}", said(&added));
    wait_until(SOON, "it votes", || async {
        let asked = extra.api(cluster, Method::GET, "/admin/nodes");
        let Ok(nodes) = cluster.client.try_send(&asked).await else {
            return false;
        };
        let nodes = nodes.json();
        let mut rows = nodes["nodes"].as_array().into_iter().flatten();
        rows.any(|row| row["id"] == id && row["metastore"] == "voter")
    })
    .await;
    extra
}

fn wipe(cluster: &Cluster, i: usize) {
    std::fs::remove_dir_all(cluster.region(i).dir.join("data")).expect("a disk to wipe");
}

fn making(cluster: &Cluster, making: bool) {
    let path = cluster.dir().join("cluster.json");
    let text = std::fs::read(&path).expect("cluster.json");
    let mut file: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(file["making"], false, "it was made");
    file["making"] = json!(making);
    std::fs::write(&path, file.to_string()).expect("cluster.json");
}

async fn restart(cluster: &Cluster, id: &str) {
    cluster
        .run(&["cluster", "restart", "--no-wait", "--node", id])
        .await;
}

#[tokio::test]
async fn the_only_first_member_does_not_begin_anew_on_a_wiped_disk() {
    let options = Options::default().argument("--regions").argument("a");
    let cluster = Cluster::start_with(options).await;
    let second = voter(&cluster, 2, 0, 0).await;
    let third = voter(&cluster, 3, 0, 1).await;
    cluster.kill_coordinator(0).await;
    wipe(&cluster, 0);
    restart(&cluster, "1").await;
    wait_until(SOON, "it is refused", || async {
        let log = cluster.coordinator_log(0);
        log.contains("a wiped disk is a new node") && log.contains("--make-cluster")
    })
    .await;
    // The others go on, with it as a voter that is away.
    for extra in [&second, &third] {
        extra.ready(&cluster).await;
        let asked = extra.api(&cluster, Method::GET, "/admin/replication/election");
        wait_until(SOON, "one of them leads", || async {
            let election = cluster.client.send(&asked).await.json();
            [2, 3].contains(&election["leader"].as_u64().unwrap_or(0))
        })
        .await;
        let asked = extra.api(&cluster, Method::GET, "/admin/nodes");
        let nodes = cluster.client.send(&asked).await.json();
        let rows = nodes["nodes"].as_array().cloned().unwrap_or_default();
        assert_eq!(rows.len(), 3, "{nodes}");
        assert!(
            rows.iter().all(|row| row["metastore"] == "voter"),
            "{nodes}"
        );
    }
}

#[tokio::test]
async fn those_that_were_removed_do_not_vouch_for_a_wiped_disk() {
    let cluster = Cluster::start().await;
    let fourth = voter(&cluster, 4, 0, 0).await;
    let _fifth = voter(&cluster, 5, 0, 1).await;
    for id in ["2", "3"] {
        cluster
            .run(&["node", "remove", id, "--yes", "--wait"])
            .await;
    }
    for i in [1, 2] {
        wait_until(SOON, "it knows", || async {
            let ready = Request::new(Method::GET, format!("{}/readyz", cluster.region(i).api_url));
            cluster.client.send(&ready).await.json()["latches"]["member"] == false
        })
        .await;
    }
    cluster.kill_coordinator(0).await;
    wipe(&cluster, 0);
    // Even when somebody says by mistake that the cluster is new.
    making(&cluster, true);
    restart(&cluster, "1").await;
    wait_until(SOON, "nobody answers for it", || async {
        cluster
            .coordinator_log(0)
            .contains("1 of 3 first members answer")
    })
    .await;
    fourth.ready(&cluster).await;
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_goes_on_and_a_made_cluster_does_not_begin_again() {
    let options = Options::default().argument("--regions").argument("a,b");
    let cluster = Cluster::start_with(options).await;
    cluster.run(&["cluster", "down"]).await;
    for i in [0, 1] {
        wipe(&cluster, i);
    }
    let up = cluster.maiactl(&["cluster", "up"]).await;
    assert!(!up.status.success(), "its disks are gone");
    assert!(
        said(&up).contains("a wiped disk is a new node"),
        "{}",
        said(&up)
    );
    // As `up` leaves it when it is killed before anything was ready.
    making(&cluster, true);
    for i in [0, 1] {
        wipe(&cluster, i);
    }
    cluster.run(&["cluster", "up"]).await;
    making(&cluster, false);
    cluster.place("t", 0, &[1]).await;
}

#[tokio::test]
async fn the_sixth_region_of_a_tenant_has_its_data() {
    let options = Options::default()
        .argument("--regions")
        .argument("a,b,c,d,e");
    let cluster = Cluster::start_with(options).await;
    let public = "http://f.example";
    cluster
        .run(&["region", "add", "f", "--public-url", public])
        .await;
    let mut sixth = Extra::new(&cluster, 6, 0, 0).elsewhere("f");
    sixth.start();
    let added = sixth.add(&cluster, &["--wait"]).await;
    assert!(added.status.success(), "{}", said(&added));
    sixth.ready(&cluster).await;
    let spec = json!({"primary_region": "a", "replicas": ["b", "c", "d", "e", "f"]});
    let placed = wait_value(SOON, "it is placed", || async {
        let answer = cluster.put_placement(0, "t", &spec).await;
        (answer.status != 503).then_some(answer)
    })
    .await;
    let placed = placed.expect_success("placement").json();
    cluster.in_force("t", &placed["version"]).await;
    let write = cluster
        .through(0, "t", Method::PUT, "/v1/data/k/1")
        .body("v");
    wait_value(SOON, "it takes writes", || async {
        let answer = cluster.client.try_follow(&write).await.ok()?;
        answer.is_success().then_some(())
    })
    .await;
    for path in ["/v1/data/k/1?consistency=strong", "/v1/data/k/1"] {
        let read = sixth.api(&cluster, Method::GET, path);
        let read = read.header("x-maia-tenant-id", "t");
        let answer = wait_value(SOON, "the sixth region serves it", || async {
            let answer = cluster.client.try_send(&read).await.ok()?;
            let is_missing = answer.status == 404 && answer.code() == "not_found";
            assert!(!is_missing, "what was written is there: {}", answer.text());
            answer.is_success().then_some(answer)
        })
        .await;
        assert_eq!(answer.body, b"v");
    }
}

#[tokio::test]
async fn a_region_that_lost_its_copy_sends_reads_away_and_new_tenants_get_a_whole_group() {
    let cluster = Cluster::start().await;
    let old = cluster.place("old", 0, &[1, 2]).await;
    let _fourth = voter(&cluster, 4, 2, 0).await;
    cluster
        .run(&["node", "remove", "3", "--yes", "--wait"])
        .await;
    let read = cluster.through(2, "old", Method::GET, "/v1/data/probe/0");
    wait_until(SOON, "reads leave the region", || async {
        let answer = cluster.client.try_send(&read).await;
        answer.is_ok_and(|answer| answer.status == 307)
    })
    .await;
    let new = cluster.place("new", 0, &[1, 2]).await;
    assert_ne!(new["group"], old["group"]);
    let election = cluster.api_get(0, "/admin/replication/election").await;
    let mut groups = election["groups"].as_array().into_iter().flatten();
    let group = groups.find(|g| g["group"] == new["group"]);
    assert_eq!(
        group.expect("the new group")["voters"],
        json!([1, 2, 4]),
        "{election}"
    );
    // Who is there already stays, whatever of it is changed, alone or with many.
    let names: Vec<&str> = (1..3).map(|i| cluster.region(i).name.as_str()).collect();
    let mut spec = json!({
        "primary_region": cluster.region(0).name, "replicas": names, "write_routing": "forward"
    });
    let changed = cluster.put_placement(0, "old", &spec).await;
    let changed = changed.expect_success("a change").json();
    assert_eq!(
        (&changed["group"], &changed["version"]),
        (&old["group"], &json!(2))
    );
    spec["write_routing"] = json!("redirect");
    let lines: String = ["old", "newer"]
        .map(|tenant| {
            spec["tenant"] = json!(tenant);
            format!("{spec}\n")
        })
        .concat();
    let load = cluster.api(0, Method::POST, "/v1/placements").body(lines);
    let loaded = cluster
        .client
        .send(&load)
        .await
        .expect_success("a load")
        .json();
    assert_eq!(
        (&loaded["changed"], &loaded["created"]),
        (&json!(1), &json!(1)),
        "{loaded}"
    );
    for (tenant, group) in [("old", &old["group"]), ("newer", &new["group"])] {
        let placement = cluster
            .api_get(0, &format!("/v1/placements/{tenant}"))
            .await;
        assert_eq!(placement["group"], *group, "{placement}");
    }
}

#[tokio::test]
async fn a_dead_node_with_only_copies_goes_when_their_loss_is_accepted() {
    let cluster = Cluster::start().await;
    for tenant in ["s-1", "s-2"] {
        cluster.place(tenant, 2, &[]).await;
    }
    cluster.place("wide", 0, &[1, 2]).await;
    cluster.kill_coordinator(2).await;
    let ask = |query: &str| {
        let path = format!("/admin/nodes/3{query}");
        cluster
            .client
            .clone()
            .send_owned(cluster.api(0, Method::DELETE, &path))
    };
    wait_value(SOON, "it is refused", || async {
        let refused = ask("").await;
        (refused.code() == "data_loss_refused").then_some(())
    })
    .await;
    let plan = ask("?accept_data_loss=true&dry_run=true").await;
    let plan = plan.expect_success("a dry run").json();
    assert_eq!(plan["lost"][0]["tenants"], 2, "{plan}");
    assert_eq!(plan["groups"].as_array().map(Vec::len), Some(1), "{plan}");
    let remove = [
        "node",
        "remove",
        "3",
        "--yes",
        "--wait",
        "--accept-data-loss",
    ];
    cluster.run(&remove).await;
    for tenant in ["s-1", "s-2"] {
        let get = cluster.api(0, Method::GET, &format!("/v1/placements/{tenant}"));
        wait_until(SOON, "the placement is gone", || async {
            cluster.client.send(&get).await.status == 404
        })
        .await;
    }
    wait_until(SOON, "the group's record is gone", || async {
        let election = cluster.api_get(0, "/admin/replication/election").await;
        let groups = election["groups"].as_array().cloned().unwrap_or_default();
        groups
            .iter()
            .all(|g| g["group"] != plan["lost"][0]["group"])
    })
    .await;
    // The name is free.
    let again = cluster.place("s-1", 1, &[]).await;
    assert!(again["version"].as_u64() > Some(1), "{again}");
}

#[tokio::test]
async fn a_parameter_that_an_operation_does_not_have_is_refused() {
    let cluster = Cluster::start().await;
    cluster.place("t", 0, &[]).await;
    let spec = json!({"public_url": "http://x"});
    for request in [
        cluster.api(0, Method::DELETE, "/v1/placements/t?dry_run=true"),
        cluster
            .api(0, Method::POST, "/v1/placements?dry_run=true")
            .body("{}"),
        cluster.api(0, Method::DELETE, "/admin/proxies/p?dry_run=true"),
        cluster
            .api(0, Method::PUT, "/admin/regions/x?dry_run=true")
            .json(&spec),
        cluster
            .api(0, Method::POST, "/admin/nodes?dry_run=true")
            .json(&spec),
    ] {
        let refused = cluster.client.send(&request).await;
        refused.expect_problem(400, "invalid_request");
    }
    assert_eq!(
        cluster.api_get(0, "/v1/placements/t").await["state"],
        "active"
    );
}
