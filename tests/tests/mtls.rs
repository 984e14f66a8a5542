//! Who may speak gRPC with whom: strangers and impostors are refused, and told why; certificates and
//! the CA itself are replaced while everything runs; in the clear only where somebody said so.

use std::path::Path;

use maia_common::ids::{NodeId, ProxyId};
use maia_common::rpc::{Credentials, Party, Rpc, RpcChannel, Target};
use maia_common::wire::feed::{self, feed_client::FeedClient, up};
use maia_common::wire::peer::{self, peer_client::PeerClient};
use maia_common::wire::raft::{self, raft_client::RaftClient};
use maia_tests::certificates::{cert, client, issue};
use maia_tests::cluster::SOON;
use maia_tests::curl::curl;
use maia_tests::load::Writer;
use maia_tests::metrics::Metrics;
use maia_tests::{Cluster, Options, wait_until, wait_value};
use reqwest::Method;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

const DAY_S: f64 = 86_400.0;
const EXPIRES: &str = "maia_tls_certificate_expires_seconds";

fn node(id: u64) -> Party {
    Party::Node(NodeId::new(id))
}

fn proxy(id: &str) -> Party {
    Party::Proxy(ProxyId::new(id).expect("a legal id"))
}

fn channel(cluster: &Cluster, rpc: &Rpc, at: usize) -> RpcChannel {
    let region = cluster.region(at);
    let endpoint = Endpoint::from_shared(format!("http://{}", region.rpc_addr));
    let target = Target::Node(NodeId::new(region.coordinator_id));
    rpc.connect_lazy(&endpoint.expect("an address"), target)
}

/// Asks a coordinator for a vote of the metastore that nobody can give.
async fn vote(
    cluster: &Cluster,
    rpc: &Rpc,
    at: usize,
    from: u64,
    candidate: u64,
) -> Result<(), Status> {
    let to = cluster.region(at).coordinator_id;
    let request = raft::VoteRequest {
        envelope: Some(raft::Envelope { group: 0, from, to }),
        ballot: Some(raft::Ballot {
            term: 0,
            node: candidate,
            committed: false,
        }),
        pre_vote: true,
        ..raft::VoteRequest::default()
    };
    let mut client = RaftClient::new(channel(cluster, rpc, at));
    client.vote(request).await.map(drop)
}

async fn identify(
    cluster: &Cluster,
    rpc: &Rpc,
    at: usize,
    asking_node: u64,
) -> Result<peer::IdentifyReply, Status> {
    let request = peer::IdentifyRequest {
        asking_node,
        ..peer::IdentifyRequest::default()
    };
    let mut client = PeerClient::new(channel(cluster, rpc, at));
    Ok(client.identify(request).await?.into_inner())
}

async fn subscribe(cluster: &Cluster, rpc: &Rpc, at: usize, proxy: &str) -> Result<(), Status> {
    let hello = feed::Hello {
        format: 1,
        proxy: proxy.to_owned(),
        region: cluster.region(at).name.clone(),
        ..feed::Hello::default()
    };
    let up = feed::Up {
        kind: Some(up::Kind::Hello(hello)),
    };
    let mut client = FeedClient::new(channel(cluster, rpc, at));
    let mut stream = client.subscribe(tokio_stream::iter([up])).await?;
    stream.get_mut().message().await.map(drop)
}

/// It was refused before it was a connection; what the error says.
fn no_connection(refused: Result<(), Status>) -> String {
    let status = refused.expect_err("it is refused");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    format!("{status:?}")
}

fn denied(refused: Result<(), Status>, why: &str) {
    let status = refused.expect_err("it is refused");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains(why), "{status}");
}

