//! Three etcd nodes of Debian on loopback, with their defaults (each put on disk before it is
//! answered), for a comparison; and the two calls of its API that it takes. Gone when dropped.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::wait::wait_value;

const NODES: usize = 3;
const ELECTS: Duration = Duration::from_secs(30);

/// `etcdserverpb.PutRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse` and `StatusRequest`, of which nothing is of interest.
#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

/// `etcdserverpb.ResponseHeader`
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// `etcdserverpb.StatusResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// The nodes.
pub struct Etcd {
    children: Vec<Child>,
    leader: Channel,
    _dir: tempfile::TempDir,
}

/// A connection of its own to the leader.
#[derive(Clone)]
pub struct Client(Grpc<Channel>);

impl Etcd {
    /// Starts three and waits for a leader; `None` where etcd is not installed.
    pub async fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ports = free_ports(2 * NODES);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let members: Vec<String> = (0..NODES)
            .map(|i| format!("n{i}={}", url(ports[NODES + i])))
            .collect();
        let mut children = Vec::new();
        for i in 0..NODES {
            let (client, peer) = (url(ports[i]), url(ports[NODES + i]));
            let started = Command::new("etcd")
                .args(["--name", &format!("n{i}"), "--log-level", "error"])
                .arg("--data-dir")
                .arg(dir.path().join(format!("n{i}")))
                .args(["--listen-client-urls", &client])
                .args(["--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer])
                .args(["--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &members.join(",")])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn();
            children.push(started.ok()?);
        }
        let leader = wait_value(ELECTS, "etcd has a leader", || async {
            for port in &ports[..NODES] {
                let endpoint = Endpoint::from_shared(url(*port)).expect("a URL");
                let Ok(channel) = endpoint.connect().await else {
                    continue;
                };
                let status = Client(Grpc::new(channel.clone())).status().await;
                let leads = |s: &Status| s.header.as_ref().is_some_and(|h| h.member_id == s.leader);
                if status.is_some_and(|s| s.leader != 0 && leads(&s)) {
                    return Some(channel);
                }
            }
            None
        })
        .await;
        Some(Self {
            children,
            leader,
            _dir: dir,
        })
    }

    /// The nodes' process ids.
    pub fn pids(&self) -> Vec<i32> {
        let ids = self.children.iter().filter_map(Child::id);
        ids.filter_map(|id| i32::try_from(id).ok()).collect()
    }

    /// A client of the leader.
    pub fn client(&self) -> Client {
        Client(Grpc::new(self.leader.clone()))
    }
}

impl Client {
    /// Puts one value; whether it was acknowledged.
    pub async fn put(&mut self, key: &str, value: &[u8]) -> bool {
        let (key, value) = (key.as_bytes().to_vec(), value.to_vec());
        let put = Put { key, value };
        let put = self.call::<_, Nothing>(put, "/etcdserverpb.KV/Put");
        put.await.is_some()
    }

    async fn status(&mut self) -> Option<Status> {
        self.call(Nothing {}, "/etcdserverpb.Maintenance/Status")
            .await
    }

    async fn call<A, B>(&mut self, message: A, path: &'static str) -> Option<B>
    where
        A: prost::Message + Send + Sync + 'static,
        B: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await.ok()?;
        let path = PathAndQuery::from_static(path);
        let request = tonic::Request::new(message);
        let answered = self.0.unary(request, path, ProstCodec::<A, B>::default());
        Some(answered.await.ok()?.into_inner())
    }
}

/// Ports that nobody listens on at this moment.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let listeners: Vec<TcpListener> = listeners.collect();
    let port = |l: &TcpListener| l.local_addr().expect("it is bound").port();
    listeners.iter().map(port).collect()
}
