//! The admin listener's connections.

use std::time::Duration;

use crate::support::Stage;
use crate::support::client::Connection;

#[tokio::test(flavor = "multi_thread")]
async fn a_scraper_may_keep_its_connection() {
    let stage = Stage::new(&["timeouts.header=300ms"]).await;
    let mut scraper = Connection::try_open(stage.proxy.admin).await.unwrap();
    let long = "x".repeat(1000);
    let get = format!("GET /explain?tenant=here HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n");
    for round in 0..100 {
        scraper.send(&get).await;
        let response = scraper.try_response().await;
        assert_eq!(response.map(|r| r.status), Some(200), "request {round}");
        if round % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    let post = "POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    scraper.send(post).await;
    let refused = scraper.response().await;
    assert_eq!(
        (refused.status, refused.header("connection")),
        (405, Some("close"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_drips_is_cut_off_on_every_request() {
    let stage = Stage::new(&["timeouts.header=300ms"]).await;
    let mut scraper = Connection::try_open(stage.proxy.admin).await.unwrap();
    scraper.send("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(scraper.response().await.status, 200);
    scraper.send("GET /livez HTTP/1.1\r\nX-Slow: ").await;
    assert!(scraper.try_response().await.is_none(), "waits for more");
}