#[tokio::test]
async fn strangers_and_impostors_are_refused_and_told_why() {
    let cluster = Cluster::start().await;
    let ca = cluster.ca();
    let url = format!("https://{}/", cluster.region(0).rpc_addr);
    let nobody = curl(&["--insecure", "--http2", &url]).await;
    assert!(!nobody.ok && nobody.stdout.is_empty(), "{nobody:?}");
    let elsewhere = tempfile::tempdir().expect("a folder");
    cert(elsewhere.path(), &["ca", "--cluster", "local"]);
    std::fs::copy(ca.join("ca.pem"), elsewhere.path().join("known.pem")).expect("a copy");
    let mut files = issue(elsewhere.path(), &[node(2)], elsewhere.path(), 1);
    let other = Credentials::load(files.clone(), node(2)).expect("of its own CA");
    let refused = no_connection(vote(&cluster, &Rpc::tls(other), 0, 2, 2).await);
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    files.ca = elsewhere.path().join("known.pem");
    assert!(Credentials::load(files, node(2)).is_err(), "of another CA");
    let expired = client(&ca, &[node(2)], 0);
    wait_until(SOON, "an expired certificate is refused", || async {
        let refused = vote(&cluster, &expired, 0, 2, 2).await;
        refused.is_err_and(|status| format!("{status:?}").contains("CertificateExpired"))
    })
    .await;
    let two = cluster.rpc(&[node(2)]);
    // The group's own answer, whatever it is: the message got through to it.
    let heard = vote(&cluster, &two, 0, 2, 2).await;
    assert!(!matches!(&heard, Err(s) if s.code() == Code::PermissionDenied));
    denied(vote(&cluster, &two, 0, 3, 3).await, "node 2, not of node 3");
    denied(vote(&cluster, &two, 0, 2, 3).await, "node 2, not of node 3");
    let asked = identify(&cluster, &two, 0, 3).await.map(drop);
    denied(asked, "node 2, not of node 3");
    denied(
        subscribe(&cluster, &two, 0, "p").await,
        "only proxies call this",
    );
    let p = cluster.rpc(&[proxy("p")]);
    denied(vote(&cluster, &p, 0, 2, 2).await, "only nodes call this");
    let asked = identify(&cluster, &p, 0, 2).await.map(drop);
    denied(asked, "only nodes call this");
    denied(
        subscribe(&cluster, &p, 0, "q").await,
        "proxy p, not of proxy q",
    );
    subscribe(&cluster, &p, 0, "p")
        .await
        .expect("a proxy follows the feed");
    let log = cluster.coordinator_log(0);
    for line in [
        "peer sent no certificates",
        "certificate expired",
        "node 2, not of node 3",
        "only nodes call this, not proxy p",
    ] {
        assert!(log.contains(line), "the log lacks {line}");
    }
    let remove = ["node", "remove", "3", "--yes", "--wait"];
    cluster.run(&remove).await;
    let three = cluster.rpc(&[node(3)]);
    denied(vote(&cluster, &three, 0, 3, 3).await, "node 3 was removed");
    let told = identify(&cluster, &three, 0, 3).await.expect("an answer");
    assert!(told.asking_was_removed, "it may learn of its removal");
}

/// What a process says of its certificate: seconds left of its own, or of a CA's.
fn seconds(metrics: &Metrics, whose: &str) -> f64 {
    metrics.sum(EXPIRES, &[&format!("whose=\"{whose}\"")])
}

async fn coordinator_metrics(cluster: &Cluster, at: usize) -> Metrics {
    let url = format!("{}/metrics", cluster.region(at).api_url);
    let request = maia_tests::client::Request::new(Method::GET, url);
    Metrics::parse(&cluster.client.send(&request).await.text())
}

/// Waits until every process says that so many days are left.
async fn all_have(cluster: &Cluster, whose: &str, days: f64) {
    let due = |metrics: &Metrics| {
        let left = seconds(metrics, whose) / DAY_S;
        (days - 0.1..=days).contains(&left)
    };
    wait_until(SOON, "every process has taken it up", || async {
        for i in 0..cluster.regions().len() {
            let both = [
                coordinator_metrics(cluster, i).await,
                cluster.proxy_metrics(i).await,
            ];
            if !both.iter().all(due) {
                return false;
            }
        }
        true
    })
    .await;
}

/// A new certificate for each process, in place of the one that it has.
fn reissue(cluster: &Cluster, ca: &Path, days: u32) {
    for region in cluster.regions() {
        for party in [node(region.coordinator_id), proxy(&region.proxy_id)] {
            drop(issue(ca, &[party], ca, days));
        }
    }
}

