//! A proxy process with a fake coordinator and a fake origin around it.

#![allow(dead_code)]

pub mod client;
pub mod coordinator;
pub mod origin;

use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use client::{Connection, Response};
use coordinator::{Coordinator, World};
use origin::FakeOrigin;
use tokio::net::TcpSocket;

pub const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Asks until it is so; the condition is named where it never is.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ask().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A port that nobody listens on and nobody else gets, while it lives.
pub fn nobody() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

pub struct ProxyProcess {
    pub public: SocketAddr,
    pub admin: SocketAddr,
    pub child: Child,
    pub dir: tempfile::TempDir,
    set: Vec<String>,
}

fn run(dir: &std::path::Path, set: &[String]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maia-proxy"));
    command.arg("--config").arg(dir.join("proxy.toml"));
    for pair in set {
        command.arg("--set").arg(pair);
    }
    let filter = "info,maia_proxy=debug,pingora_proxy=off,pingora_core=off";
    command
        .env("MAIA_LOG", filter)
        .stdout(File::create(dir.join("access.log")).unwrap())
        .stderr(File::create(dir.join("proxy.log")).unwrap())
        .spawn()
        .unwrap()
}

impl Drop for ProxyProcess {
    #[expect(clippy::print_stdout, reason = "a failed test shows the proxy's log")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the proxy's log:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text of a configuration.
pub fn config_text(
    dir: &std::path::Path,
    coordinators: &[SocketAddr],
    origin: SocketAddr,
) -> String {
    let coordinators: Vec<String> = coordinators.iter().map(|c| format!("\"{c}\"")).collect();
    format!(
        "id = \"proxy-a\"\nregion = \"a\"\ndir = \"{dir}\"\ncluster_key_file = \"{dir}/cluster.key\"\n\
         [listen]\npublic = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [feed]\ncoordinators = [{coordinators}]\n\
         [origin]\nurl = \"http://{origin}\"\n\
         [proxy]\nhold_budget = \"2s\"\n[rpc]\nplaintext = true\n",
        dir = dir.display(),
        coordinators = coordinators.join(", "),
    )
}

impl ProxyProcess {
    /// Starts a proxy and waits until it has its ports.
    pub async fn start(coordinators: &[SocketAddr], origin: SocketAddr, set: &[&str]) -> Self {
        let mut proxy = Self::spawn(coordinators, origin, set);
        proxy.has_ports().await;
        proxy
    }

    async fn has_ports(&mut self) {
        eventually("the proxy has its ports", || {
            let ports = self.ports();
            if let Some((public, admin)) = ports {
                (self.public, self.admin) = (public, admin);
            }
            async move { ports.is_some() }
        })
        .await;
    }

    /// Starts another process in the folder of this one, which has ended or is killed now.
    pub async fn restart(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        self.child = run(self.dir.path(), &self.set);
        self.has_ports().await;
    }

    pub fn spawn(coordinators: &[SocketAddr], origin: SocketAddr, set: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("cluster.key"), KEY).unwrap();
        let text = config_text(dir.path(), coordinators, origin);
        std::fs::write(at("proxy.toml"), text).unwrap();
        let set: Vec<String> = set.iter().map(|pair| (*pair).to_owned()).collect();
        let child = run(dir.path(), &set);
        let unknown = "127.0.0.1:0".parse().unwrap();
        Self {
            public: unknown,
            admin: unknown,
            child,
            dir,
            set,
        }
    }

    /// Memory that is the process's own, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
        let kib = line.split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("proxy.log")).unwrap()
    }

    /// As the proxy says them when it serves.
    fn ports(&self) -> Option<(SocketAddr, SocketAddr)> {
        let log = self.log();
        let serving = log.lines().find(|l| l.contains(r#""message":"serving""#))?;
        let line: serde_json::Value = serde_json::from_str(serving).ok()?;
        let port = |name: &str| line[name].as_str()?.parse().ok();
        Some((port("public")?, port("admin")?))
    }

    pub async fn admin(&self, path: &str) -> Option<Response> {
        let mut connection = Connection::try_open(self.admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        connection.try_send(request.as_bytes()).await?;
        connection.try_response().await
    }

    pub async fn ready(&self) {
        eventually("the proxy is ready", || async {
            self.admin("/readyz").await.is_some_and(|r| r.status == 200)
        })
        .await;
    }

    /// What `/readyz` says of one thing.
    pub async fn readyz(&self, name: &str) -> serde_json::Value {
        self.admin("/readyz").await.unwrap().json()[name].clone()
    }

    pub async fn explain(&self, query: &str) -> serde_json::Value {
        let response = self.admin(&format!("/explain?{query}")).await.unwrap();
        serde_json::from_slice(&response.body).unwrap()
    }

    /// The value of a metric that counts; labels as Prometheus writes them, or none.
    pub async fn metric(&self, name: &str) -> u64 {
        self.metric_seconds(name).await as u64
    }

    /// The value of a metric.
    pub async fn metric_seconds(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").await.unwrap().text();
        let line = text.lines().find(|l| l.split(' ').next() == Some(name));
        line.map_or(0.0, |l| l.rsplit(' ').next().unwrap().parse().unwrap())
    }

    pub async fn client(&self) -> Connection {
        Connection::try_open(self.public)
            .await
            .expect("the proxy accepts")
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: &str) -> Response {
        let mut connection = self.client().await;
        connection.send(request).await;
        connection.response().await
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }
}

/// Everything at once: a world of three regions, of which the proxy stands in `a`.
pub struct Stage {
    pub coordinator: Coordinator,
    pub origin: FakeOrigin,
    pub proxy: ProxyProcess,
}

impl Stage {
    pub async fn new(set: &[&str]) -> Self {
        Self::with(World::three_regions(), set).await
    }

    pub async fn with(world: World, set: &[&str]) -> Self {
        let coordinator = Coordinator::start(world).await;
        let origin = FakeOrigin::start().await;
        let proxy = ProxyProcess::start(&[coordinator.address], origin.address, set).await;
        proxy.ready().await;
        Self {
            coordinator,
            origin,
            proxy,
        }
    }
}

/// A request's text with the tenant's header.
pub fn request(method: &str, path: &str, tenant: &str, headers: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: front.example\r\nX-MAIA-Tenant-ID: {tenant}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
