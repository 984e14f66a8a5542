//! Starts the origin, the feed and each peer, with and without an access log, and checks that all
//! of them answer alike. All on loopback, on free ports, in a temporary folder; all of it ends
//! with the stage.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::client::ask;
use crate::feed::Feed;
use crate::process::Server;
use crate::world::{self, LOCAL, REMOTE, World};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const START: Duration = Duration::from_secs(20);
/// Of the origin's answer.
const BODY_BYTES: usize = 1024;

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// `src/bin/bare-pingora.rs`.
    Bare,
    /// maia-proxy.
    Maia,
}

impl Kind {
    /// All, in the order of the tables.
    pub const ALL: [Kind; 4] = [Kind::Nginx, Kind::Haproxy, Kind::Bare, Kind::Maia];

    /// As tables name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Nginx => "nginx",
            Kind::Haproxy => "HAProxy",
            Kind::Bare => "bare pingora",
            Kind::Maia => "maia-proxy",
        }
    }
}

/// A peer that serves.
pub struct Peer {
    /// Which.
    pub kind: Kind,
    /// Whether it writes an access log.
    pub log: bool,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process.
    pub server: Server,
}

/// Everything that runs.
pub struct Stage {
    /// With and without an access log, in the order of [`Kind::ALL`].
    pub peers: Vec<Peer>,
    _origin: Server,
    _feed: Feed,
    _dir: tempfile::TempDir,
}

/// A port that was free a moment ago.
fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Stage {
    /// Starts all. `programs`: the folder with our binaries.
    pub fn start(programs: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let world = World::write(dir.path())?;
        std::fs::write(dir.path().join("key"), SECRET)?;
        let feed = Feed::start(world::changes(), SECRET)?;
        let origin = free()?;
        let config = dir.path().join("origin.conf");
        std::fs::write(&config, origin_config(dir.path(), origin))?;
        let origin_server = Server::start(
            Path::new("nginx"),
            &nginx_arguments(&config),
            &dir.path().join("origin"),
        )?;
        let mut peers = Vec::new();
        for log in [true, false] {
            for kind in Kind::ALL {
                let name = format!("{}-{}", kind.as_str().replace(' ', "-"), u8::from(log));
                let place = Place {
                    dir: dir.path().join(&name),
                    top: dir.path(),
                    listen: free()?,
                    origin,
                    log,
                };
                std::fs::create_dir(&place.dir)?;
                let (program, arguments) = place.command(kind, &world, feed.address, programs)?;
                let server = Server::start(&program, &arguments, &place.dir.join("process"))?;
                let mut peer = Peer {
                    kind,
                    log,
                    address: place.listen,
                    server,
                };
                peer.wait()
                    .with_context(|| format!("{name}: {}", place.last_words()))?;
                peers.push(peer);
            }
        }
        Ok(Self {
            peers,
            _origin: origin_server,
            _feed: feed,
            _dir: dir,
        })
    }
}

impl Peer {
    /// Until it serves, and then that it does the work of all.
    fn wait(&mut self) -> anyhow::Result<()> {
        let local = world::tenant(0);
        let deadline = Instant::now() + START;
        while ask(self.address, "GET", "/v1/x?y=z", &local).is_none_or(|a| a.status != 200) {
            ensure!(!self.server.has_ended(), "it ended");
            ensure!(Instant::now() < deadline, "it does not serve");
            std::thread::sleep(Duration::from_millis(20));
        }
        let misrouted = world::tenant(1);
        for (method, tenant, status) in [
            ("GET", &local, 200),
            ("GET", &misrouted, 200),
            ("POST", &local, 200),
            ("POST", &misrouted, 307),
            ("POST", &"nobody".to_owned(), 404),
        ] {
            let answer = ask(self.address, method, "/v1/x?y=z", tenant);
            let answer = answer.context("no answer")?;
            let expected = (status == 307).then(|| format!("{}/v1/x?y=z", REMOTE.1));
            if answer.status != status || answer.location != expected {
                bail!("{method} of {tenant}: {answer:?}");
            }
            ensure!(
                status != 200 || answer.body_bytes == BODY_BYTES,
                "{answer:?}"
            );
        }
        Ok(())
    }
}

struct Place<'a> {
    dir: PathBuf,
    top: &'a Path,
    listen: SocketAddr,
    origin: SocketAddr,
    log: bool,
}

