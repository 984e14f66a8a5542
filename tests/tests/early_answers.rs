//! Answers that are given before the body has come: the client gets them whole, and what is left of
//! the body is never read as the next request.

use maia_tests::curl::curl;
use maia_tests::{Cluster, wait_value};
use reqwest::Method;

const BIG: usize = 10 << 20;

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.place("acme", 1, &[0]).await;
    cluster
}

/// How often a thing with a race in it is tried.
const ROUNDS: usize = 20;

#[tokio::test]
async fn a_large_body_is_answered_307_and_the_connection_stays_sane() {
    let cluster = cluster().await;
    let body = vec![b'x'; BIG];
    let big = cluster
        .through(0, "acme", Method::POST, "/v1/data/notes/big")
        .body(body);
    let small = cluster
        .through(0, "acme", Method::PUT, "/v1/data/notes/small")
        .body("1");
    let expected = format!("{}/v1/data/notes/big", cluster.region(1).proxy_url);
    for _ in 0..ROUNDS {
        let answer = cluster.client.send(&big).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (307, Some(expected.as_str()))
        );
        // On the same connection or a new one: it is this request's own answer.
        let answer = cluster.client.send(&small).await;
        assert_eq!(answer.status, 307, "{}", answer.text());
        assert!(
            answer
                .header("location")
                .is_some_and(|url| url.ends_with("/small"))
        );
    }
}

#[tokio::test]
async fn curl_gets_its_answer_with_and_without_expect_100_continue() {
    let cluster = cluster().await;
    let file = cluster.dir().join("big");
    std::fs::write(&file, vec![b'x'; BIG]).expect("a file of 10 MB");
    let data = format!("@{}", file.display());
    let url = format!("{}/v1/data/notes/big", cluster.region(0).proxy_url);
    let small = format!("{}/v1/data/notes/small", cluster.region(0).proxy_url);
    let format = "%{http_code} %header{location}\n";
    let base = [
        "-o",
        "/dev/null",
        "-w",
        format,
        "-H",
        "X-MAIA-Tenant-ID: acme",
        "-X",
        "POST",
    ];
    for expect in ["Expect: 100-continue", "Expect:"] {
        for _ in 0..5 {
            // The second transfer uses the first's connection again if it is still open.
            let mut arguments = base.to_vec();
            arguments.extend(["-H", expect, "--data-binary", &data, &url, "--next"]);
            arguments.extend(["--silent", "--noproxy", "*"]);
            arguments.extend(base);
            arguments.extend(["-d", "1", &small]);
            let result = curl(&arguments).await;
            let lines: Vec<&str> = result.stdout.lines().collect();
            let redirected =
                |path: &str| format!("307 {}/v1/data/notes/{path}", cluster.region(1).proxy_url);
            assert!(result.ok, "{expect}: {} {}", result.stdout, result.stderr);
            assert_eq!(lines, [redirected("big"), redirected("small")], "{expect}");
        }
    }
}

#[tokio::test]
async fn an_expected_continue_is_given_where_the_body_is_wanted() {
    let cluster = cluster().await;
    let file = cluster.dir().join("body");
    std::fs::write(&file, vec![b'y'; 1 << 20]).expect("a file of 1 MB");
    let data = format!("@{}", file.display());
    let url = format!("{}/v1/data/notes/expected", cluster.region(1).proxy_url);
    let result = curl(&[
        "-v",
        "-X",
        "PUT",
        "-H",
        "X-MAIA-Tenant-ID: acme",
        "-H",
        "Expect: 100-continue",
        "--data-binary",
        &data,
        &url,
    ])
    .await;
    assert!(
        result.ok && result.stderr.contains("< HTTP/1.1 20"),
        "{}",
        result.stderr
    );
    let read = cluster.through(1, "acme", Method::GET, "/v1/data/notes/expected");
    let answer = cluster.client.send(&read).await.expect_success("read");
    assert_eq!(answer.body.len(), 1 << 20);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_with_its_code() {
    let cluster = cluster().await;
    let request = cluster
        .through(1, "acme", Method::PUT, "/v1/data/notes/huge")
        .body(vec![b'x'; 20 << 20]);
    cluster
        .client
        .send(&request)
        .await
        .expect_problem(413, "body_too_large");
    let request = cluster
        .through(1, "acme", Method::PUT, "/v1/data/notes/large")
        .body(vec![b'x'; 5 << 20]);
    cluster
        .client
        .send(&request)
        .await
        .expect_problem(413, "body_too_large");
    let fine = cluster
        .through(1, "acme", Method::PUT, "/v1/data/notes/fine")
        .body("1");
    wait_value(maia_tests::cluster::SOON, "others are served", || async {
        cluster.client.send(&fine).await.is_success().then_some(())
    })
    .await;
}

#[tokio::test]
async fn curl_follows_with_method_and_body_kept() {
    let cluster = cluster().await;
    let url = format!("{}/v1/data/notes/curl", cluster.region(0).proxy_url);
    let result = curl(&[
        "-L",
        "-X",
        "PUT",
        "-H",
        "X-MAIA-Tenant-ID: acme",
        "-d",
        "{\"by\":\"curl\"}",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{num_redirects}",
        &url,
    ])
    .await;
    assert!(result.ok && result.stdout.starts_with("20"), "{result:?}");
    assert!(result.stdout.ends_with(" 1"), "{result:?}");
    let read = cluster.through(1, "acme", Method::GET, "/v1/data/notes/curl");
    let answer = cluster.client.send(&read).await.expect_success("read");
    assert_eq!(answer.body, b"{\"by\":\"curl\"}");
}
