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
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use maia_common::error_code::{PROBLEM_MEDIA_TYPE, RETRY_AFTER_S};
use maia_common::{ErrorCode, Problem, headers};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{ErrorType, OrErr};

use crate::core::alias::FAMILY;
use crate::core::decide::RedirectReason;
use crate::shell::names::{PRIMARY_REGION, REDIRECT_REASON, REGION, REQUEST_ID};
use crate::shell::stream::Guard;

/// The largest rest of a body that is read to keep a connection.
pub const MAX_DRAIN_BYTES: usize = 64 << 10;
/// How long that may take.
pub const MAX_DRAIN_TIME: Duration = Duration::from_secs(1);

/// What [`mark`] adds at most: room for all of it at once.
const MARK_HEADERS: usize = 2;
/// All that an answer carries, with what pingora adds (`Date`, `Connection`): room from the start.
const ANSWER_HEADERS: usize = 12;

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

impl Mark<'_> {
    fn put(self, headers: &mut HeaderMap) {
        headers.insert(REGION, self.region.clone());
        if let Some(id) = self.request_id {
            headers.insert(REQUEST_ID, id.clone());
        }
    }
}

/// Takes from the origin's response what only maia-edge may say, and marks it. Names of headers come
/// out in lower case.
///
/// # Errors
/// None in practice: the reason phrase was legal when it came.
pub fn mark(response: &mut ResponseHeader, mark: Mark<'_>) -> Result<()> {
    let phrase = own_phrase(response);
    let (empty, ()) = http::Response::new(()).into_parts();
    // As its parts, where names need not be kept, and hashed, a second time for their case.
    let mut parts = Parts::from(std::mem::replace(response, empty.into()));
    let headers = &mut parts.headers;
    let is_internal = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with(FAMILY) && headers::INTERNAL.contains(&name)
    };
    // Usually there is none, and nothing is allocated.
    let internal: Vec<HeaderName> = headers.keys().filter(is_internal).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
    headers.reserve(MARK_HEADERS);
    mark.put(headers);
    *response = ResponseHeader::from(parts);
    match phrase {
        Some(phrase) => response.set_reason_phrase(Some(&phrase)),
        None => Ok(()),
    }
}

/// The origin's reason phrase, where it is not the usual one of its status.
fn own_phrase(response: &ResponseHeader) -> Option<String> {
    let phrase = response.get_reason_phrase();
    let own = phrase.filter(|phrase| Some(*phrase) != response.status.canonical_reason());
    own.map(str::to_owned)
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
    let (header, body) = build(answer, mark)?;
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
        let discarded = tokio::time::timeout(guard.linger_timeout(), discarded);
        let _either_way = Box::pin(discarded).await;
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

/// Built from its parts: names are made at compile time, and keep no case beside them.
fn build(answer: &Answer, mark: Mark<'_>) -> Result<(ResponseHeader, Bytes)> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(answer.status())
        .or_err(ErrorType::InternalError, "an answer has an illegal status")?;
    let headers = &mut parts.headers;
    headers.reserve(ANSWER_HEADERS);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    mark.put(headers);
    let body = match answer {
        Answer::Redirect {
            location,
            primary,
            reason,
        } => {
            headers.insert(LOCATION, location.clone());
            headers.insert(REDIRECT_REASON, HeaderValue::from_static(reason.as_str()));
            if let Some(primary) = primary {
                headers.insert(PRIMARY_REGION, primary.clone());
            }
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            Bytes::new()
        }
        Answer::Problem { code, detail, .. } => {
            problem(headers, Problem::new(*code, *detail), answer.status())
        }
    };
    Ok((ResponseHeader::from(parts), body))
}

fn problem(headers: &mut HeaderMap, mut problem: Problem, status: u16) -> Bytes {
    problem.status = status;
    let body = problem.to_json();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if matches!(status, 429 | 503) {
        headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }
    body.into()
}

async fn settle_body(session: &mut Session, guard: Option<&Guard>) {
    if session.is_http2() || session.as_downstream_mut().is_body_done() {
        return;
    }
    if worth_draining(session) {
        let drained = Box::pin(tokio::time::timeout(MAX_DRAIN_TIME, drain(session))).await;
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
    fn an_origin_can_not_say_what_is_internal_and_keeps_its_own_words() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("X-MAIA-Region", "elsewhere"),
            ("X-MAIA-Primary-Region", "elsewhere"),
            ("X-MAIA-Acked-Regions", "a,b"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
        ] {
            response.append_header(name, value).unwrap();
        }
        response.set_reason_phrase(Some("Fine")).unwrap();
        let id = HeaderValue::from_static("r1");
        let here = Mark {
            region: &HeaderValue::from_static("here"),
            request_id: Some(&id),
        };
        mark(&mut response, here).unwrap();
        let all = |name: &str| -> Vec<&str> {
            let values = response.headers.get_all(name).iter();
            values.map(|v| v.to_str().unwrap()).collect()
        };
        assert_eq!(all("x-maia-region"), ["here"]);
        assert_eq!(all("x-request-id"), ["r1"]);
        assert!(all("x-maia-primary-region").is_empty());
        assert_eq!(all("x-maia-acked-regions"), ["a,b"]);
        assert_eq!(all("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(response.get_reason_phrase(), Some("Fine"));
    }

    #[test]
    fn a_problem_says_how_long_it_is_and_when_to_come_back() {
        let answer = Answer::Problem {
            code: ErrorCode::StalePlacement,
            status: Some(503),
            detail: "stale",
        };
        let mark = Mark {
            region: &HeaderValue::from_static("a"),
            request_id: None,
        };
        let (header, body) = build(&answer, mark).unwrap();
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
