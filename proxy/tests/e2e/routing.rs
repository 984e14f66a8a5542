//! Where requests go, and what is refused.

use crate::support::{Stage, request};

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_known_tenant_are_refused_by_name_and_keep_their_connection() {
    let stage = Stage::new(&[]).await;
    let long = "x".repeat(129);
    let mut connection = stage.proxy.client().await;
    let plain = |headers: &str| format!("GET /v1 HTTP/1.1\r\nHost: f\r\n{headers}\r\n");
    let cases = [
        (plain(""), 400, "tenant_required"),
        (plain("X-MAIA-Tenant-ID: \r\n"), 400, "invalid_tenant"),
        (plain("X-MAIA-Tenant-ID: a b\r\n"), 400, "invalid_tenant"),
        (plain("X-MAIA-Tenant-ID: ../x\r\n"), 400, "invalid_tenant"),
        (
            plain(&format!("X-MAIA-Tenant-ID: {long}\r\n")),
            400,
            "invalid_tenant",
        ),
        (
            plain("X-MAIA-Tenant-ID: here\r\nX-MAIA-Tenant-ID: there\r\n"),
            400,
            "invalid_tenant",
        ),
        (plain("X-MAIA-Tenant-ID: nobody\r\n"), 404, "unknown_tenant"),
        (
            request("PUT", "/v1", "nobody", "", "body"),
            404,
            "unknown_tenant",
        ),
    ];
    for (text, status, code) in cases {
        connection.send(&text).await;
        let response = connection.response().await;
        assert_eq!(
            (response.status, response.code().as_str()),
            (status, code),
            "{text}"
        );
        assert_eq!(
            response.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(response.header("x-maia-region"), Some("a"));
    }
    assert!(stage.origin.asked().is_empty(), "fail closed (I10)");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lives_here_is_passed_with_the_fencing_token_and_without_forgeries() {
    let stage = Stage::new(&[]).await;
    let forged = "X-MAIA-Placement-Epoch: 9/9/9\r\nX-MAIA-Hops: 1\r\nX-Request-ID: r-1\r\ntraceparent: 00-t\r\n";
    let response = stage
        .proxy
        .ask(&request("PUT", "/v1/x?y=%2F", "here", forged, "hello"))
        .await;
    assert_eq!(response.status, 200);
    assert_eq!(
        response.header("x-maia-region"),
        Some("a"),
        "not what the origin says"
    );
    assert_eq!(response.header("x-request-id"), Some("r-1"));
    let asked = stage.origin.last();
    assert_eq!(
        (asked.path.as_str(), asked.body.as_slice()),
        ("/v1/x?y=%2F", &b"hello"[..])
    );
    assert_eq!(asked.all("x-maia-placement-epoch"), ["1/7/4"]);
    assert!(asked.all("x-maia-hops").is_empty());
    for (name, value) in [
        ("x-maia-tenant-id", "here"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("forwarded", "for=127.0.0.1;proto=http"),
        ("x-request-id", "r-1"),
        ("traceparent", "00-t"),
    ] {
        assert_eq!(asked.all(name), [value], "{name}");
    }
    let made = stage
        .proxy
        .ask(&request("GET", "/v1/x", "here", "", ""))
        .await;
    assert_eq!(made.header("x-request-id").unwrap().len(), 32);
    assert_eq!(
        stage.origin.last().all("x-request-id"),
        [made.header("x-request-id").unwrap()]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misrouted_write_is_told_where_to_go_and_the_connection_lives_on() {
    let stage = Stage::new(&[]).await;
    let mut connection = stage.proxy.client().await;
    for round in 0..3 {
        let path = format!("/v1/data/notes/{round}?q=a%20b&c=%2F..");
        connection
            .send(request("POST", &path, "there", "", "small body"))
            .await;
        let response = connection.response().await;
        assert_eq!(response.status, 307);
        let location = format!("http://b.example/base{path}");
        assert_eq!(response.header("location"), Some(location.as_str()));
        assert_eq!(
            response.header("x-maia-redirect-reason"),
            Some("write-to-primary")
        );
        assert_eq!(response.header("x-maia-primary-region"), Some("b"));
        assert_eq!(response.header("x-maia-region"), Some("a"));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert_eq!(response.header("content-length"), Some("0"));
        assert_eq!(response.header("connection"), Some("keep-alive"));
    }
    assert!(stage.origin.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_of_a_redirect_never_comes_from_the_client() {
    let stage = Stage::new(&[]).await;
    let absolute = "PUT http://evil.example/x?y HTTP/1.1\r\nHost: evil.example\r\nX-MAIA-Tenant-ID: there\r\nX-Forwarded-Host: evil.example\r\nContent-Length: 0\r\n\r\n";
    let response = stage.proxy.ask(absolute).await;
    assert_eq!(
        response.header("location"),
        Some("http://b.example/base/x?y")
    );
    let double = stage
        .proxy
        .ask(&request("PUT", "//evil.example/x", "there", "", ""))
        .await;
    assert_eq!(
        double.header("location"),
        Some("http://b.example/base//evil.example/x")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_stay_here_where_they_can_and_follow_their_preference() {
    let stage = Stage::new(&[]).await;
    let get = |tenant: &str, preferred: &str| {
        let headers = match preferred {
            "" => String::new(),
            region => format!("X-MAIA-Preferred-Region: {region}\r\n"),
        };
        request("GET", "/v1/x", tenant, &headers, "")
    };
    for (tenant, preferred, status, reason) in [
        ("here", "", 200, None),
        ("there", "", 200, None),
        ("there", "a", 200, None),
        ("there", "b", 307, Some("preferred-region")),
        ("there", "c", 200, None),
        ("there", "atlantis", 200, None),
        ("there", "\u{1}", 400, None),
        ("away", "", 307, Some("no-local-replica")),
        ("away", "c", 307, Some("preferred-region")),
        ("lost", "", 200, None),
        ("moving", "", 200, None),
    ] {
        let response = stage.proxy.ask(&get(tenant, preferred)).await;
        assert_eq!(response.status, status, "{tenant} {preferred}");
        assert_eq!(
            response.header("x-maia-redirect-reason"),
            reason,
            "{tenant} {preferred}"
        );
    }
    let write = request(
        "PUT",
        "/v1/x",
        "there",
        "X-MAIA-Preferred-Region: a\r\n",
        "",
    );
    assert_eq!(
        stage.proxy.ask(&write).await.status,
        307,
        "a preference moves no write"
    );
    let mut head = stage.proxy.client().await;
    head.send("HEAD /v1/x HTTP/1.1\r\nHost: f\r\nX-MAIA-Tenant-ID: nobody\r\n\r\n")
        .await;
    assert_eq!(head.head_response().await.status, 404);
    head.send(get("here", "")).await;
    assert_eq!(
        head.response().await.status,
        200,
        "an answer to HEAD has no body"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cors_preflight_passes_without_a_tenant() {
    let stage = Stage::new(&[]).await;
    let preflight = "OPTIONS /v1/x HTTP/1.1\r\nHost: f\r\nOrigin: https://app.example\r\nAccess-Control-Request-Method: PUT\r\n\r\n";
    assert_eq!(stage.proxy.ask(preflight).await.status, 200);
    assert!(stage.origin.last().all("x-maia-placement-epoch").is_empty());
    let with_body = preflight.replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(
        stage.proxy.ask(&with_body).await.code(),
        "tenant_required",
        "browsers send none"
    );
    let plain = "OPTIONS /v1/x HTTP/1.1\r\nHost: f\r\n\r\n";
    assert_eq!(stage.proxy.ask(plain).await.code(), "tenant_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_would_happen_and_why() {
    let stage = Stage::new(&[]).await;
    let write = stage
        .proxy
        .explain("tenant=there&method=PUT&path=%2Fv1%2Fx%3Fy")
        .await;
    assert_eq!(write["decision"], "redirect");
    assert_eq!(write["reason"], "write-to-primary");
    assert_eq!(write["region"], "b");
    assert_eq!(write["location"], "http://b.example/base/v1/x?y");
    let facts = &write["facts"];
    for (name, value) in [
        ("revision", 10.into()),
        ("generation", 1.into()),
        ("group", 2.into()),
        ("term", 7.into()),
        ("version", 4.into()),
        ("local_region", "a".into()),
        ("primary_region", "b".into()),
        ("home_region", "b".into()),
        ("class", serde_json::Value::from("write")),
    ] {
        assert_eq!(facts[name], value, "{name}");
    }
    assert!(facts["placement_age_ms"].as_u64().unwrap() < 5000);
    assert_eq!(
        stage.proxy.explain("tenant=here&method=PUT").await["decision"],
        "local"
    );
    assert_eq!(
        stage.proxy.explain("tenant=lost&method=PUT").await["error"],
        "group_leaderless"
    );
    assert_eq!(
        stage.proxy.explain("tenant=nobody").await["error"],
        "unknown_tenant"
    );
    let read = stage.proxy.explain("tenant=away&preferred_region=c").await;
    assert_eq!(
        (&read["reason"], &read["region"]),
        (&"preferred-region".into(), &"c".into())
    );
    let topology = stage.proxy.admin("/topology").await.unwrap().json();
    assert_eq!(topology["regions"].as_array().unwrap().len(), 3);
    assert_eq!(topology["groups"].as_array().unwrap().len(), 4);
    assert_eq!(stage.proxy.admin("/explain").await.unwrap().status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_standard_refuses_is_refused() {
    let stage = Stage::new(&[]).await;
    for malformed in [
        "GET /v1/x HTTP/1.1\r\nX-MAIA-Tenant-ID: here\r\n\r\n",
        "PUT /v1/x HTTP/1.1\r\nHost: f\r\nX-MAIA-Tenant-ID: here\r\nContent-Length: 2, 2\r\n\r\nab",
    ] {
        assert_eq!(stage.proxy.ask(malformed).await.status, 400, "{malformed}");
    }
    assert!(stage.origin.asked().is_empty());
}
