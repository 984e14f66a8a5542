//! Bare pingora: the least that does the peers' work with pingora as it comes. The floor below
//! maia-proxy: the same allocator, the same build, pingora's own accept loop and defaults, a hash
//! map of tenants, one redirect. Nothing else: no time-outs, no metrics, no request ids, no
//! forwarded headers. Called by the runner.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clap::Parser;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use http::Method;
use http::header::{CONTENT_LENGTH, LOCATION};
use pingora::http::ResponseHeader;
use pingora::prelude::{HttpPeer, Result, Session};
use pingora::proxy::{ProxyHttp, http_proxy_service};
use pingora::server::Server;
use pingora::{Error, ErrorType};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As the access logs of the others: written out this often.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    origin: SocketAddr,
    /// `tenant region` a line.
    #[arg(long)]
    tenants: PathBuf,
    /// `region url` a line.
    #[arg(long)]
    regions: PathBuf,
    /// The region that is served here.
    #[arg(long)]
    local: String,
    /// One line per request on standard output.
    #[arg(long)]
    log: bool,
}

struct Bare {
    origin: SocketAddr,
    tenants: HashMap<String, usize, RandomState>,
    /// URLs by number; empty: served here.
    regions: Vec<String>,
    log: Option<Arc<Mutex<Vec<u8>>>>,
}

impl Bare {
    fn region_of(&self, session: &Session) -> Option<&str> {
        let tenant = session.req_header().headers.get("x-maia-tenant-id")?;
        let region = *self.tenants.get(tenant.to_str().ok()?)?;
        Some(&self.regions[region])
    }
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = Instant;

    fn new_ctx(&self) -> Instant {
        Instant::now()
    }

    async fn request_filter(&self, session: &mut Session, _ctx: &mut Instant) -> Result<bool> {
        let Some(url) = self.region_of(session) else {
            session.respond_error(404).await?;
            return Ok(true);
        };
        let request = session.req_header();
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(&request.method);
        if reads || url.is_empty() {
            return Ok(false);
        }
        let path = request.uri.path_and_query();
        let path = path.ok_or_else(|| Error::new(ErrorType::InvalidHTTPHeader))?;
        let mut answer = ResponseHeader::build_no_case(307, Some(4))?;
        answer.insert_header(LOCATION, format!("{url}{path}"))?;
        answer.insert_header(CONTENT_LENGTH, "0")?;
        // What is left unread would close the connection.
        while session
            .as_downstream_mut()
            .read_request_body()
            .await?
            .is_some()
        {}
        session
            .write_response_header(Box::new(answer), true)
            .await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Instant) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, began: &mut Instant) {
        let Some(log) = &self.log else { return };
        let request = session.req_header();
        let status = session.response_written().map_or(0, |r| r.status.as_u16());
        let tenant = request.headers.get("x-maia-tenant-id");
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let _infallible = writeln!(
            log,
            "{} {} {} {} {status} {} {} {}",
            session
                .client_addr()
                .map_or_else(String::new, ToString::to_string),
            request.method,
            request.uri.path(),
            tenant.and_then(|t| t.to_str().ok()).unwrap_or("-"),
            began.elapsed().as_micros(),
            session.body_bytes_read(),
            session.body_bytes_sent(),
        );
    }
}

fn pairs(file: &PathBuf) -> anyhow::Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(file)?;
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let regions = pairs(&arguments.regions)?;
    let number = |name: &str| regions.iter().position(|(region, _)| region == name);
    let tenants = pairs(&arguments.tenants)?;
    let log = arguments.log.then(|| Arc::new(Mutex::new(Vec::new())));
    if let Some(log) = log.clone() {
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(FLUSH_EVERY);
                let lines =
                    std::mem::take(&mut *log.lock().unwrap_or_else(PoisonError::into_inner));
                let _reader_gone = std::io::stdout().write_all(&lines);
            }
        });
    }
    let bare = Bare {
        origin: arguments.origin,
        tenants: tenants
            .iter()
            .filter_map(|(tenant, region)| Some((tenant.clone(), number(region)?)))
            .collect(),
        regions: regions
            .iter()
            .map(|(name, url)| {
                if *name == arguments.local {
                    String::new()
                } else {
                    url.clone()
                }
            })
            .collect(),
        log,
    };
    let mut server = Server::new(None)?;
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, bare);
    service.add_tcp(&arguments.listen.to_string());
    server.add_service(service);
    server.run_forever()
}
