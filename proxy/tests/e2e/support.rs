//! A proxy process with a fake coordinator and a fake origin around it.

#![allow(dead_code)]

pub mod client;
pub mod coordinator;
pub mod origin;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::{Connection, Response};
use coordinator::{Coordinator, World};
use origin::FakeOrigin;

pub const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Asks until it is so; the condition is named where it never is.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ask().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

pub struct ProxyProcess {
    pub public: SocketAddr,
    pub admin: SocketAddr,
    pub child: Child,
    pub dir: tempfile::TempDir,
}

impl Drop for ProxyProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text of a configuration; `extra` are further `--set` pairs.
pub fn config_text(
    dir: &std::path::Path,
    public: SocketAddr,
    admin: SocketAddr,
    coordinators: &[SocketAddr],
    origin: SocketAddr,
) -> String {
    let coordinators: Vec<String> = coordinators.iter().map(|c| format!("\"{c}\"")).collect();
    format!(
        "id = \"proxy-a\"\nregion = \"a\"\ndir = \"{dir}\"\ncluster_key_file = \"{dir}/cluster.key\"\n\
         [listen]\npublic = \"{public}\"\nadmin = \"{admin}\"\n\
         [feed]\ncoordinators = [{coordinators}]\n\
         [origin]\nurl = \"http://{origin}\"\n\
         [proxy]\nhold_budget = \"2s\"\n",
        dir = dir.display(),
        coordinators = coordinators.join(", "),
    )
}

impl ProxyProcess {
    pub fn start(coordinators: &[SocketAddr], origin: SocketAddr, set: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cluster.key"), KEY).unwrap();
        let (public, admin) = (free_address(), free_address());
        let file = dir.path().join("proxy.toml");
        let text = config_text(dir.path(), public, admin, coordinators, origin);
        std::fs::File::create(&file)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_maia-proxy"));
        command.arg("--config").arg(&file);
        for pair in set {
            command.arg("--set").arg(pair);
        }
        let log = std::fs::File::create(dir.path().join("access.log")).unwrap();
        let child = command
            .env(
                "MAIA_LOG",
                "info,maia_proxy=debug,pingora_proxy=off,pingora_core=off",
            )
            .stdout(Stdio::from(log))
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self {
            public,
            admin,
            child,
            dir,
        }
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
        let proxy = ProxyProcess::start(&[coordinator.address], origin.address, set);
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
