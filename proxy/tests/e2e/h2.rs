//! HTTP/2 without TLS, by a client that begins with its preface.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};

use crate::support::{Stage, eventually};

async fn connect(stage: &Stage) -> SendRequest<Bytes> {
    let tcp = tokio::net::TcpStream::connect(stage.proxy.public)
        .await
        .unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(async move {
        let _closed = connection.await;
    });
    client.ready().await.unwrap()
}

fn request(method: &str, tenant: &str) -> Request<()> {
    Request::builder()
        .method(method)
        .uri("http://front.example/v1/x?y=%2F")
        .header("x-maia-tenant-id", tenant)
        .body(())
        .unwrap()
}

async fn text(response: Response<h2::RecvStream>) -> serde_json::Value {
    let mut body = response.into_body();
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    serde_json::from_slice(&all).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_share_a_connection_whatever_becomes_of_each() {
    let stage = Stage::new(&[]).await;
    let client = connect(&stage).await;
    for _ in 0..3 {
        // A large body that nobody reads: its stream ends, the connection does not.
        let mut sender = client.clone().ready().await.unwrap();
        let (answer, mut body) = sender
            .send_request(request("POST", "there"), false)
            .unwrap();
        // The answer may come before this: then the stream is closed already.
        let _sent = body.send_data(vec![b'x'; 10 << 20].into(), true);
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 307);
        assert_eq!(
            answer.headers()["location"],
            "http://b.example/base/v1/x?y=%2F"
        );
        let mut sender = client.clone().ready().await.unwrap();
        let (answer, mut body) = sender.send_request(request("PUT", "here"), false).unwrap();
        body.send_data(Bytes::from_static(b"hello"), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers()["x-maia-region"], "a");
        let echo = text(answer).await;
        assert_eq!(
            (&echo["path"], &echo["body_bytes"]),
            (&"/v1/x?y=%2F".into(), &5.into())
        );
        let mut sender = client.clone().ready().await.unwrap();
        let (answer, _) = sender.send_request(request("GET", "nobody"), true).unwrap();
        assert_eq!(text(answer.await.unwrap()).await["code"], "unknown_tenant");
    }
    let asked = stage.origin.last();
    assert_eq!(asked.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(asked.all("host"), ["front.example"]);
    assert_eq!(asked.all("x-maia-placement-epoch"), ["1/7/4"]);
    assert_eq!(stage.proxy.metric("maia_proxy_connections").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_stream_that_is_reset_waits_no_more() {
    let stage = Stage::new(&["proxy.hold_budget=20s"]).await;
    let client = connect(&stage).await;
    let held = |count: u64| {
        let stage = &stage;
        async move {
            eventually("so many are held", || async {
                stage.proxy.metric("maia_proxy_held_requests").await == count
            })
            .await;
        }
    };
    let mut sender = client.clone().ready().await.unwrap();
    let (_answer, mut body) = sender.send_request(request("PUT", "lost"), false).unwrap();
    held(1).await;
    body.send_reset(h2::Reason::CANCEL);
    held(0).await;
    let mut sender = client.clone().ready().await.unwrap();
    let (answer, _) = sender.send_request(request("PUT", "lost"), true).unwrap();
    held(1).await;
    stage.coordinator.hint(4, 2, "a", false).await;
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_sees_an_early_answer_whatever_it_still_sends() {
    let stage = Stage::new(&[]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    for size in [100, 70_000, 1 << 20, 10 << 20] {
        std::fs::write(file.path(), vec![b'x'; size]).unwrap();
        let output = tokio::process::Command::new("curl")
            .args(["--http2-prior-knowledge", "-sS", "-m", "8", "-X", "PUT"])
            .args(["-H", "X-MAIA-Tenant-ID: there", "-w", "%{http_code}"])
            .args(["--data-binary", &format!("@{}", file.path().display())])
            .arg(format!("http://{}/v1/x", stage.proxy.public))
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"307", "{size} bytes: {said}");
    }
}
