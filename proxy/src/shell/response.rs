//! Answers that the proxy gives by itself: redirects and problem documents. An early answer must
//! leave the connection in a state that nobody can abuse: the rest of the request's body is
//! either read and thrown away before the answer, and the connection stays open, or the
//! connection closes after it (with care, see [`super::stream`]); it is never parsed as the next
//! request (request smuggling, CVE-2025-4366).
//!
//! ```text
//! no body, or all of it read ─────────────────────▶ answer, keep open
//! small, and not waiting for 100-continue ─ read ─▶ answer, keep open
//!                            ─ too slow, too long ▶ answer, close lingering
//! large, or Expect: 100-continue ─────────────────▶ answer, close lingering
//! ```
//! On HTTP/2 the connection lives. The rest is read and thrown away after the answer, for as long as
//! a lingering close would: the stream's reset at once, which RFC 9113 §8.1 allows, makes clients
//! like curl 7.88 forget the answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method};
use maia_common::error_code::{PROBLEM_MEDIA_TYPE, RETRY_AFTER_S};
use maia_common::{ErrorCode, Problem, headers};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use crate::core::decide::RedirectReason;
use crate::shell::stream::Guard;

/// The largest rest of a body that is read to keep a connection.
pub const MAX_DRAIN_BYTES: usize = 64 << 10;
/// How long that may take.
pub const MAX_DRAIN_TIME: Duration = Duration::from_secs(1);

/// `X-MAIA-Region`
pub const REGION: HeaderName = HeaderName::from_static(headers::REGION);
/// `X-Request-ID`
pub const REQUEST_ID: HeaderName = HeaderName::from_static(headers::REQUEST_ID);
const PRIMARY_REGION: HeaderName = HeaderName::from_static(headers::PRIMARY_REGION);
const REDIRECT_REASON: HeaderName = HeaderName::from_static(headers::REDIRECT_REASON);

/// What is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// 307.
    Redirect {
        /// Where to.
        location: HeaderValue,
        /// The region that leads the tenant's group, if known.
        primary: Option<HeaderValue>,
        /// Why.
        reason: RedirectReason,
    },
    /// A problem document.
    Problem {
        /// Its code.
        code: ErrorCode,
        /// The status, where it is not the code's own.
        status: Option<u16>,
        /// What happened, for people.
        detail: &'static str,
    },
}

impl Answer {
    /// A problem with its code's own status.
    #[must_use]
    pub const fn problem(code: ErrorCode, detail: &'static str) -> Self {
        Answer::Problem {
            code,
            status: None,
            detail,
        }
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Answer::Redirect { .. } => 307,
            Answer::Problem { code, status, .. } => status.unwrap_or(code.status()),
        }
    }

    /// The reason as the access log names it.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Answer::Redirect { reason, .. } => reason.as_str(),
            Answer::Problem { code, .. } => code.as_str(),
        }
    }
}

/// What every answer of this proxy carries.
#[derive(Debug, Clone, Copy)]
pub struct Mark<'a> {
    /// The region that answers: this one.
    pub region: &'a HeaderValue,
    /// The request's id.
    pub request_id: Option<&'a HeaderValue>,
}

/// Settles the request's body and sends the answer.
///
/// # Errors
/// The client is gone.
pub async fn send(
    session: &mut Session,
    guard: Option<&Guard>,
    mark: Mark<'_>,
    answer: &Answer,
) -> Result<()> {
    settle_body(session, guard).await;
    let (mut header, body) = build(answer)?;
    header.insert_header(REGION, mark.region)?;
    if let Some(id) = mark.request_id {
        header.insert_header(REQUEST_ID, id)?;
    }
    let bodyless = body.is_empty() || session.req_header().method == Method::HEAD;
    session
        .write_response_header(Box::new(header), bodyless)
        .await?;
    if !bodyless {
        session.write_response_body(Some(body), true).await?;
    }
    if session.is_http2()
        && let Some(guard) = guard
    {
        let discarded = discard(session);
        // The client resets the stream once it has the answer, or sends on until the time is over.
        let _either_way = tokio::time::timeout(guard.linger_timeout(), discarded).await;
    }
    Ok(())
}

/// Reads and throws away what is left of the body.
async fn discard(session: &mut Session) {
    let downstream = session.as_downstream_mut();
    while !downstream.is_body_done() {
        match downstream.read_request_body().await {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

fn build(answer: &Answer) -> Result<(ResponseHeader, Bytes)> {
    let mut header = ResponseHeader::build_no_case(answer.status(), Some(10))?;
    header.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
    match answer {
        Answer::Redirect {
            location,
            primary,
            reason,
        } => {
            header.insert_header(LOCATION, location)?;
            header.insert_header(REDIRECT_REASON, HeaderValue::from_static(reason.as_str()))?;
            if let Some(primary) = primary {
                header.insert_header(PRIMARY_REGION, primary)?;
            }
            header.insert_header(CONTENT_LENGTH, HeaderValue::from_static("0"))?;
            Ok((header, Bytes::new()))
        }
        Answer::Problem { code, detail, .. } => {
            let mut problem = Problem::new(*code, *detail);
            problem.status = answer.status();
            let body = problem.to_json();
            header.insert_header(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE))?;
            header.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()))?;
            if matches!(problem.status, 429 | 503) {
                header.insert_header(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S))?;
            }
            Ok((header, body.into()))
        }
    }
}

async fn settle_body(session: &mut Session, guard: Option<&Guard>) {
    if session.is_http2() || session.as_downstream_mut().is_body_done() {
        return;
    }
    if worth_draining(session) {
        let drained = tokio::time::timeout(MAX_DRAIN_TIME, drain(session)).await;
        if drained.unwrap_or(false) {
            return;
        }
    }
    session.set_keepalive(None);
    if let Some(guard) = guard {
        guard.linger();
    }
}

fn worth_draining(session: &Session) -> bool {
    let headers = &session.req_header().headers;
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let length = length.map_or(Some(0), |text| text.parse::<usize>().ok());
    // A connection that closes anyway needs no draining, only lingering.
    session.get_keepalive().is_some()
        && !headers.contains_key(EXPECT)
        && length.is_some_and(|l| l <= MAX_DRAIN_BYTES)
}

/// Reads the rest of the body. False: it is longer than worth reading, or broken.
async fn drain(session: &mut Session) -> bool {
    let mut drained = 0;
    loop {
        match session.as_downstream_mut().read_request_body().await {
            Ok(None) => return true,
            Ok(Some(piece)) => drained += piece.len(),
            Err(_) => return false,
        }
        if drained > MAX_DRAIN_BYTES {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_how_long_it_is_and_when_to_come_back() {
        let (header, body) = build(&Answer::Problem {
            code: ErrorCode::StalePlacement,
            status: Some(503),
            detail: "stale",
        })
        .unwrap();
        assert_eq!(header.status, 503);
        assert_eq!(header.headers[CONTENT_LENGTH], body.len().to_string());
        assert_eq!(header.headers[RETRY_AFTER], "1");
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&json["code"], &json["status"]),
            (&"stale_placement".into(), &503.into())
        );
    }
}
