//! Start, configuration, stop.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::client::Connection;
use crate::support::{KEY, ProxyProcess, Stage, config_text, eventually, nobody, request};

pub async fn exit_code(proxy: &mut ProxyProcess) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = proxy.child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < deadline, "the proxy does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_requests_finish_and_then_ends() {
    let mut stage = Stage::new(&[]).await;
    let mut idle = stage.proxy.client().await;
    idle.send(request("GET", "/v1/x", "here", "", "")).await;
    assert_eq!(idle.response().await.status, 200);
    let mut busy = stage.proxy.client().await;
    busy.send(request("PUT", "/slow", "here", "", "body")).await;
    eventually("the origin is asked", || async {
        stage.origin.asked().len() == 2
    })
    .await;
    stage.proxy.signal("TERM");
    assert!(
        idle.closes_cleanly().await,
        "an idle connection closes at once"
    );
    eventually("nothing more is accepted", || async {
        Connection::try_open(stage.proxy.public).await.is_none()
    })
    .await;
    let ready = stage.proxy.admin("/readyz").await.unwrap();
    assert_eq!(
        (ready.status, &ready.json()["latches"]["not_draining"]),
        (503, &false.into())
    );
    assert!(
        stage.proxy.child.try_wait().unwrap().is_none(),
        "a request is in flight"
    );
    let released = Instant::now();
    stage.origin.state.release.notify_one();
    let response = busy.response().await;
    assert_eq!(
        (response.status, response.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(exit_code(&mut stage.proxy).await, Some(0));
    assert!(released.elapsed() < Duration::from_secs(3));
    let log = std::fs::read_to_string(stage.proxy.dir.path().join("access.log")).unwrap();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["path"], "/slow");
    assert_eq!(lines[1]["tenant"], "here");
    assert_eq!(lines[1]["decision"], "local");
    assert_eq!(lines[1]["status"], 200);
    assert_eq!(lines[1]["received_bytes"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_time_bounds_how_long_a_stop_takes() {
    let mut stage = Stage::new(&["timeouts.drain=300ms"]).await;
    let mut busy = stage.proxy.client().await;
    busy.send(request("GET", "/never", "here", "", "")).await;
    eventually("the origin is asked", || async {
        stage.origin.asked().len() == 1
    })
    .await;
    let started = Instant::now();
    stage.proxy.signal("TERM");
    assert_eq!(exit_code(&mut stage.proxy).await, Some(0));
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_ends_with_64_and_the_line_before_any_port_opens() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cluster.key"), KEY).unwrap();
    let (_kept, nobody) = nobody();
    let good = config_text(dir.path(), &[nobody], nobody);
    let file = dir.path().join("proxy.toml");
    let run = |text: &str, arguments: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_maia-proxy"));
        let output = command
            .arg("--config")
            .arg(&file)
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(run(&good, &["--check"]), (Some(0), String::new()));
    let line = good
        .lines()
        .position(|l| l.starts_with("hold_budget"))
        .unwrap()
        + 1;
    for (text, message) in [
        (
            good.replace("hold_budget", "hold_bugdet"),
            "unknown field `hold_bugdet`",
        ),
        (
            good.replace("\"2s\"", "\"2 parsecs\""),
            "`2 parsecs` is no duration",
        ),
        (
            good.replace("\"2s\"", "\"2h\""),
            "proxy.hold_budget: is more than 1m",
        ),
    ] {
        let (code, error) = run(&text, &[]);
        assert_eq!(code, Some(64), "{error}");
        assert!(
            error.contains(&format!("proxy.toml:{line}: ")) && error.contains(message),
            "{error}"
        );
    }
    std::fs::remove_file(dir.path().join("cluster.key")).unwrap();
    let (code, error) = run(&good, &[]);
    assert!(
        code == Some(64) && error.contains("proxy.toml:4: cluster_key_file"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let stage = Stage::new(&[]).await;
    let public = stage.proxy.public;
    let taken = format!("listen.public={public}");
    let mut second = ProxyProcess::spawn(
        &[stage.coordinator.address],
        stage.origin.address,
        &[&taken],
    );
    assert_eq!(exit_code(&mut second).await, Some(1));
    assert!(second.log().contains(&format!("can't listen on {public}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_threads_serve_together() {
    let stage = Stage::new(&["threads=3"]).await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(stage.proxy.client().await);
    }
    for round in 0..5 {
        for client in &mut clients {
            client
                .send(request("PUT", &format!("/{round}"), "here", "", "body"))
                .await;
        }
        for client in &mut clients {
            assert_eq!(client.response().await.status, 200);
        }
    }
    let counted =
        "maia_proxy_requests_total{class=\"write\",decision=\"local\",status_class=\"2xx\"}";
    eventually("all are counted", || async {
        stage.proxy.metric(counted).await == 60
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_after_its_time_and_a_busy_one_is_not() {
    const IDLE: Duration = Duration::from_secs(1);
    let stage = Stage::new(&["timeouts.idle=1s"]).await;
    let began = Instant::now();
    let mut unused = stage.proxy.client().await;
    let mut busy = stage.proxy.client().await;
    // Longer than a timer that was set by the first request and never moved.
    while began.elapsed() < 2 * IDLE + IDLE / 2 {
        busy.send(request("GET", "/v1/x", "here", "", "")).await;
        assert_eq!(busy.response().await.status, 200);
        busy.send(request("PUT", "/v1/x", "there", "", "body"))
            .await;
        assert_eq!(busy.response().await.status, 307);
    }
    let last = Instant::now();
    assert!(unused.closes_cleanly().await, "it never asked anything");
    assert!(last.elapsed() < IDLE, "closed long ago");
    assert!(busy.closes_cleanly().await, "it asks no more");
    assert!(last.elapsed() + Duration::from_millis(50) > IDLE);
}
