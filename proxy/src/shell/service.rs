//! A request's way through the proxy, in pingora's phases. Each phase is short; what is decided
//! is decided in `core`, what is sent is built in [`super::response`] and [`super::origin`].
//!
//! ```text
//! early_request_filter   time-outs, keep-alive
//! request_filter         framing, size, tenant, decision ─▶ answer, or hold, or go on:
//! upstream_peer          the origin; after a setback: hold and decide anew
//! upstream_request_filter, request_body_filter, upstream_response_filter, response_filter
//! fail_to_proxy          a problem document, if nothing was answered yet
//! logging                metrics and access log
//! ```
//! Setbacks of a request that did not take effect (I10, I11): the origin refuses the connection
//! (a write waits, since its primary may be moving), or answers 421 (its placement is newer than
//! ours). Both lead to one more hold and decision within the same hold budget, then 503. A 421
//! never changes the table. Its request is repeated only if all of its body is in the retry
//! buffer (64 KiB).

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, ORIGIN, TRANSFER_ENCODING};
use maia_common::{ErrorCode, headers};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};

use crate::config::Config;
use crate::core::classify::{Class, classify};
use crate::core::decide::{Decision, Epoch, Facts, HoldReason};
use crate::core::{redirect, tenant};
use crate::shell::access_log::{AccessLog, Line};
use crate::shell::hold::{Held, HoldQueue};
use crate::shell::metrics::{Metrics, Outcome, UpstreamError};
use crate::shell::origin;
use crate::shell::placements::Placements;
use crate::shell::response::{self, Answer, Mark, REGION, REQUEST_ID};
use crate::shell::stream::Guard;

/// Tries of one request at the origin; holds end earlier, by their budget.
pub const MAX_TRIES: usize = 64;
/// How often a write that waits for its origin tries to connect.
const CONNECT_EVERY: Duration = Duration::from_millis(100);

/// Serves the public listener.
pub struct Proxy {
    placements: Arc<Placements>,
    metrics: Arc<Metrics>,
    access_log: Option<AccessLog>,
    holds: HoldQueue,
    config: Arc<Config>,
    peer: HttpPeer,
    region: HeaderValue,
}

/// What did not work at the last try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setback {
    /// No connection.
    Refused,
    /// 421.
    Stale,
}

/// What the proxy knows of one request.
pub struct Ctx {
    started: Instant,
    guard: Option<Arc<Guard>>,
    class: Class,
    outcome: Outcome,
    reason: &'static str,
    epoch: Option<Epoch>,
    request_id: Option<HeaderValue>,
    received_bytes: u64,
    hold_until: Option<Instant>,
    setback: Option<Setback>,
    tries: usize,
    stale: bool,
    /// What is answered in place of what an error would be.
    answer: Option<Answer>,
}

/// A decision, free of the topology that it was made on.
enum Verdict {
    Pass(Epoch, &'static str),
    Hold(HoldReason),
    Answer(Answer),
}

impl Proxy {
    /// The service of this configuration.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        peer: HttpPeer,
        placements: Arc<Placements>,
        metrics: Arc<Metrics>,
        access_log: Option<AccessLog>,
    ) -> Self {
        let region = HeaderValue::from_str(config.region.as_str());
        Self {
            holds: HoldQueue::new(config.proxy.hold_max_requests, Arc::clone(&metrics)),
            placements,
            metrics,
            access_log,
            config,
            peer,
            region: region.expect("region names are ASCII"),
        }
    }

    fn verdict(&self, tenant: &str, facts: &Facts<'_>, target: &[u8]) -> Verdict {
        self.placements
            .route(tenant, facts, |decision, _, _| match decision {
                Decision::Local { epoch, .. } => Verdict::Pass(epoch, decision.reason()),
                Decision::Hold(reason) => Verdict::Hold(reason),
                Decision::Reject(code) => Verdict::Answer(Answer::problem(code, rejection(code))),
                Decision::Redirect {
                    to,
                    primary,
                    reason,
                } => {
                    let location = redirect::location(&to.public_url, target)
                        .and_then(|l| HeaderValue::from_maybe_shared(Bytes::from(l)).ok());
                    let primary = primary.and_then(|p| HeaderValue::from_str(p.as_str()).ok());
                    Verdict::Answer(match location {
                        Some(location) => Answer::Redirect {
                            location,
                            primary,
                            reason,
                        },
                        None => Answer::problem(
                            ErrorCode::InvalidRequest,
                            "a request with this target can't be redirected",
                        ),
                    })
                }
            })
    }

