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
//!
//! A write whose try was sent and not answered is never said to be unwritten, nor sent elsewhere: it
//! ends with the success of a later try or as `outcome_unknown` (`request::Fate`). Alone that its body
//! is too large or too slow is said all the same: then no try had all of it.

mod admit;
mod failure;
mod lookup;
mod request;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderValue;
use http::header::UPGRADE;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};

use self::failure::{BODY_TOO_LARGE, BODY_TOO_SLOW, OUTCOME_UNKNOWN, is_broken};
pub use self::request::Ctx;
use self::request::{Fate, Setback, tenant_of};
use crate::config::Config;
use crate::core::classify::Class;
use crate::shell::access_log::{AccessLog, Line};
use crate::shell::hold::HoldQueue;
use crate::shell::lookups::Lookups;
use crate::shell::metrics::{Metrics, Outcome, UpstreamError};
use crate::shell::origin;
use crate::shell::placements::Placements;
use crate::shell::response::{self, Answer, Mark};
use crate::shell::stream::Guard;

/// Tries of one request at the origin; holds end earlier, by their budget.
pub const MAX_TRIES: usize = 64;
/// How often a request is repeated whose connection to the origin broke.
const MAX_BREAKS: usize = 1;
/// Serves the public listener.
pub struct Proxy {
    placements: Arc<Placements>,
    lookups: Arc<Lookups>,
    metrics: Arc<Metrics>,
    access_log: Option<AccessLog>,
    holds: HoldQueue,
    config: Arc<Config>,
    peer: HttpPeer,
    region: HeaderValue,
}

impl Proxy {
    /// The service of this configuration.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        peer: HttpPeer,
        placements: Arc<Placements>,
        lookups: Arc<Lookups>,
        metrics: Arc<Metrics>,
        access_log: Option<AccessLog>,
    ) -> Self {
        let region = HeaderValue::from_str(config.region.as_str());
        Self {
            holds: HoldQueue::new(config.proxy.hold_max_requests, Arc::clone(&metrics)),
            placements,
            lookups,
            metrics,
            access_log,
            config,
            peer,
            region: region.expect("region names are ASCII"),
        }
    }

    fn guard_of(&self, session: &Session) -> Option<Arc<Guard>> {
        let client = *session.client_addr()?.as_inet()?;
        let timeouts = &self.config.timeouts;
        Some(Arc::new(Guard::new(
            client,
            timeouts.header,
            timeouts.idle,
            timeouts.linger,
        )))
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
        response::send(session, ctx.guard.as_deref(), self.mark(ctx), answer).await
    }

    /// The origin refused what was routed by the tenant's placement: it is looked up again.
    async fn doubt(&self, session: &Session, ctx: &Ctx) {
        let Some(on_demand) = self.placements.on_demand() else {
            return;
        };
        if let (Ok(tenant), Some(epoch)) = (tenant_of(session.req_header()), ctx.epoch) {
            let print = self.placements.key().of(tenant);
            on_demand.doubt(print, epoch.version).await;
        }
    }

    fn mark<'a>(&'a self, ctx: &'a Ctx) -> Mark<'a> {
        Mark {
            region: &self.region,
            request_id: ctx.request_id.as_ref(),
        }
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::new(Instant::now())
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
        guard.request_ends(ctx.ended.unwrap_or_else(Instant::now));
        Some(Box::new(guard))
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        let timeouts = &self.config.timeouts;
        if ctx.guard.is_none() {
            ctx.guard = self.guard_of(session); // HTTP/2: one per request
        }
        // No upgrades in this version; pingora would treat the body as what follows one.
        session.req_header_mut().remove_header(&UPGRADE);
        ctx.request_id = Some(origin::request_id(&session.req_header().headers));
        session.set_read_timeout(Some(timeouts.body_idle));
        session.set_write_timeout(Some(timeouts.client_write));
        session.set_total_drain_timeout(Some(response::MAX_DRAIN_TIME));
        session.set_pipelining_enabled(true);
        // Without limit, as far as pingora is concerned: the stream ends idle connections. One that
        // pingora means to close (both lengths given, HTTP/1.0) stays so.
        if session.is_process_shutting_down() {
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
            let answer = Box::pin(self.after_setback(session, ctx, setback)).await;
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
        _client_reused: bool,
    ) -> Box<Error> {
        let buffered = !session.as_ref().retry_buffer_truncated();
        let unanswered = session.response_written().is_none();
        let worth_it = if ctx.setback == Some(Setback::Stale) {
            !std::mem::replace(&mut ctx.stale, true)
        } else {
            let broken = *e.esource() == ErrorSource::Upstream && is_broken(&e);
            ctx.breaks += usize::from(broken);
            broken && ctx.breaks <= MAX_BREAKS && ctx.repeatable
        };
        if ctx.fate == Fate::Sent {
            ctx.fate = Fate::Unknown;
        }
        e.set_retry(worth_it && buffered && unanswered);
        e
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        ctx.received_bytes = 0; // a repeated try sends the body from its beginning
        let id = ctx
            .request_id
            .get_or_insert_with(|| origin::request_id(&request.headers));
        let client = &session.req_header().headers;
        origin::prepare(request, client, ctx.guard.as_deref(), ctx.epoch, id)?;
        ctx.repeatable = origin::is_repeatable(request);
        ctx.sends();
        Ok(())
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
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if response.status.as_u16() == 421 {
            ctx.setback = Some(Setback::Stale);
            ctx.was_refused();
            Box::pin(self.doubt(session, ctx)).await;
            self.metrics.upstream_error(UpstreamError::Stale);
            return Err(
                Error::explain(ErrorType::Custom("stale"), "the origin says 421").into_up(),
            );
        }
        if ctx.is_beyond(response.status) {
            ctx.answer = Some(OUTCOME_UNKNOWN);
            return Err(Error::explain(ErrorType::Custom("unknown"), "an earlier try").into_in());
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let is_final = !response.status.is_informational();
        if is_final && session.as_downstream_mut().is_body_done() {
            ctx.write = None; // its fate is known, however slowly the client reads of it
        }
        let mark = self.mark(ctx);
        response::mark(response, mark)?;
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
        ctx.write = None; // nothing goes to the origin any more
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
        let ended = Instant::now();
        ctx.ended = Some(ended);
        let took = ended.saturating_duration_since(ctx.started);
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
            client: ctx.guard.as_ref().map_or("", |g| g.client()),
            request_id: id.unwrap_or(""),
        };
        log.append(&line);
    }

    /// The proxy logs by itself, once.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Ctx, _error: &Error) -> bool {
        true
    }
}