#[tokio::test]
async fn certificates_and_the_ca_are_replaced_without_a_failed_write() {
    let options = Options::default().argument("--preset").argument("metro");
    let cluster = Cluster::start_with(options).await;
    cluster.place("t", 0, &[1, 2]).await;
    let ca = cluster.ca();
    let old = issue(&ca, &[node(2)], &cluster.dir().join("old"), 9);
    let old_rpc = || Rpc::tls(Credentials::load(old.clone(), node(2)).expect("files"));
    let before = old_rpc();
    let writer = Writer::new(&cluster, "t", &[0], "w");
    let rotated = async {
        reissue(&cluster, &ca, 100);
        all_have(&cluster, "own", 100.0).await;
        // One that was forgotten: told, and what is connected goes on.
        drop(issue(&ca, &[node(3)], &ca, 0));
        wait_until(SOON, "an expiry is told", || async {
            let health = cluster.api_get(2, "/v1/replication/health").await;
            let told = health["reasons"].to_string().contains("has expired");
            told && seconds(&coordinator_metrics(&cluster, 2).await, "own") <= 0.0
        })
        .await;
        cert(&ca, &["ca", "--next", "--days", "50"]);
        all_have(&cluster, "ca", 50.0).await;
        reissue(&cluster, &ca, 40);
        all_have(&cluster, "own", 40.0).await;
        let taken = |log: String| log.matches("newer rpc certificates are in use").count();
        let counts = || -> Vec<usize> {
            let regions = 0..cluster.regions().len();
            let of = |i| {
                [
                    taken(cluster.coordinator_log(i)),
                    taken(cluster.proxy_log(i)),
                ]
            };
            regions.flat_map(of).collect()
        };
        let counted = counts();
        cert(&ca, &["ca", "--drop-old"]);
        wait_until(SOON, "the old CA is dropped everywhere", || async {
            counts().iter().zip(&counted).all(|(now, then)| now > then)
        })
        .await;
        let so_far = writer.acked().len();
        wait_until(SOON, "writes go on", || async {
            writer.acked().len() > so_far + 10
        })
        .await;
    };
    tokio::select! {
        () = writer.run() => unreachable!("it writes until it is dropped"),
        () = rotated => {}
    }
    assert_eq!(writer.refused(), Vec::<String>::new());
    no_connection(vote(&cluster, &before, 0, 2, 2).await);
    assert!(
        Credentials::load(old, node(2)).is_err(),
        "its CA is not in the bundle any more"
    );
    cluster.kill_coordinator(0).await;
    cluster.restart_coordinator(0).await;
    let read = cluster.through(1, "t", Method::GET, "/v1/data/probe/0");
    wait_value(SOON, "the new certificates connect", || async {
        let answer = cluster.client.try_follow(&read).await.ok()?;
        answer.is_success().then_some(())
    })
    .await;
    assert_eq!(writer.missing(&cluster, 0).await, Vec::<String>::new());
}

#[tokio::test]
async fn in_the_clear_only_where_somebody_said_so() {
    let cluster = Cluster::start_with(Options::default().argument("--plaintext")).await;
    cluster.place("t", 0, &[1]).await;
    assert!(cluster.coordinator_log(0).contains("rpc.plaintext"));
    assert!(cluster.proxy_log(0).contains("rpc.plaintext"));
    let metrics = coordinator_metrics(&cluster, 0).await;
    assert!(seconds(&metrics, "own").abs() < f64::EPSILON);
    let config = cluster.region(0).dir.join("coordinator.toml");
    let text = std::fs::read_to_string(&config).expect("the configuration");
    let line = 1 + text
        .lines()
        .position(|line| line == "plaintext = true")
        .expect("it says so");
    let wrong = cluster.dir().join("wrong.toml");
    let files = "ca_file = \"/nowhere\"\ncertificate_file = \"c\"\nkey_file = \"k\"";
    for (written, fault) in [
        ("", "1: rpc.ca_file: is missing".to_owned()),
        (files, format!("{line}: rpc.ca_file: /nowhere: ")),
    ] {
        std::fs::write(&wrong, text.replace("plaintext = true", written)).expect("a file");
        let path = wrong.display().to_string();
        let checked = cluster.maiactl(&["config", "check", &path]).await;
        assert_eq!(checked.status.code(), Some(64));
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(said.contains(&format!("{path}:{fault}")), "{said}");
    }
}
