//! Connections end with the certificates that they were made with, and with the node at their other end.

use std::time::Instant;

use tokio::task::JoinHandle;

use super::*;

/// Certificates of these tests live so long, in seconds.
const SHORT_S: i64 = 5;
const PATIENCE: Duration = Duration::from_secs(30);

fn vote_of(from: u64) -> wire::VoteRequest {
    wire::VoteRequest {
        envelope: Some(wire::Envelope {
            from,
            ..wire::Envelope::default()
        }),
        ..wire::VoteRequest::default()
    }
}

/// A call that is answered when its connection ends, if ever.
fn hanging(client: &RaftClient<RpcChannel>) -> JoinHandle<Result<(), Status>> {
    let mut client = client.clone();
    tokio::spawn(async move {
        client
            .append(wire::AppendRequest::default())
            .await
            .map(drop)
    })
}

async fn broke_off(hanging: JoinHandle<Result<(), Status>>) {
    let ended = tokio::time::timeout(PATIENCE, hanging).await;
    let ended = ended.expect("the connection ends").unwrap();
    let status = ended.expect_err("nobody answers");
    let lost = connect_error(&status).is_none();
    assert!(lost, "it may have been carried out: {status:?}");
}

async fn connected(rpc: &Rpc, address: &str) -> RaftClient<RpcChannel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = RaftClient::new(rpc.connect_lazy(&endpoint, FIRST));
    client.vote(vote_of(2)).await.unwrap();
    client
}

#[tokio::test]
async fn a_connection_ends_with_the_first_certificate_that_does() {
    for (of_server_s, of_client_s) in [(SHORT_S, YEAR_S), (YEAR_S, SHORT_S)] {
        let ours = authority();
        let began = Instant::now();
        let server = Rpc::tls(ours.credentials(&node(1), of_server_s));
        let address = serve(&server).await;
        let two = Rpc::tls(ours.credentials(&node(2), of_client_s));
        let mut client = connected(&two, &address).await;
        broke_off(hanging(&client)).await;
        // A second is lost as certificates have no fractions, a tenth as connections end apart.
        assert!(began.elapsed() > Duration::from_millis(3500));
        // What is tried now may still get a last connection; then none is made any more.
        let refused = loop {
            if let Err(status) = client.vote(vote_of(2)).await
                && let Some(error) = connect_error(&status)
            {
                break error.to_string();
            }
            assert!(began.elapsed() < PATIENCE, "it goes on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(refused.contains("xpired"), "{refused}");
    }
}

#[tokio::test]
async fn who_has_a_newer_certificate_connects_anew() {
    let ours = authority();
    let address = serve(&ours.rpc(&node(1))).await;
    let credentials = ours.credentials(&node(2), SHORT_S);
    let two = Rpc::tls(credentials);
    let mut client = connected(&two, &address).await;
    let under_way = hanging(&client);
    drop(ours.credentials(&node(2), YEAR_S)); // its files, in the place of the old ones
    let Way::Tls(credentials) = &*two.0 else {
        unreachable!("it speaks TLS")
    };
    credentials.reread().unwrap();
    client.vote(vote_of(2)).await.unwrap();
    broke_off(under_way).await;
    client.vote(vote_of(2)).await.unwrap();
}

#[tokio::test]
async fn what_a_removed_node_has_under_way_ends() {
    let ours = authority();
    let server = ours.rpc(&node(1));
    let address = serve(&server).await;
    let two = ours.rpc(&node(2));
    for (removes, who) in [(&server, 2), (&two, 1)] {
        let mut client = connected(&two, &address).await;
        let under_way = hanging(&client);
        removes.removed([NodeId::new(9)].iter());
        client.vote(vote_of(2)).await.unwrap();
        assert!(!under_way.is_finished(), "another node was removed");
        removes.removed([NodeId::new(9), NodeId::new(who)].iter());
        broke_off(under_way).await;
        // It is let in for what it may still ask.
        client.vote(vote_of(2)).await.unwrap();
        let under_way = hanging(&client);
        removes.removed([1, 2, 9].map(NodeId::new).iter());
        client.vote(vote_of(2)).await.unwrap();
        assert!(!under_way.is_finished(), "that was known before");
        removes.removed([].iter());
    }
}
