//! What the proxy knows of one request, and what it reads from its header.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, StatusCode};
use maia_common::ErrorCode;
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::failure::OUTCOME_UNKNOWN;
use crate::core::classify::Class;
use crate::core::decide::{Epoch, Facts};
use crate::core::tenant;
use crate::shell::in_flight::Write;
use crate::shell::metrics::Outcome;
use crate::shell::names::{PREFERRED_REGION, TENANT};
use crate::shell::response::Answer;
use crate::shell::stream::Guard;

/// What did not work at the last try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setback {
    /// No connection.
    Refused,
    /// 421.
    Stale,
}

impl Setback {
    /// What a wait that comes to nothing after it is answered with.
    pub(super) const fn code(self) -> ErrorCode {
        match self {
            Setback::Stale => ErrorCode::StalePlacement,
            Setback::Refused => ErrorCode::Unavailable,
        }
    }
}

/// Whether the origin may have carried the request out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing was sent, or the origin said that it did nothing (421).
    Untouched,
    /// This try was, or is being, sent.
    Sent,
    /// An earlier try was sent and not answered: no later one can tell.
    Unknown,
}

/// What the proxy knows of one request.
pub struct Ctx {
    pub(super) started: Instant,
    /// When it was answered.
    pub(super) ended: Option<Instant>,
    pub(super) guard: Option<Arc<Guard>>,
    pub(super) class: Class,
    pub(super) outcome: Outcome,
    pub(super) reason: &'static str,
    pub(super) epoch: Option<Epoch>,
    /// Counts it as in flight.
    pub(super) write: Option<Write>,
    pub(super) request_id: Option<HeaderValue>,
    pub(super) received_bytes: u64,
    /// When it first had to wait, for its tenant or its primary.
    pub(super) waits_since: Option<Instant>,
    /// How often its tenant was looked up.
    pub(super) lookups: usize,
    pub(super) setback: Option<Setback>,
    pub(super) tries: usize,
    pub(super) stale: bool,
    pub(super) breaks: usize,
    pub(super) fate: Fate,
    /// Of the request as the origin got it last.
    pub(super) repeatable: bool,
    /// What is answered in place of what an error would be.
    pub(super) answer: Option<Answer>,
}

impl Ctx {
    /// Nothing known yet; a write until its method says otherwise.
    pub(super) fn new(started: Instant) -> Self {
        Self {
            started,
            ended: None,
            guard: None,
            class: Class::Write,
            outcome: Outcome::Local,
            reason: "",
            epoch: None,
            write: None,
            request_id: None,
            received_bytes: 0,
            waits_since: None,
            lookups: 0,
            setback: None,
            tries: 0,
            stale: false,
            breaks: 0,
            fate: Fate::Untouched,
            repeatable: false,
            answer: None,
        }
    }

    /// Notes that the request is passed to the origin. Always `None`: nothing to answer.
    pub(super) fn pass(
        &mut self,
        epoch: Epoch,
        reason: &'static str,
        write: Option<Write>,
    ) -> Option<Answer> {
        self.write = write;
        self.epoch = Some(epoch);
        self.outcome = Outcome::Local;
        self.reason = reason;
        None
    }

    /// A try is about to be sent.
    pub(super) fn sends(&mut self) {
        if self.fate == Fate::Untouched {
            self.fate = Fate::Sent;
        }
    }

    /// The origin said that it did nothing.
    pub(super) fn was_refused(&mut self) {
        if self.fate == Fate::Sent {
            self.fate = Fate::Untouched;
        }
    }

    /// The answer that is true: of a write that may have been carried out, the proxy itself says nothing
    /// else. Neither that it was not, nor where to go with it: whoever is asked there would say so of
    /// its own try, or carry it out a second time.
    pub(super) fn truthful(&self, answer: Answer) -> Answer {
        if self.is_unknown() {
            OUTCOME_UNKNOWN
        } else {
            answer
        }
    }

    /// Whether the origin's answer to this try, as an answer to the client, would say of an earlier one
    /// what nobody knows: that one was sent, broke off, and may yet be carried out. A success
    /// alone is passed on: it says of the later try what is true, and with a key of both. Without one (`PUT`,
    /// `DELETE`) the earlier try may still take effect behind it, and behind others' writes in between: who
    /// minds sends a key or a condition. A refusal need not be of what the key stands for: the tenant may have left since.
    pub(super) fn is_beyond(&self, status: StatusCode) -> bool {
        let is_final = !status.is_informational();
        let is_refusal = is_final && !status.is_success();
        self.class == Class::Write && self.fate == Fate::Unknown && is_refusal
    }

    /// Whether it is a write of which nobody here knows if it took effect.
    pub(super) fn is_unknown(&self) -> bool {
        self.class == Class::Write && self.fate != Fate::Untouched
    }
}

pub(super) fn tenant_of(request: &RequestHeader) -> Result<&str, tenant::TenantError> {
    let values = request.headers.get_all(TENANT).iter();
    tenant::from_header(values.map(HeaderValue::as_bytes))
}

pub(super) fn facts_of(request: &RequestHeader, class: Class) -> Facts<'_> {
    // It never affects writes.
    let read = class != Class::Write;
    let preferred = read
        .then(|| request.headers.get(PREFERRED_REGION))
        .flatten();
    Facts {
        class,
        preferred: preferred.and_then(|v| v.to_str().ok()),
    }
}

/// Whether the client sent a Content-Length too: pingora drops it silently beside a
/// Transfer-Encoding, but its presence means that someone reads the request otherwise.
pub(super) fn names_length_too(session: &Session) -> bool {
    const NAME: &[u8] = b"\ncontent-length";
    session.as_downstream().as_http1().is_some_and(|h1| {
        let raw = h1.get_headers_raw_bytes();
        raw.windows(NAME.len())
            .any(|w| w.eq_ignore_ascii_case(NAME))
    })
}

/// Ends when the client leaves. Only seen while no body is left to read; on HTTP/2 always.
pub(super) async fn left(session: &mut Session) {
    let downstream = session.as_downstream_mut();
    if !downstream.is_http2() && !downstream.is_body_done() {
        std::future::pending::<()>().await;
    }
    let _closed = downstream.read_body_or_idle(true).await;
}
