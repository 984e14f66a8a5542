//! Early answers and bodies: the answer arrives, and no body is ever taken for a request.

use std::time::Duration;

use crate::support::{Stage, request};

const TEN_MB: usize = 10 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_answered_307_reach_a_client_that_sends_first_and_reads_then() {
    let stage = Stage::new(&[]).await;
    for _ in 0..5 {
        let mut connection = stage.proxy.client().await;
        let head = format!(
            "POST /v1/x HTTP/1.1\r\nHost: f\r\nX-MAIA-Tenant-ID: there\r\nContent-Length: {TEN_MB}\r\n\r\n"
        );
        connection.send(head).await;
        connection.send(vec![b'x'; TEN_MB]).await;
        let response = connection.response().await;
        assert_eq!(response.status, 307);
        assert_eq!(
            response.header("location"),
            Some("http://b.example/base/v1/x")
        );
        assert_eq!(response.header("connection"), Some("close"));
        assert!(connection.closes_cleanly().await, "no reset");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_continue_is_answered_without_the_body() {
    let stage = Stage::new(&[]).await;
    let head = |tenant: &str| {
        format!(
            "PUT /v1/x HTTP/1.1\r\nHost: f\r\nX-MAIA-Tenant-ID: {tenant}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    let mut redirected = stage.proxy.client().await;
    redirected.send(head("there")).await;
    let response = redirected.response().await;
    assert_eq!(
        (response.status, response.header("connection")),
        (307, Some("close"))
    );
    assert!(redirected.closes_cleanly().await);
    let mut served = stage.proxy.client().await;
    served.send(head("here")).await;
    assert_eq!(served.response().await.status, 100);
    served.send("hello").await;
    assert_eq!(served.response().await.status, 200);
    assert_eq!(stage.origin.last().body, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_never_parsed_as_the_next_request() {
    let stage = Stage::new(&[]).await;
    let inner = request("GET", "/smuggled", "here", "", "");
    // Small: the body is read, and what follows it is answered as the request that it is.
    let mut connection = stage.proxy.client().await;
    let second = request("GET", "/second", "here", "", "");
    connection
        .send(format!(
            "{}{second}",
            request("POST", "/v1/x", "there", "", &inner)
        ))
        .await;
    assert_eq!(connection.response().await.status, 307);
    assert_eq!(connection.response().await.json()["path"], "/second");
    // The body that comes late.
    let mut late = stage.proxy.client().await;
    let text = request("POST", "/v1/x", "there", "", &inner);
    let (head, body) = text.split_at(text.len() - inner.len());
    late.send(head).await;
    late.send(body).await;
    assert_eq!(late.response().await.status, 307);
    // Large: answered and closed, whatever comes.
    let mut large = stage.proxy.client().await;
    let body = inner.repeat(1 + (128 << 10) / inner.len());
    large
        .send(request("POST", "/v1/x", "there", "", &body))
        .await;
    assert_eq!(large.response().await.status, 307);
    assert!(large.closes_cleanly().await);
    // Chunked and large: the same.
    let mut chunked = stage.proxy.client().await;
    let head = "POST /v1/x HTTP/1.1\r\nHost: f\r\nX-MAIA-Tenant-ID: there\r\nTransfer-Encoding: chunked\r\n\r\n";
    chunked
        .send(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()))
        .await;
    assert_eq!(chunked.response().await.status, 307);
    assert!(chunked.closes_cleanly().await);
    let paths: Vec<String> = stage.origin.asked().into_iter().map(|a| a.path).collect();
    assert_eq!(paths, ["/second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_chunked_body_keeps_the_connection() {
    let stage = Stage::new(&[]).await;
    let mut connection = stage.proxy.client().await;
    let chunked = "POST /v1/x HTTP/1.1\r\nHost: f\r\nX-MAIA-Tenant-ID: there\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for _ in 0..2 {
        connection.send(chunked).await;
        let response = connection.response().await;
        assert_eq!(
            (response.status, response.header("connection")),
            (307, Some("keep-alive"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_that_never_comes_does_not_hold_the_answer_for_long() {
    let stage = Stage::new(&[]).await;
    let mut connection = stage.proxy.client().await;
    connection.send("POST /v1/x HTTP/1.1\r\nHost: f\r\nX-MAIA-Tenant-ID: there\r\nContent-Length: 9\r\n\r\n").await;
    let started = std::time::Instant::now();
    let response = connection.response().await;
    assert_eq!(
        (response.status, response.header("connection")),
        (307, Some("close"))
    );
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lengths_are_refused_and_the_connection_closes() {
    let stage = Stage::new(&[]).await;
    for tenant in ["here", "there"] {
        let mut connection = stage.proxy.client().await;
        let head = format!(
            "POST /v1/x HTTP/1.1\r\nHost: f\r\nX-MAIA-Tenant-ID: {tenant}\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let smuggled = request("GET", "/smuggled", "here", "", "");
        connection.send(format!("{head}0\r\n\r\n{smuggled}")).await;
        let response = connection.response().await;
        assert_eq!(
            (response.status, response.code().as_str()),
            (400, "invalid_request")
        );
        assert!(connection.closes_cleanly().await);
    }
    assert!(stage.origin.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_their_order() {
    let stage = Stage::new(&[]).await;
    let mut connection = stage.proxy.client().await;
    let all: String = (0..8)
        .map(|n| request("PUT", &format!("/p/{n}"), "here", "", "body"))
        .collect();
    connection.send(all).await;
    for n in 0..8 {
        assert_eq!(
            connection.response().await.json()["path"],
            format!("/p/{n}")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused() {
    let stage = Stage::new(&["proxy.max_body_bytes=100000"]).await;
    let body = "x".repeat(200_000);
    let mut known = stage.proxy.client().await;
    known.send(request("PUT", "/v1/x", "here", "", &body)).await;
    assert_eq!(known.response().await.code(), "body_too_large");
    let mut chunked = stage.proxy.client().await;
    let head = "PUT /v1/x HTTP/1.1\r\nHost: f\r\nX-MAIA-Tenant-ID: here\r\nTransfer-Encoding: chunked\r\n\r\n";
    chunked
        .send(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()))
        .await;
    let response = chunked.response().await;
    assert_eq!(
        (response.status, response.code().as_str()),
        (413, "body_too_large")
    );
    assert!(stage.origin.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_reaches_the_origin_whole() {
    let stage = Stage::new(&[]).await;
    let body = "x".repeat(TEN_MB);
    let response = stage
        .proxy
        .ask(&request("PUT", "/v1/x", "here", "", &body))
        .await;
    assert_eq!(response.json()["body_bytes"], TEN_MB);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_answers_early_is_heard() {
    let stage = Stage::new(&[]).await;
    let mut connection = stage.proxy.client().await;
    connection
        .send(request("PUT", "/early", "here", "", &"x".repeat(TEN_MB)))
        .await;
    assert_eq!(connection.response().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_drips_is_cut_off() {
    let stage = Stage::new(&["timeouts.header=300ms"]).await;
    let mut connection = stage.proxy.client().await;
    connection
        .send(request("GET", "/v1/x", "here", "", ""))
        .await;
    assert_eq!(
        connection.response().await.status,
        200,
        "the first request is no exception"
    );
    let started = std::time::Instant::now();
    for byte in "GET /v1/x HTTP/1.1\r\nHost: f\r\nX-Slow: ".bytes().cycle() {
        if connection.try_send(&[byte]).await.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "a dripping header is never cut off"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_without_end_is_cut_off() {
    let stage = Stage::new(&["timeouts.header=60s"]).await;
    let mut connection = stage.proxy.client().await;
    connection.send("GET / HTTP/1.1\r\nX-Long: ").await;
    let _cut_off_on_the_way = connection.try_send(&vec![b'x'; 128 << 10]).await;
    assert!(connection.try_response().await.is_none(), "waits for more");
}
