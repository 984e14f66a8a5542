//! Headers that say more than a client or an origin may say.

use crate::support::{Stage, request};

#[tokio::test(flavor = "multi_thread")]
async fn what_an_origin_may_take_for_our_headers_is_dropped() {
    let stage = Stage::new(&[]).await;
    let lookalikes = "X_MAIA_Placement_Epoch: 9/9/9\r\nX-MAIA_Tenant-ID: other\r\nX.MAIA.Hops: 1\r\n\
                      X_Forwarded_For: 10.0.0.1\r\nX_Request_ID: r\r\nX_Own: kept\r\n\
                      X-MAIA-Acked-Regions: z\r\nX-MAIA-Region: z\r\n";
    let put = request("PUT", "/v1/x", "here", lookalikes, "body");
    assert_eq!(stage.proxy.ask(&put).await.status, 200);
    let asked = stage.origin.last();
    let odd = asked
        .headers
        .iter()
        .filter(|(name, _)| name.contains(['_', '.']));
    let odd: Vec<String> = odd.map(|(name, _)| name.to_lowercase()).collect();
    assert_eq!(odd, ["x_own"]);
    assert_eq!(asked.all("x-maia-tenant-id"), ["here"]);
    for answers in ["x-maia-acked-regions", "x-maia-region"] {
        assert!(asked.all(answers).is_empty(), "{answers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_header_takes_nothing_that_decisions_rest_on() {
    let stage = Stage::new(&[]).await;
    let nominated = "Connection: X-MAIA-Tenant-ID, x-maia-consistency-token, x-own\r\n\
                     Connection: x-maia-placement-epoch, x-request-id\r\n\
                     X-MAIA-Consistency-Token: t\r\nX-Own: 1\r\nX-Request-ID: r-1\r\n";
    let put = request("PUT", "/v1/x", "here", nominated, "body");
    assert_eq!(stage.proxy.ask(&put).await.status, 200);
    let asked = stage.origin.last();
    for (name, value) in [
        ("x-maia-tenant-id", "here"),
        ("x-maia-consistency-token", "t"),
        ("x-maia-placement-epoch", "1/7/4"),
        ("x-request-id", "r-1"),
    ] {
        assert_eq!(asked.all(name), [value], "{name}");
    }
    assert!(asked.all("x-own").is_empty(), "hop by hop, as it says");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_origin_never_sees_makes_nothing_repeatable() {
    let stage = Stage::new(&[]).await;
    let headers = "Connection: idempotency-key\r\nIdempotency-Key: k\r\n";
    let response = stage
        .proxy
        .ask(&request("POST", "/break", "here", headers, "body"))
        .await;
    assert!(stage.origin.last().all("idempotency-key").is_empty());
    assert_eq!(stage.origin.asked().len(), 1, "not repeated");
    assert_eq!(response.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_upgraded() {
    let stage = Stage::new(&[]).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n";
    let mut client = stage.proxy.client().await;
    for method in ["GET", "PUT"] {
        client
            .send(request(method, "/v1/x", "here", upgrade, "body"))
            .await;
        let response = client.response().await;
        assert_eq!(response.json()["body_bytes"], 4);
        let asked = stage.origin.last();
        assert!(asked.all("upgrade").is_empty(), "{method}");
        assert!(!asked.all("connection").contains(&"Upgrade"), "{method}");
    }
    client
        .send(request("PUT", "/v1/x", "there", upgrade, "small body"))
        .await;
    assert_eq!(client.response().await.status, 307);
    client.send(request("GET", "/v1/x", "here", "", "")).await;
    assert_eq!(
        client.response().await.status,
        200,
        "the body is no request"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_maia_may_say_is_taken_from_an_origins_response() {
    let stage = Stage::new(&[]).await;
    let response = stage
        .proxy
        .ask(&request("GET", "/v1/x", "here", "", ""))
        .await;
    for name in [
        "x-maia-placement-epoch",
        "x-maia-redirect-reason",
        "x-maia-primary-region",
        "x-maia-hops",
    ] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert_eq!(response.header("x-maia-region"), Some("a"));
    assert_eq!(response.header("x-maia-consistency-token"), Some("t"));
}