    /// Decides about a fresh request: `None` to pass it on, or what to answer.
    async fn admit(&self, session: &mut Session, ctx: &mut Ctx) -> Option<Answer> {
        let request = session.req_header();
        if let Some(problem) = self.malformed(session) {
            return Some(problem);
        }
        let preflight = request.headers.contains_key(ORIGIN)
            && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        ctx.class = classify(&request.method, preflight);
        if ctx.class == Class::Preflight {
            ctx.reason = "cors-preflight";
            return None;
        }
        let tenant = match tenant_of(request) {
            Ok(tenant) => tenant,
            Err(e) => return Some(Answer::problem(e.code(), tenant_detail(e))),
        };
        match self.verdict(tenant, &facts_of(request, ctx.class), request.raw_path()) {
            Verdict::Pass(epoch, reason) => ctx.pass(epoch, reason),
            Verdict::Answer(answer) => Some(answer),
            Verdict::Hold(reason) => self.hold(session, ctx, reason).await,
        }
    }

    /// Framing and size, before anything is believed.
    fn malformed(&self, session: &Session) -> Option<Answer> {
        let request = session.req_header();
        if request.headers.contains_key(TRANSFER_ENCODING) && names_length_too(session) {
            return Some(Answer::problem(
                ErrorCode::InvalidRequest,
                "the request has both Content-Length and Transfer-Encoding",
            ));
        }
        let length = request.headers.get(CONTENT_LENGTH)?.to_str().ok()?;
        let length: u64 = length.parse().ok()?;
        (length > self.config.proxy.max_body_bytes).then_some(BODY_TOO_LARGE)
    }

    /// Waits until something else than "hold" or the verdict of a setback is decided.
    async fn hold(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        reason: HoldReason,
    ) -> Option<Answer> {
        ctx.outcome = Outcome::Hold;
        ctx.reason = reason.code().as_str();
        let budget = self.config.proxy.hold_budget;
        let until = *ctx
            .hold_until
            .get_or_insert_with(|| Instant::now() + budget);
        let request = session.req_header().clone();
        let (before, setback, class) = (ctx.epoch, ctx.setback, ctx.class);
        let mut why = reason.code();
        let decide = || {
            let facts = facts_of(&request, class);
            match self.verdict(tenant_of(&request).ok()?, &facts, request.raw_path()) {
                Verdict::Hold(reason) => {
                    why = reason.code();
                    None
                }
                Verdict::Pass(epoch, _)
                    if setback == Some(Setback::Stale) && before == Some(epoch) =>
                {
                    None
                }
                verdict => Some(verdict),
            }
        };
        let changes = self.placements.changes();
        let held = self.holds.hold(changes, until, left(session), decide).await;
        match held {
            Held::Released(Verdict::Pass(epoch, reason)) => ctx.pass(epoch, reason),
            Held::Released(Verdict::Answer(answer)) => Some(answer),
            Held::Released(Verdict::Hold(_)) | Held::Expired => Some(match setback {
                Some(Setback::Stale) => STALE,
                Some(Setback::Refused) | None => Answer::problem(why, rejection(why)),
            }),
            Held::Full => Some(Answer::problem(
                ErrorCode::HoldQueueFull,
                rejection(ErrorCode::HoldQueueFull),
            )),
            Held::Abandoned => {
                ctx.reason = "client-left";
                session.set_keepalive(None);
                Some(Answer::problem(why, rejection(why)))
            }
        }
    }

