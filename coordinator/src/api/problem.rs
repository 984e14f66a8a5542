//! Where errors become responses: a refusal as an RFC 9457 problem document. The only such place.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maia_common::error_code::{ErrorCode, PROBLEM_MEDIA_TYPE, Problem, RETRY_AFTER_S};
use maia_common::ids::NameError;

use crate::shell::placements::Refusal;

/// An error answer.
#[derive(Debug)]
pub struct ApiError(Problem);

impl ApiError {
    /// The answer for this code and sentence.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self(Problem::new(code, detail))
    }

    /// The request is malformed.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, detail)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code, refusal.detail)
    }
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> Self {
        let code = match error.kind {
            "tenant" => ErrorCode::InvalidTenant,
            _ => ErrorCode::InvalidRequest,
        };
        Self::new(code, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.0;
        let status = StatusCode::from_u16(problem.status).unwrap_or_default();
        let mut response = (status, problem.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(PROBLEM_MEDIA_TYPE),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(problem.status, 429 | 503 | 507) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if problem.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
