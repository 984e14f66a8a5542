//! The admin listener: health, metrics, and why a request would go where. Meant for loopback and
//! operators; has no authentication of its own.
//!
//! `/livez` · `/readyz` (named latches; 503 until all are set) · `/metrics` · `/topology` ·
//! `/explain?tenant=T&method=M&path=P[&preferred_region=R]`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use maia_common::TenantId;
use maia_common::topology::{GroupView, Topology};
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use serde_json::{Value, json};

use crate::core::classify::{Class, classify};
use crate::core::decide::{Decision, Facts};
use crate::core::redirect;
use crate::core::table::Entry;
use crate::shell::metrics::Metrics;
use crate::shell::on_demand::Known;
use crate::shell::placements::Placements;
use crate::shell::stream::Guard;

/// How long a scraper's connection may be idle.
const KEEPALIVE_S: u64 = 60;

/// What has to hold before requests are welcome.
#[derive(Debug, Default)]
pub struct Readiness {
    /// The public listener accepts.
    pub listeners: AtomicBool,
    /// A coordinator's feed is open now; told, but no latch: without a feed the proxy goes on.
    pub feed_connected: Arc<AtomicBool>,
    /// The process is stopping.
    pub draining: AtomicBool,
}

/// Serves the admin listener.
pub struct Admin {
    /// What is in force.
    pub placements: Arc<Placements>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What has to hold.
    pub readiness: Arc<Readiness>,
    /// Whether a write places a tenant that has no placement.
    pub places: bool,
}

/// Not pingora's `ServeHttp`: that forgets the connection's guard after the first request.
#[async_trait]
impl HttpServerApp for Admin {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let context = session.take_connection_user_context()?;
        let guard: Box<Arc<Guard>> = context.downcast().ok()?;
        if !session.read_request().await.ok()? {
            return None;
        }
        guard.request_begins();
        if !session.is_body_empty() {
            guard.linger(); // nobody reads it: the connection closes, with care
        }
        let keep = !*shutdown.borrow() && session.is_body_empty();
        session.set_keepalive(keep.then_some(KEEPALIVE_S));
        let (head, body) = self.response(session.req_header()).into_parts();
        let head: ResponseHeader = head.into();
        session.write_response_header(Box::new(head)).await.ok()?;
        session.write_response_body(body.into(), true).await.ok()?;
        let mut settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok()??;
        guard.request_ends(std::time::Instant::now());
        settings.set_user_context(guard);
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

impl Admin {
    fn response(&self, request: &RequestHeader) -> Response<Vec<u8>> {
        if request.method != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri.path() {
            "/livez" => text(StatusCode::OK, "alive\n"),
            "/readyz" => self.ready(),
            "/metrics" => {
                const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
                answer(StatusCode::OK, TYPE, self.metrics.render(&self.placements))
            }
            "/topology" => match self.placements.topology() {
                Some(topology) => json_answer(StatusCode::OK, &topology_json(&topology)),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "no placements yet\n"),
            },
            "/explain" => {
                let (status, body) = self.explain(request.uri.query().unwrap_or(""));
                json_answer(status, &body)
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "try /livez /readyz /metrics /topology /explain\n",
            ),
        }
    }

    fn ready(&self) -> Response<Vec<u8>> {
        let latches = [
            ("placements_known", self.placements.is_ready()),
            (
                "listeners",
                self.readiness.listeners.load(Ordering::Relaxed),
            ),
            (
                "not_draining",
                !self.readiness.draining.load(Ordering::Relaxed),
            ),
        ];
        let ready = latches.iter().all(|(_, set)| *set);
        let latches: serde_json::Map<String, Value> = latches
            .into_iter()
            .map(|(name, set)| (name.to_owned(), set.into()))
            .collect();
        let body = json!({
            "ready": ready,
            "latches": latches,
            "feed_connected": self.readiness.feed_connected.load(Ordering::Relaxed),
            "feed_leaderless": self.placements.is_leaderless(),
            "placements": self.placements.source().as_str(),
            "placement_age_ms": self.age_ms(),
            "snapshot_age_ms": self.placements.saved_age().map(|age| age.as_millis() as u64),
        });
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        json_answer(status, &body)
    }

    fn age_ms(&self) -> Option<u64> {
        self.placements.age().map(|age| age.as_millis() as u64)
    }

