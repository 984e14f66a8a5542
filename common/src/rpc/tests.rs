//! Who gets through to whom, over real connections on loopback, with certificates made here.

mod lifetime;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Response, Status, Streaming};

use super::*;
use crate::ids::{ClusterName, NodeId, ProxyId};
use crate::runtime::Tasks;
use crate::wire::raft::{self as wire, raft_client::RaftClient, raft_server};

const YEAR_S: i64 = 365 * 86_400;

/// A CA, in a folder of its own.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority() -> Authority {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let pem = params.self_signed(&key).unwrap().pem();
    std::fs::write(dir.path().join("ca.pem"), &pem).unwrap();
    let issuer = Issuer::new(params, key);
    Authority { dir, issuer, pem }
}

fn node(id: u64) -> Party {
    Party::Node(NodeId::new(id))
}

fn proxy(id: &str) -> Party {
    Party::Proxy(ProxyId::new(id).unwrap())
}

impl Authority {
    /// Writes a certificate and its key; `left_s` negative: it has expired.
    fn issue(&self, name: &str, uris: &[String], left_s: i64) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let of = |uri: &String| SanType::URI(uri.as_str().try_into().unwrap());
        params.subject_alt_names = uris.iter().map(of).collect();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let expires = since_1970.as_secs().checked_add_signed(left_s).unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(expires);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |ending: &str| self.dir.path().join(format!("{name}.{ending}"));
        std::fs::write(at("pem"), certificate.pem()).unwrap();
        std::fs::write(at("key"), key.serialize_pem()).unwrap();
        TlsFiles {
            ca: self.dir.path().join("ca.pem"),
            certificate: at("pem"),
            key: at("key"),
        }
    }

    fn credentials(&self, party: &Party, left_s: i64) -> Credentials {
        let name = party.to_string();
        let uri = party.uri(&ClusterName::new("c").unwrap());
        let files = self.issue(&name, &[uri], left_s);
        Credentials::load(files, party.clone()).unwrap()
    }

    fn rpc(&self, party: &Party) -> Rpc {
        Rpc::tls(self.credentials(party, YEAR_S))
    }
}

/// Answers votes of whom the caller may speak for, and appends never.
struct Votes;

#[tonic::async_trait]
impl raft_server::Raft for Votes {
    async fn append(
        &self,
        _: Request<wire::AppendRequest>,
    ) -> Result<Response<wire::AppendReply>, Status> {
        std::future::pending().await
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteReply>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let from = request.into_inner().envelope.unwrap_or_default().from;
        caller.speaks_for(&node(from))?;
        Ok(Response::new(wire::VoteReply::default()))
    }

    async fn transfer(
        &self,
        _: Request<wire::TransferRequest>,
    ) -> Result<Response<wire::TransferReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<wire::SnapshotPart>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// A server of nodes; returns its address. It ends with the test's runtime.
async fn serve(rpc: &Rpc) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tasks = Tasks::new();
    let incoming = rpc.incoming(listener, &Handle::current(), &tasks);
    let service =
        InterceptedService::new(raft_server::RaftServer::new(Votes), rpc.admit(Kind::Nodes));
    tasks.spawn("server", async move {
        let server = tonic::transport::Server::builder().add_service(service);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    address
}

async fn vote(rpc: &Rpc, address: &str, target: Target, from: u64) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint.connect_timeout(Duration::from_secs(10));
    let mut client = RaftClient::new(rpc.connect_lazy(&endpoint, target));
    let envelope = wire::Envelope {
        group: 0,
        from,
        to: 1,
    };
    let request = wire::VoteRequest {
        envelope: Some(envelope),
        ..wire::VoteRequest::default()
    };
    client.vote(request).await.map(drop)
}

const FIRST: Target = Target::Node(NodeId::new(1));

/// What kept the connection from being made, if that is what failed.
fn connect_error(status: &Status) -> Option<&ConnectError> {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref::<ConnectError>() {
            return Some(found);
        }
        source = error.source();
    }
    None
}

fn not_connected(status: &Status) -> &ConnectError {
    connect_error(status).unwrap_or_else(|| panic!("the connection was made: {status:?}"))
}