impl Place<'_> {
    fn last_words(&self) -> String {
        std::fs::read_to_string(self.dir.join("process.err")).unwrap_or_default()
    }

    fn command(
        &self,
        kind: Kind,
        world: &World,
        feed: SocketAddr,
        programs: &Path,
    ) -> anyhow::Result<(PathBuf, Vec<String>)> {
        let config = self.dir.join("config");
        let file = config.display().to_string();
        Ok(match kind {
            Kind::Nginx => {
                std::fs::write(&config, self.nginx(world))?;
                ("nginx".into(), nginx_arguments(&config))
            }
            Kind::Haproxy => {
                std::fs::write(&config, self.haproxy(world))?;
                ("haproxy".into(), vec!["-db".into(), "-f".into(), file])
            }
            Kind::Bare => {
                let mut arguments = vec![
                    format!("--listen={}", self.listen),
                    format!("--origin={}", self.origin),
                    format!("--tenants={}", world.tenants.display()),
                    format!("--regions={}", world.regions.display()),
                    format!("--local={LOCAL}"),
                ];
                arguments.extend(self.log.then(|| "--log".to_owned()));
                (programs.join("bare-pingora"), arguments)
            }
            Kind::Maia => {
                std::fs::write(&config, self.maia(feed))?;
                let mut arguments = vec!["--config".into(), file];
                if !self.log {
                    arguments.extend(["--set".into(), "proxy.access_log=false".into()]);
                }
                (programs.join("maia-proxy"), arguments)
            }
        })
    }

    fn nginx(&self, world: &World) -> String {
        let dir = self.dir.display();
        let log = if self.log {
            format!(
                "log_format peers '$msec $remote_addr $request_method $uri $http_x_maia_tenant_id \
                 $status $request_time $request_length $body_bytes_sent';\n\
                 access_log {dir}/access.log peers buffer=1m flush=1s;"
            )
        } else {
            "access_log off;".to_owned()
        };
        format!(
            "{head}\
             http {{\n{log}\n\
             map_hash_max_size 262144; map_hash_bucket_size 128;\n\
             map $http_x_maia_tenant_id $home {{ default ''; include {map}; }}\n\
             map $request_method $reads {{ default 0; GET 1; HEAD 1; OPTIONS 1; }}\n\
             map $reads$home $elsewhere {{ default ''; 0{remote} {url}; }}\n\
             upstream origin {{ server {origin}; keepalive 256; keepalive_requests 1000000000; }}\n\
             server {{ listen {listen}; keepalive_requests 1000000000;\n\
             location / {{\n\
             if ($home = '') {{ return 404; }}\n\
             if ($elsewhere) {{ return 307 $elsewhere$request_uri; }}\n\
             proxy_http_version 1.1; proxy_set_header Connection ''; proxy_pass http://origin;\n\
             }} }} }}\n",
            head = nginx_head(&self.dir),
            map = world.nginx_map.display(),
            remote = REMOTE.0,
            url = REMOTE.1,
            origin = self.origin,
            listen = self.listen,
        )
    }

    fn haproxy(&self, world: &World) -> String {
        let log = if self.log {
            "log stdout format raw daemon\n\
             log-format \"%Ts %ci:%cp %HM %HP %[capture.req.hdr(0)] %ST %Ta %U %B\"\n\
             declare capture request len 64\n"
        } else {
            ""
        };
        format!(
            "global\n nbthread 1\n maxconn 4096\n\
             defaults\n mode http\n timeout client 60s\n timeout server 15s\n \
             timeout connect 1s\n timeout http-keep-alive 60s\n timeout http-request 10s\n\
             frontend public\n bind {listen}\n{log}\
             {capture}\
             http-request set-var(txn.home) req.hdr(x-maia-tenant-id),map_str({map})\n\
             http-request return status 404 unless {{ var(txn.home) -m found }}\n\
             acl reads method GET HEAD OPTIONS\n\
             acl here var(txn.home) -m str {LOCAL}\n\
             http-request redirect code 307 location \
             %[var(txn.home),map_str({regions})]%[pathq] unless reads or here\n\
             default_backend origin\n\
             backend origin\n server origin {origin}\n",
            listen = self.listen,
            capture = if self.log {
                "http-request capture req.hdr(x-maia-tenant-id) id 0\n"
            } else {
                ""
            },
            map = world.tenants.display(),
            regions = world.regions.display(),
            origin = self.origin,
        )
    }

    /// What must be said; all else is as shipped.
    fn maia(&self, feed: SocketAddr) -> String {
        format!(
            "id = \"proxy-a\"\nregion = \"{LOCAL}\"\ndir = \"{dir}\"\n\
             cluster_key_file = \"{key}\"\n\
             [listen]\npublic = \"{listen}\"\nadmin = \"127.0.0.1:0\"\n\
             [feed]\ncoordinators = [\"{feed}\"]\n\
             [origin]\nurl = \"http://{origin}\"\n[rpc]\nplaintext = true\n",
            dir = self.dir.display(),
            key = self.top.join("key").display(),
            listen = self.listen,
            origin = self.origin,
        )
    }
}

fn nginx_head(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log crit;\n\
         events {{ worker_connections 4096; }}\n"
    )
}

fn origin_config(dir: &Path, listen: SocketAddr) -> String {
    let body = "x".repeat(BODY_BYTES);
    format!(
        "{head}http {{ access_log off; server {{ listen {listen}; keepalive_requests 1000000000; \
         keepalive_timeout 300s; default_type text/plain; \
         location / {{ return 200 '{body}'; }} }} }}\n",
        head = nginx_head(dir),
    )
}

fn nginx_arguments(config: &Path) -> Vec<String> {
    let errors = config.with_extension("err");
    let arguments = [
        "-e",
        &errors.display().to_string(),
        "-c",
        &config.display().to_string(),
    ];
    arguments.map(str::to_owned).into()
}