    fn explain(&self, query: &str) -> (StatusCode, Value) {
        let tenant = parameter(query, "tenant").unwrap_or_default();
        if !TenantId::is_legal(&tenant) {
            let error = json!({"error": "name a legal tenant: /explain?tenant=T&method=M&path=P"});
            return (StatusCode::BAD_REQUEST, error);
        }
        let method = parameter(query, "method").unwrap_or_else(|| "GET".into());
        let Ok(method) = Method::from_bytes(method.as_bytes()) else {
            return (
                StatusCode::BAD_REQUEST,
                json!({"error": "the method is illegal"}),
            );
        };
        let path = parameter(query, "path").unwrap_or_else(|| "/".into());
        let preferred = parameter(query, "preferred_region");
        let class = classify(&method, false);
        let facts = Facts {
            class,
            preferred: preferred.as_deref(),
        };
        let view = self.placements.view();
        let print = self.placements.key().of(&tenant);
        let (decision, known) = self.placements.decide(&view, print, &facts);
        let entry = match &known {
            Known::Placed(entry) => Some(entry),
            Known::Unplaced | Known::Missing => None,
        };
        let mut facts = facts_json(entry, view.topology.as_deref());
        facts["local_region"] = json!(self.placements.rules().local_region);
        facts["placement_age_ms"] = json!(self.age_ms());
        facts["source"] = json!(self.placements.source().as_str());
        facts["class"] = json!(class.as_str());
        let Some(decision) = decision else {
            let reason = "the tenant is not kept here: a request looks it up first";
            let body = json!({"decision": "lookup", "reason": reason, "facts": facts});
            return (StatusCode::OK, body);
        };
        if self.places && class == Class::Write && known == Known::Unplaced {
            let reason = "the tenant has no placement: a write asks a coordinator to place it";
            let body = json!({"decision": "place", "reason": reason, "facts": facts});
            return (StatusCode::OK, body);
        }
        (StatusCode::OK, explained(&decision, &path, facts))
    }
}

fn explained(decision: &Decision<'_>, path: &str, facts: Value) -> Value {
    let mut body = json!({
        "decision": decision.as_str(),
        "reason": decision.reason(),
        "facts": facts,
    });
    match decision {
        Decision::Local { epoch, .. } => {
            body["region"] = body["facts"]["local_region"].clone();
            body["epoch"] = json!(epoch.to_string());
        }
        Decision::Redirect { to, .. } => {
            body["region"] = json!(to.name);
            let location = redirect::location(&to.public_url, path.as_bytes());
            body["location"] = json!(location.map(|l| String::from_utf8_lossy(&l).into_owned()));
        }
        Decision::Hold(reason) => body["error"] = json!(reason.code()),
        Decision::Reject(code) => body["error"] = json!(code),
    }
    body
}

fn facts_json(entry: Option<&Entry>, topology: Option<&Topology>) -> Value {
    let group = entry.and_then(|e| topology?.groups.get(&e.group));
    json!({
        "revision": topology.map(|t| t.revision),
        "generation": topology.map(|t| t.generation),
        "group": entry.map(|e| e.group),
        "version": entry.map(|e| e.version),
        "holding": entry.map(|e| e.holding),
        "term": group.and_then(|g| g.leader.as_ref()).map(|l| l.term),
        "primary_region": group.and_then(GroupView::live_leader).map(|l| &l.region),
        "home_region": group.map(|g| &g.home_region),
        "regions": group.map(|g| &g.regions),
    })
}

fn topology_json(topology: &Topology) -> Value {
    let groups = topology.groups.iter().map(|(id, group)| {
        json!({
            "group": id,
            "home_region": group.home_region,
            "mode": group.mode,
            "regions": group.regions,
            "leader": group.leader,
            "leaderless_since": group.leaderless_since,
        })
    });
    json!({
        "generation": topology.generation,
        "revision": topology.revision,
        "regions": topology.regions.values().collect::<Vec<_>>(),
        "groups": groups.collect::<Vec<_>>(),
    })
}

/// The value of a query parameter, percent-decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let digits = match byte {
            b'%' => (bytes.next(), bytes.next()),
            b'+' => {
                out.push(b' ');
                continue;
            }
            plain => {
                out.push(plain);
                continue;
            }
        };
        let digit = |d: Option<u8>| char::from(d?).to_digit(16);
        out.push((digit(digits.0)? * 16 + digit(digits.1)?) as u8);
    }
    String::from_utf8(out).ok()
}

fn text(status: StatusCode, body: &str) -> Response<Vec<u8>> {
    answer(
        status,
        "text/plain; charset=utf-8",
        body.as_bytes().to_vec(),
    )
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Vec<u8>> {
    let mut bytes = body.to_string().into_bytes();
    bytes.push(b'\n');
    answer(status, "application/json", bytes)
}

fn answer(status: StatusCode, media_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, length);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = "tenant=a%40b&path=%2Fv1%2Fx%3Fy&method=&bad=%zz&plus=a+b";
        let of = |name| parameter(query, name);
        assert_eq!(of("tenant").as_deref(), Some("a@b"));
        assert_eq!(of("path").as_deref(), Some("/v1/x?y"));
        assert_eq!(of("method").as_deref(), Some(""));
        assert_eq!(of("plus").as_deref(), Some("a b"));
        assert_eq!((of("bad"), of("none")), (None, None));
    }
}