#[tokio::test]
async fn a_node_speaks_for_itself_alone() {
    let ours = authority();
    let address = serve(&ours.rpc(&node(1))).await;
    let two = ours.rpc(&node(2));
    vote(&two, &address, FIRST, 2).await.unwrap();
    vote(&two, &address, Target::AnyNode, 2).await.unwrap();
    let refused = vote(&two, &address, FIRST, 3).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("node 2, not of node 3"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_proxy_does_not_ask_what_nodes_ask() {
    let ours = authority();
    let address = serve(&ours.rpc(&node(1))).await;
    let refused = vote(&ours.rpc(&proxy("p")), &address, FIRST, 2).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("only nodes"), "{refused}");
}

#[tokio::test]
async fn a_certificate_that_names_nobody_calls_nothing() {
    let ours = authority();
    let address = serve(&ours.rpc(&node(1))).await;
    let nameless = ours.issue("nameless", &["https://c/node/2".to_owned()], YEAR_S);
    assert!(Credentials::load(nameless, node(2)).is_err());
    let other = ours.issue("other", &["maia://other/node/2".to_owned()], YEAR_S);
    let other = Rpc::tls(Credentials::load(other, node(2)).unwrap());
    // It takes nobody of this cluster for one of its own, either.
    let refused = vote(&other, &address, FIRST, 2).await.unwrap_err();
    assert!(matches!(
        not_connected(&refused),
        ConnectError::Another { .. }
    ));
}

#[tokio::test]
async fn another_node_than_was_meant_gets_no_call() {
    let ours = authority();
    let address = serve(&ours.rpc(&node(1))).await;
    let nine = Target::Node(NodeId::new(9));
    let refused = vote(&ours.rpc(&node(2)), &address, nine, 2).await;
    let refused = refused.unwrap_err();
    let error = not_connected(&refused).to_string();
    assert_eq!(error, "wanted node 9 of c, and there is node 1 of c");
}

#[tokio::test]
async fn certificates_of_another_ca_are_refused_on_both_sides() {
    let (ours, theirs) = (authority(), authority());
    let address = serve(&ours.rpc(&node(1))).await;
    let stranger = theirs.rpc(&node(2));
    let refused = vote(&stranger, &address, FIRST, 2).await.unwrap_err();
    let error = not_connected(&refused).to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    // One that would take ours: it knows both CAs, but its own certificate is of the other.
    let both = format!("{}{}", ours.pem, theirs.pem);
    std::fs::write(theirs.dir.path().join("ca.pem"), both).unwrap();
    let refused = vote(&theirs.rpc(&node(2)), &address, FIRST, 2).await;
    let refused = refused.unwrap_err();
    let error = not_connected(&refused).to_string();
    assert!(error.contains("alert"), "{error}");
}

#[tokio::test]
async fn expired_certificates_are_refused_on_both_sides() {
    let ours = authority();
    let address = serve(&ours.rpc(&node(1))).await;
    let expired = ours.credentials(&node(2), -YEAR_S);
    assert!(expired.expiry().certificate_s < 0);
    let refused = vote(&Rpc::tls(expired), &address, FIRST, 2).await;
    let refused = refused.unwrap_err();
    let error = not_connected(&refused).to_string();
    assert!(error.contains("CertificateExpired"), "{error}");
    let late = serve(&Rpc::tls(ours.credentials(&node(1), -YEAR_S))).await;
    let refused = vote(&ours.rpc(&node(2)), &late, FIRST, 2).await;
    let refused = refused.unwrap_err();
    let error = not_connected(&refused).to_string();
    assert!(error.contains("xpired"), "{error}");
}

#[tokio::test]
async fn nothing_in_the_clear_reaches_a_listener_with_tls() {
    let ours = authority();
    let address = serve(&ours.rpc(&node(1))).await;
    let key = ClusterKey::from_secret("a secret of this test, and of no other");
    let plain = Rpc::plaintext(&key);
    assert!(vote(&plain, &address, FIRST, 2).await.is_err());
    // And in the clear the key alone decides.
    let open = serve(&plain).await;
    vote(&plain, &open, FIRST, 2).await.unwrap();
    let other = Rpc::plaintext(&ClusterKey::from_secret(
        "another secret, of another cluster",
    ));
    let refused = vote(&other, &open, FIRST, 2).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let tls = vote(&ours.rpc(&node(2)), &open, FIRST, 2).await;
    assert!(tls.is_err());
}

#[tokio::test]
async fn newer_files_are_used_for_the_next_connection_and_bad_ones_never() {
    let (old, new) = (authority(), authority());
    let uri = node(1).uri(&ClusterName::new("c").unwrap());
    let files = old.issue("one", std::slice::from_ref(&uri), YEAR_S);
    let server = Rpc::tls(Credentials::load(files.clone(), node(1)).unwrap());
    let Way::Tls(credentials) = &*server.0 else {
        unreachable!("it speaks TLS")
    };
    let address = serve(&server).await;
    let two = old.rpc(&node(2));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut before = RaftClient::new(two.connect(&endpoint, FIRST).await.unwrap());
    let ask = || wire::VoteRequest {
        envelope: Some(wire::Envelope {
            from: 2,
            ..wire::Envelope::default()
        }),
        ..wire::VoteRequest::default()
    };
    before.vote(ask()).await.unwrap();
    // Half of a replacement: the key is not the certificate's.
    let next = new.issue("one", std::slice::from_ref(&uri), YEAR_S);
    std::fs::copy(&next.key, &files.key).unwrap();
    assert!(credentials.reread().is_err());
    vote(&two, &address, FIRST, 2).await.unwrap();
    // The other half, with both CAs for now.
    std::fs::copy(&next.certificate, &files.certificate).unwrap();
    assert!(credentials.reread().is_err(), "of a CA that is not known");
    std::fs::write(&files.ca, format!("{}{}", old.pem, new.pem)).unwrap();
    credentials.reread().unwrap();
    let refused = vote(&two, &address, FIRST, 2).await.unwrap_err();
    let error = not_connected(&refused).to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    before.vote(ask()).await.unwrap();
    // Whoever knows both gets through with either.
    let both = old.rpc(&node(2));
    vote(&both, &address, FIRST, 2).await.unwrap();
    let other = new.issue("two", &["maia://other/node/1".to_owned()], YEAR_S);
    for (from, to) in [
        (&other.key, &files.key),
        (&other.certificate, &files.certificate),
    ] {
        std::fs::copy(Path::new(from), Path::new(to)).unwrap();
    }
    let fault = credentials.reread().unwrap_err().to_string();
    assert!(fault.contains("another cluster"), "{fault}");
}