    /// After a setback: waits, and decides anew. `None`: try the origin again.
    async fn after_setback(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        setback: Setback,
    ) -> Option<Answer> {
        match setback {
            Setback::Stale => self.hold(session, ctx, HoldReason::GroupLeaderless).await,
            Setback::Refused => {
                let budget = self.config.proxy.hold_budget;
                let until = *ctx
                    .hold_until
                    .get_or_insert_with(|| Instant::now() + budget);
                if Instant::now() >= until {
                    return Some(ORIGIN_REFUSES);
                }
                let mut changes = self.placements.changes();
                changes.mark_unchanged();
                let pause = CONNECT_EVERY.min(until - Instant::now());
                let _changed = tokio::time::timeout(pause, changes.changed()).await;
                self.hold(session, ctx, HoldReason::GroupLeaderless).await
            }
        }
    }

    async fn answer(&self, session: &mut Session, ctx: &mut Ctx, answer: &Answer) -> Result<()> {
        if ctx.outcome != Outcome::Hold {
            ctx.outcome = match answer {
                Answer::Redirect { .. } => Outcome::Redirect,
                Answer::Problem { .. } => Outcome::Reject,
            };
            ctx.reason = answer.reason();
        } else if let Answer::Redirect { reason, .. } = answer {
            (ctx.outcome, ctx.reason) = (Outcome::Redirect, reason.as_str());
        }
        let mark = Mark {
            region: &self.region,
            request_id: ctx.request_id.as_ref(),
        };
        response::send(session, ctx.guard.as_deref(), mark, answer).await
    }

    /// What a failure on the way to the origin is answered with; `None`: the client is gone.
    fn answer_to(&self, error: &Error, ctx: &Ctx) -> Option<Answer> {
        if ctx.setback == Some(Setback::Stale) {
            return Some(STALE);
        }
        match error.esource() {
            ErrorSource::Upstream => Some(self.answer_to_origin(error)),
            ErrorSource::Downstream => match error.etype() {
                ErrorType::WriteError
                | ErrorType::WriteTimedout
                | ErrorType::ReadError
                | ErrorType::ConnectionClosed => None,
                ErrorType::ReadTimedout => Some(BODY_TOO_SLOW),
                _ => Some(Answer::problem(
                    ErrorCode::InvalidRequest,
                    "the request can't be read or passed on",
                )),
            },
            ErrorSource::Internal | ErrorSource::Unset => {
                tracing::error!(error = %error, "a request failed inside the proxy");
                Some(Answer::problem(ErrorCode::Internal, "the proxy failed"))
            }
        }
    }

    fn answer_to_origin(&self, error: &Error) -> Answer {
        let kind = kind_of(error);
        self.metrics.upstream_error(kind);
        tracing::debug!(error = %error, ?kind, "the origin failed a request");
        match kind {
            UpstreamError::Connect => Answer::problem(
                ErrorCode::NoOrigin,
                "the origin can't be connected; the request did not reach it",
            ),
            UpstreamError::Timeout => Answer::problem(
                ErrorCode::OriginTimeout,
                "the origin did not answer in time; a write may or may not have taken effect",
            ),
            UpstreamError::Broken | UpstreamError::Stale => Answer::problem(
                ErrorCode::NoOrigin,
                "the origin broke off; a write may or may not have taken effect",
            ),
        }
    }
}

impl Ctx {
    fn pass(&mut self, epoch: Epoch, reason: &'static str) -> Option<Answer> {
        self.epoch = Some(epoch);
        self.outcome = Outcome::Local;
        self.reason = reason;
        None
    }
}

const BODY_TOO_LARGE: Answer = Answer::problem(
    ErrorCode::BodyTooLarge,
    "the body is larger than this proxy passes on",
);
const BODY_TOO_SLOW: Answer =
    Answer::problem(ErrorCode::InvalidRequest, "the body did not arrive in time");
const ORIGIN_REFUSES: Answer = Answer::problem(
    ErrorCode::Unavailable,
    "the origin accepts no connections; definitely not written",
);
const STALE: Answer = Answer::Problem {
    code: ErrorCode::StalePlacement,
    status: Some(503), // 421 would tell the client to try another connection
    detail: "the tenant has moved and this proxy has not heard where to; definitely not written",
};

fn rejection(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::UnknownTenant => "no placement is known for the tenant",
        ErrorCode::RegionUnavailable => "no region that could serve the request is known and up",
        ErrorCode::Unavailable => "this proxy has not heard of any placement yet",
        ErrorCode::TenantHeld => "the tenant is moving; its writes are held for a moment",
        ErrorCode::GroupLeaderless => "the tenant's group has no leader at the moment",
        ErrorCode::HoldQueueFull => "too many writes wait for their primary already",
        _ => "the request can't be served",
    }
}

