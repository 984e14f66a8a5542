//! Whether a request goes on, waits, or is answered: executes what `core::decide` says.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, ORIGIN, TRANSFER_ENCODING};
use maia_common::ErrorCode;
use pingora::proxy::Session;

use super::Proxy;
use super::failure::{BODY_TOO_LARGE, ORIGIN_REFUSES, STALE, rejection, tenant_detail};
use super::request::{Ctx, Setback, facts_of, left, names_length_too, tenant_of};
use crate::core::classify::{Class, classify};
use crate::core::decide::{Decision, Epoch, Facts, HoldReason};
use crate::core::redirect;
use crate::shell::hold::Held;
use crate::shell::metrics::Outcome;
use crate::shell::response::Answer;

/// How often a write that waits for its origin tries to connect.
const CONNECT_EVERY: Duration = Duration::from_millis(100);

/// A decision, free of the topology that it was made on.
enum Verdict {
    Pass(Epoch, &'static str),
    Hold(HoldReason),
    Answer(Answer),
}

impl Proxy {
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
    pub(super) async fn admit(&self, session: &mut Session, ctx: &mut Ctx) -> Option<Answer> {
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
    pub(super) async fn after_setback(
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
}
