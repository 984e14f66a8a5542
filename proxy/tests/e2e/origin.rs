//! An origin that misbehaves.

use std::time::{Duration, Instant};

use crate::support::{Stage, eventually, request};

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_never_answers_is_given_up() {
    let stage = Stage::new(&["timeouts.origin_read=300ms"]).await;
    let started = Instant::now();
    for (method, status, code, retry_after) in [
        ("GET", 504, "origin_timeout", None),
        ("POST", 503, "outcome_unknown", Some("1")),
    ] {
        let response = stage
            .proxy
            .ask(&request(method, "/never", "here", "", ""))
            .await;
        assert_eq!((response.status, response.code().as_str()), (status, code));
        assert_eq!(response.header("retry-after"), retry_after);
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(stage.origin.asked().len(), 2, "asked once each");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_reached_the_origin_is_not_repeated() {
    let stage = Stage::new(&[]).await;
    // A first request leaves a connection to be used again.
    let warm = || async {
        stage
            .proxy
            .ask(&request("GET", "/warm", "here", "", ""))
            .await
    };
    assert_eq!(warm().await.status, 200);
    let response = stage
        .proxy
        .ask(&request("POST", "/break", "here", "", "body"))
        .await;
    assert_eq!(
        (response.status, response.code().as_str()),
        (503, "outcome_unknown")
    );
    let read = stage
        .proxy
        .ask(&request("GET", "/break", "here", "", ""))
        .await;
    assert_eq!((read.status, read.code().as_str()), (502, "no_origin"));
    let posts = |asked: Vec<crate::support::origin::Asked>| {
        asked
            .iter()
            .filter(|a| (a.method.as_str(), a.path.as_str()) == ("POST", "/break"))
            .count()
    };
    assert_eq!(posts(stage.origin.asked()), 1);
    assert_eq!(warm().await.status, 200);
    let keyed = request("POST", "/break", "here", "Idempotency-Key: k\r\n", "body");
    assert_eq!(stage.proxy.ask(&keyed).await.code(), "outcome_unknown");
    assert_eq!(
        posts(stage.origin.asked()),
        3,
        "once more, since it has a key"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_second_try_does_not_hide_the_first() {
    for (method, key, status, expected) in [
        ("PUT", "", "503", (503, "outcome_unknown")),
        ("PUT", "", "507", (503, "outcome_unknown")),
        ("DELETE", "", "404", (503, "outcome_unknown")),
        ("PUT", "", "200", (200, "")),
        (
            "PUT",
            "Idempotency-Key: k\r\n",
            "503",
            (503, "outcome_unknown"),
        ),
        (
            "PUT",
            "Idempotency-Key: k\r\n",
            "404",
            (503, "outcome_unknown"),
        ),
        (
            "PUT",
            "Idempotency-Key: k\r\n",
            "307",
            (503, "outcome_unknown"),
        ),
        ("POST", "Idempotency-Key: k\r\n", "201", (201, "")),
        ("GET", "", "503", (503, "")),
    ] {
        let stage = Stage::new(&[]).await;
        let path = format!("/break-once?{status}");
        let asked = request(method, &path, "here", key, "");
        let response = stage.proxy.ask(&asked).await;
        let json = response.json();
        let found = (response.status, json["code"].as_str().unwrap_or_default());
        assert_eq!(found, expected, "{method} {key} {status}");
        assert_eq!(stage.origin.asked().len(), 2, "asked twice");
    }
}

/// Where the primary is now, the write might be carried out a second time, or be called unwritten.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_carried_out_is_not_sent_elsewhere() {
    let key = "Idempotency-Key: k\r\n";
    for (method, path, headers) in [
        ("PUT", "/never", ""),
        ("POST", "/never", key),
        ("PUT", "/break-once?421", ""),
        ("POST", "/break-once?421", key),
    ] {
        let mut stage = Stage::new(&["proxy.hold_budget=20s"]).await;
        let mut write = stage.proxy.client().await;
        write
            .send(request(method, path, "here", headers, "body"))
            .await;
        eventually("the first try has arrived", || async {
            !stage.origin.asked().is_empty()
        })
        .await;
        if path == "/never" {
            stage.origin.die().await; // the second finds nobody
        }
        eventually("the write waits for another try", || async {
            stage.proxy.metric("maia_proxy_held_requests").await == 1
        })
        .await;
        stage.coordinator.hint(1, 8, "b", false).await;
        let response = write.response().await;
        let found = (response.status, response.code());
        let expected = (503, "outcome_unknown".to_owned());
        assert_eq!(found, expected, "{method} {path} {headers}");
        assert_eq!(response.header("location"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_the_origin() {
    let stage = Stage::new(&[]).await;
    let mut connection = stage.proxy.client().await;
    connection
        .send(request("GET", "/never", "here", "", ""))
        .await;
    eventually("the origin is asked", || async {
        stage.origin.asked().len() == 1
    })
    .await;
    drop(connection);
    eventually("the connection has ended", || async {
        stage.proxy.metric("maia_proxy_connections").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_sent_once_is_never_called_unwritten() {
    let mut stage = Stage::new(&["proxy.hold_budget=400ms"]).await;
    let mut write = stage.proxy.client().await;
    write
        .send(request("PUT", "/never", "here", "", "body"))
        .await;
    eventually("the origin is asked", || async {
        stage.origin.asked().len() == 1
    })
    .await;
    stage.origin.die().await;
    let response = write.response().await;
    assert_eq!(
        (response.status, response.code().as_str()),
        (503, "outcome_unknown"),
        "the second try was refused, the first one may have been carried out"
    );
    let unsent = stage
        .proxy
        .ask(&request("PUT", "/v1/x", "here", "", "body"))
        .await;
    assert_eq!(
        (unsent.status, unsent.code().as_str()),
        (503, "unavailable")
    );
}