fn tenant_detail(error: tenant::TenantError) -> &'static str {
    match error {
        tenant::TenantError::Required => "set the header X-MAIA-Tenant-ID",
        tenant::TenantError::Illegal => {
            "a tenant id is 1 to 128 of A-Z, a-z, 0-9 and - _ . : @ ~, first a letter or digit"
        }
        tenant::TenantError::Ambiguous => "the request names several tenants",
    }
}

fn tenant_of(request: &RequestHeader) -> Result<&str, tenant::TenantError> {
    let values = request.headers.get_all(headers::TENANT).iter();
    tenant::from_header(values.map(HeaderValue::as_bytes))
}

fn facts_of(request: &RequestHeader, class: Class) -> Facts<'_> {
    let preferred = request.headers.get(headers::PREFERRED_REGION);
    Facts {
        class,
        preferred: preferred.and_then(|v| v.to_str().ok()),
    }
}

/// Whether the client sent a Content-Length too: pingora drops it silently beside a
/// Transfer-Encoding, but its presence means that someone reads the request otherwise.
fn names_length_too(session: &Session) -> bool {
    const NAME: &[u8] = b"\ncontent-length";
    session.as_downstream().as_http1().is_some_and(|h1| {
        let raw = h1.get_headers_raw_bytes();
        raw.windows(NAME.len())
            .any(|w| w.eq_ignore_ascii_case(NAME))
    })
}

/// Ends when the client leaves. Only seen while no body is left to read; on HTTP/2 always.
async fn left(session: &mut Session) {
    let downstream = session.as_downstream_mut();
    if !downstream.is_http2() && !downstream.is_body_done() {
        std::future::pending().await
    }
    let _closed = downstream.read_body_or_idle(true).await;
}

