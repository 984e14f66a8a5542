//! maiactl and the processes as an operator meets them: configuration errors, taken ports, status,
//! views, a second `up`.

use std::process::Stdio;

use maia_tests::cluster::{binary, maiactl};
use maia_tests::{Cluster, wait_value};
use serde_json::Value;

#[tokio::test]
async fn a_configuration_with_an_unknown_key_is_refused_with_file_and_line() {
    let cluster = Cluster::start().await;
    let region = cluster.region(0);
    let files = [
        ("maia-coordinator", region.dir.join("coordinator.toml")),
        (
            "maia-proxy",
            region.dir.with_file_name("proxy").join("proxy.toml"),
        ),
    ];
    for (program, file) in files {
        let text = std::fs::read_to_string(&file).expect("the file");
        let bad = cluster.dir().join(format!("{program}.toml"));
        std::fs::write(&bad, format!("# a comment\nnonsense = 1\n{text}")).expect("a bad file");
        let output = tokio::process::Command::new(binary(program))
            .arg("--config")
            .arg(&bad)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{program}: {said}");
        let place = format!("{}:2", bad.display());
        assert!(
            said.contains(&place) && said.contains("nonsense"),
            "{program}: {said}"
        );
    }
    let bad = cluster.dir().join("maia-coordinator.toml");
    let output = cluster
        .maiactl(&["config", "check", &bad.display().to_string()])
        .await;
    assert_eq!(output.status.code(), Some(64));
    let good = region.dir.join("coordinator.toml").display().to_string();
    cluster.run(&["config", "check", &good]).await;
}

#[tokio::test]
async fn a_cluster_is_seen_and_restarted_and_refuses_a_second_start() {
    let cluster = Cluster::start().await;
    cluster.place("t", 0, &[1, 2]).await;
    let second = cluster.maiactl(&["cluster", "up"]).await;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && said.contains("runs already"),
        "{said}"
    );

    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let port = cluster
        .region(0)
        .proxy_url
        .rsplit(':')
        .next()
        .expect("a port")
        .to_owned();
    let taken = maiactl(elsewhere.path(), &["cluster", "up", "--base-port", &port]).await;
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(
        !taken.status.success() && said.contains(&format!("port {port}")),
        "{said}"
    );

    for view in [
        &["health"][..],
        &["groups"],
        &["region", "list"],
        &["node", "list"],
        &["proxy", "list"],
        &["tenant", "show", "t"],
        &["tenant", "list"],
        &["events"],
    ] {
        let table = cluster.run(view).await;
        assert!(!table.trim().is_empty(), "{view:?}");
    }
    let groups = cluster.run(&["groups", "--output", "json"]).await;
    let groups: Value = serde_json::from_str(&groups).expect("JSON");
    assert!(
        groups["groups"].as_array().is_some_and(|g| g.len() == 1),
        "{groups}"
    );
    let proxies = cluster.run(&["proxy", "list", "--output", "json"]).await;
    let proxies: Value = serde_json::from_str(&proxies).expect("JSON");
    assert_eq!(
        proxies["proxies"].as_array().map(Vec::len),
        Some(3),
        "{proxies}"
    );

    let id = cluster.region(2).proxy_id.clone();
    cluster.run(&["cluster", "kill", "--node", &id]).await;
    let status = cluster.maiactl(&["cluster", "status"]).await;
    assert_eq!(status.status.code(), Some(1));
    let gone = cluster.maiactl(&["cluster", "kill", "--node", &id]).await;
    assert_eq!(gone.status.code(), Some(1));
    let unknown = cluster
        .maiactl(&["cluster", "kill", "--node", "nobody"])
        .await;
    assert_eq!(unknown.status.code(), Some(2));
    cluster.run(&["cluster", "restart", "--node", &id]).await;
    cluster.run(&["cluster", "status"]).await;
    cluster.run(&["cluster", "down"]).await;
    let down = cluster.status().await;
    let states = down["processes"].as_array().cloned().unwrap_or_default();
    assert!(states.iter().all(|p| p["state"] == "gone"), "{down}");
    cluster.run(&["cluster", "up"]).await;
    cluster.run(&["tenant", "show", "t"]).await;
}

#[tokio::test]
async fn after_an_outage_of_all_nodes_can_be_restarted_at_once() {
    let cluster = Cluster::start().await;
    let ids: Vec<String> = cluster
        .regions()
        .iter()
        .map(|region| region.coordinator_id.to_string())
        .collect();
    for i in 0..ids.len() {
        cluster.kill_coordinator(i).await;
    }
    let arguments: Vec<_> = ids
        .iter()
        .map(|id| ["cluster", "restart", "--node", id.as_str()])
        .collect();
    let (a, b, c) = tokio::join!(
        cluster.maiactl(&arguments[0]),
        cluster.maiactl(&arguments[1]),
        cluster.maiactl(&arguments[2]),
    );
    for output in [a, b, c] {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }

    let proxy = cluster.region(1).proxy_id.clone();
    cluster.kill_coordinator(0).await;
    cluster.run(&["cluster", "kill", "--node", &proxy]).await;
    let changed = cluster
        .maiactl(&["cluster", "up", "--set", "proxy.hold_budget=3s"])
        .await;
    assert_eq!(
        changed.status.code(),
        Some(2),
        "it would change running ones"
    );
    cluster.run(&["cluster", "stop", "--node", &ids[2]]).await;
    let stopped = cluster.maiactl(&["cluster", "up"]).await;
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(
        !stopped.status.success() && said.contains("cluster cont"),
        "{said}"
    );
    cluster.run(&["cluster", "cont", "--node", &ids[2]]).await;
    let before = cluster.status().await;
    cluster.run(&["cluster", "up"]).await;
    let after = cluster.status().await;
    let pids = |status: &Value| -> Vec<Value> {
        let all = status["processes"].as_array().cloned().unwrap_or_default();
        all.iter().map(|process| process["pid"].clone()).collect()
    };
    let kept = pids(&before)
        .iter()
        .zip(pids(&after))
        .filter(|(before, after)| **before == *after)
        .count();
    assert_eq!(kept, 4, "what ran was left alone: {after}");
}

#[tokio::test]
async fn a_stopped_process_is_asked_to_end_and_does() {
    let cluster = Cluster::start().await;
    for process in ["proxy", "coordinator"] {
        let region = cluster.region(0);
        let id = match process {
            "proxy" => region.proxy_id.clone(),
            _ => region.coordinator_id.to_string(),
        };
        cluster.run(&["cluster", "stop", "--node", &id]).await;
        let seen = wait_value(
            maia_tests::cluster::SOON,
            "it is seen to stand still",
            || async {
                let status = cluster.status().await;
                let all = status["processes"].as_array()?.clone();
                all.into_iter()
                    .find(|p| p["id"] == id.as_str() && p["state"] == "stopped")
            },
        )
        .await;
        assert_eq!(seen["role"], process);
    }
    cluster.run(&["cluster", "down"]).await;
}

#[tokio::test]
async fn a_refusal_is_printed_with_its_code() {
    let cluster = Cluster::start().await;
    let output = cluster.maiactl(&["tenant", "show", "nobody"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("unknown_tenant (404)"), "{said}");
    let output = cluster
        .maiactl(&["tenant", "place", "t", "--primary", "atlantis-1"])
        .await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("placement_conflict (409)"), "{said}");
}
