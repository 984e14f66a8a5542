//! Whether a request goes on, waits, or is answered: executes what `core::decide` says.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING,
};
use http::{HeaderValue, Method, Version};
use maia_common::ErrorCode;
use pingora::proxy::Session;

use super::Proxy;
use super::failure::{BODY_TOO_LARGE, ORIGIN_REFUSES, STALE, rejection, tenant_detail};
use super::request::{Ctx, Setback, facts_of, left, names_length_too, tenant_of};
use crate::core::classify::{Class, classify};
use crate::core::decide::{Decision, Epoch, Facts, HoldReason};
use crate::core::redirect;
use crate::shell::hold::Held;
use crate::shell::in_flight::Write;
use crate::shell::metrics::Outcome;
use crate::shell::response::Answer;

/// How often a write that waits for its origin tries to connect.
const CONNECT_EVERY: Duration = Duration::from_millis(100);
/// How many times at most within the hold budget; well below [`super::MAX_TRIES`].
const MAX_CONNECTS: u32 = 48;

/// A decision, free of the topology that it was made on.
pub(super) enum Verdict {
    Pass(Epoch, &'static str, Option<Write>),
    Hold(HoldReason),
    Answer(Answer),
    /// The tenant must be looked up.
    Missing,
    /// A write of a tenant that is to be placed by it.
    Unplaced,
}

impl Proxy {
    pub(super) fn verdict(&self, tenant: &str, facts: &Facts<'_>, target: &[u8]) -> Verdict {
        let places =
            facts.class == Class::Write && self.config.proxy.unknown_tenant.placement().is_some();
        self.placements.route(tenant, facts, |decision, write| {
            let Some(decision) = decision else {
                return Verdict::Missing;
            };
            match decision {
                Decision::Reject(ErrorCode::UnknownTenant) if places => Verdict::Unplaced,
                Decision::Local { epoch, .. } => Verdict::Pass(epoch, decision.reason(), write),
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
            }
        })
    }

    /// Decides about a fresh request: `None` to pass it on, or what to answer.
    pub(super) async fn admit(&self, session: &mut Session, ctx: &mut Ctx) -> Option<Answer> {
        if let Some(problem) = self.malformed(session) {
            return Some(problem);
        }
        let bodyless = session.as_downstream_mut().is_body_empty();
        let request = session.req_header();
        let preflight = bodyless
            && request.method == Method::OPTIONS
            && request.headers.contains_key(ORIGIN)
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
        let verdict = self.verdict(tenant, &facts_of(request, ctx.class), request.raw_path());
        self.act(session, ctx, verdict).await
    }

    /// Does as it is decided; waits, and decides anew, as long as that is what is decided. Ends:
    /// all waits of a request share one beginning, and lookups are counted.
    async fn act(&self, session: &mut Session, ctx: &mut Ctx, first: Verdict) -> Option<Answer> {
        let mut verdict = first;
        loop {
            verdict = match verdict {
                Verdict::Pass(epoch, reason, write) => {
                    if ctx.outcome != Outcome::Hold {
                        ctx.waits_since = None; // the lookup is over, and no hold began
                    }
                    return ctx.pass(epoch, reason, write);
                }
                Verdict::Answer(answer) => return Some(answer),
                // Boxed, as all that waits: every request would carry the room for it.
                Verdict::Hold(reason) => Box::pin(self.hold(session, ctx, reason.code())).await,
                Verdict::Missing | Verdict::Unplaced => {
                    let placing = matches!(verdict, Verdict::Unplaced);
                    match (
                        Box::pin(self.settle(session, ctx, placing)).await,
                        ctx.setback,
                    ) {
                        // What did not work just now: not before there is news.
                        (Verdict::Pass(epoch, ..), Some(setback)) if ctx.epoch == Some(epoch) => {
                            Box::pin(self.hold(session, ctx, setback.code())).await
                        }
                        (settled, _) => settled,
                    }
                }
            };
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
        if request.version == Version::HTTP_11 && !request.headers.contains_key(HOST) {
            return Some(Answer::problem(
                ErrorCode::InvalidRequest,
                "the request has no Host",
            ));
        }
        let length = request.headers.get(CONTENT_LENGTH)?;
        let Some(length) = length.to_str().ok().and_then(|l| l.parse::<u64>().ok()) else {
            return Some(Answer::problem(
                ErrorCode::InvalidRequest,
                "the Content-Length is no number",
            ));
        };
        (length > self.config.proxy.max_body_bytes).then_some(BODY_TOO_LARGE)
    }

    /// Waits until something else is decided than to wait.
    async fn hold(&self, session: &mut Session, ctx: &mut Ctx, first: ErrorCode) -> Verdict {
        ctx.outcome = Outcome::Hold;
        ctx.write = None; // nothing of it is on its way now
        ctx.reason = first.as_str();
        let budget = self.config.proxy.hold_budget;
        let began = Instant::now();
        let until = *ctx.waits_since.get_or_insert(began) + budget;
        let again = CONNECT_EVERY.max(budget / MAX_CONNECTS);
        let request = session.req_header().clone();
        let (before, setback, class) = (ctx.epoch, ctx.setback, ctx.class);
        let another_try = || match setback {
            None => true,
            Some(Setback::Stale) => false, // not before there is news
            Some(Setback::Refused) => began.elapsed() >= again,
        };
        let mut why = first;
        let decide = || {
            let facts = facts_of(&request, class);
            match self.verdict(tenant_of(&request).ok()?, &facts, request.raw_path()) {
                Verdict::Hold(reason) => {
                    why = reason.code();
                    None
                }
                Verdict::Pass(epoch, ..) if before == Some(epoch) && !another_try() => None,
                verdict => Some(verdict),
            }
        };
        let changes = self.placements.changes();
        let gone = left(session);
        let held = self.holds.hold(changes, until, again, gone, decide).await;
        match held {
            Held::Released(verdict) => verdict,
            Held::Expired => Verdict::Answer(expired(why)),
            Held::Full => Verdict::Answer(expired(ErrorCode::HoldQueueFull)),
            Held::Abandoned => {
                session.set_keepalive(None);
                Verdict::Answer(expired(why)) // nobody will read it
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
        let verdict = self.hold(session, ctx, setback.code()).await;
        let answer = self.act(session, ctx, verdict).await;
        answer.map(|answer| ctx.truthful(answer))
    }
}

/// What a hold that came to nothing is answered with.
pub(super) fn expired(why: ErrorCode) -> Answer {
    match why {
        ErrorCode::StalePlacement => STALE,
        ErrorCode::Unavailable => ORIGIN_REFUSES,
        code => Answer::problem(code, rejection(code)),
    }
}