fn kind_of(error: &Error) -> UpstreamError {
    match error.etype() {
        ErrorType::ConnectRefused | ErrorType::ConnectNoRoute | ErrorType::ConnectError => {
            UpstreamError::Connect
        }
        ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
            UpstreamError::Timeout
        }
        _ => UpstreamError::Broken,
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx {
            started: Instant::now(),
            guard: None,
            class: Class::Write,
            outcome: Outcome::Local,
            reason: "",
            epoch: None,
            request_id: None,
            received_bytes: 0,
            hold_until: None,
            setback: None,
            tries: 0,
            stale: false,
            answer: None,
        }
    }

    /// None: no compression, which would cost every response a look.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        ctx: &mut Ctx,
        guard: Box<dyn Any + Send + Sync>,
    ) {
        ctx.guard = guard.downcast().ok().map(|guard| *guard);
        if let Some(guard) = &ctx.guard {
            guard.request_begins();
        }
    }

    fn persist_connection_context(
        &self,
        _session: &Session,
        ctx: &Ctx,
    ) -> Option<Box<dyn Any + Send + Sync>> {
        let guard = ctx.guard.clone()?;
        guard.request_ends();
        Some(Box::new(guard))
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        let timeouts = &self.config.timeouts;
        ctx.request_id = Some(origin::request_id(&session.req_header().headers));
        session.set_read_timeout(Some(timeouts.body_idle));
        session.set_write_timeout(Some(timeouts.client_write));
        session.set_total_drain_timeout(Some(response::MAX_DRAIN_TIME));
        session.set_pipelining_enabled(true);
        // pingora keeps connections without limit after the first request unless told each time;
        // one that it means to close (both lengths given, HTTP/1.0) stays so.
        if session.get_keepalive().is_some() && !session.is_process_shutting_down() {
            session.set_keepalive(Some(timeouts.idle.as_secs()));
        } else {
            session.set_keepalive(None);
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        match self.admit(session, ctx).await {
            None => Ok(false),
            Some(answer) => {
                self.answer(session, ctx, &answer).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        ctx.tries += 1;
        if let Some(setback) = ctx.setback {
            let answer = self.after_setback(session, ctx, setback).await;
            ctx.setback = None;
            if answer.is_some() {
                ctx.answer = answer;
                return Error::e_explain(ErrorType::Custom("answered"), "decided anew");
            }
        }
        Ok(Box::new(self.peer.clone()))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        mut e: Box<Error>,
    ) -> Box<Error> {
        // Nothing was sent. A write waits for its primary, a read is told at once.
        let waits = ctx.class == Class::Write && ctx.epoch.is_some();
        if waits {
            ctx.setback = Some(Setback::Refused);
            self.metrics.upstream_error(UpstreamError::Connect);
        }
        e.set_retry(waits && ctx.tries < MAX_TRIES);
        e
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut e: Box<Error>,
        ctx: &mut Ctx,
        client_reused: bool,
    ) -> Box<Error> {
        let buffered = !session.as_ref().retry_buffer_truncated();
        let unanswered = session.response_written().is_none();
        if ctx.setback == Some(Setback::Stale) {
            e.set_retry(buffered && unanswered && !ctx.stale);
            ctx.stale = true;
        } else if buffered
            && unanswered
            && ctx.tries < 3
            && origin::is_repeatable(session.req_header())
        {
            e.retry.decide_reuse(client_reused);
        } else {
            e.set_retry(false);
        }
        e
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        ctx.received_bytes = 0; // a repeated try sends the body from its beginning
        let id = ctx
            .request_id
            .get_or_insert_with(|| origin::request_id(&request.headers));
        origin::prepare(request, ctx.guard.as_deref(), ctx.epoch, id)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        ctx.received_bytes += body.as_ref().map_or(0, Bytes::len) as u64;
        let too_large = ctx.received_bytes > self.config.proxy.max_body_bytes;
        let too_slow = !end_of_stream && ctx.started.elapsed() > self.config.timeouts.body_total;
        if too_large || too_slow {
            ctx.answer = Some(if too_large {
                BODY_TOO_LARGE
            } else {
                BODY_TOO_SLOW
            });
            return Err(
                Error::explain(ErrorType::Custom("body"), "too large or too slow").into_down(),
            );
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if response.status.as_u16() == 421 {
            ctx.setback = Some(Setback::Stale);
            self.metrics.upstream_error(UpstreamError::Stale);
            return Err(
                Error::explain(ErrorType::Custom("stale"), "the origin says 421").into_up(),
            );
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        response.insert_header(REGION, &self.region)?;
        if let Some(id) = &ctx.request_id {
            response.insert_header(REQUEST_ID, id)?;
        }
        if session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        if !session.as_downstream_mut().is_body_done()
            && let Some(guard) = &ctx.guard
        {
            guard.linger(); // the origin answered early: pingora closes after the response
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Ctx) -> FailToProxy {
        let begun = session
            .response_written()
            .is_some_and(|r| !r.status.is_informational());
        let answer = ctx.answer.take().or_else(|| self.answer_to(e, ctx));
        let mut error_code = 0;
        if let Some(answer) = answer.filter(|_| !begun) {
            session.set_keepalive(None);
            if self.answer(session, ctx, &answer).await.is_ok() {
                error_code = answer.status();
            }
            if !session.is_http2() {
                session.as_downstream_mut().shutdown().await; // lingers
            }
        }
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, _e: Option<&Error>, ctx: &mut Ctx) {
        let took = ctx.started.elapsed();
        let status = session.response_written().map_or(0, |r| r.status.as_u16());
        self.metrics.request(ctx.outcome, ctx.class, status, took);
        let Some(log) = &self.access_log else { return };
        let request = session.req_header();
        let path = request.raw_path();
        let id = ctx.request_id.as_ref().and_then(|id| id.to_str().ok());
        let line = Line {
            method: request.method.as_str(),
            path: path.split(|b| *b == b'?').next().unwrap_or(path),
            tenant: tenant_of(request).unwrap_or(""),
            class: ctx.class.as_str(),
            decision: ctx.outcome.as_str(),
            reason: ctx.reason,
            status,
            took,
            received_bytes: session.body_bytes_read(),
            sent_bytes: session.body_bytes_sent(),
            client: ctx.guard.as_ref().map(|g| g.client()),
            request_id: id.unwrap_or(""),
        };
        log.append(&line);
    }

    /// The proxy logs by itself, once.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }
}
