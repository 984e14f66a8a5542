//! What a request that could not be served is answered with.

use maia_common::ErrorCode;
use pingora::{Error, ErrorSource, ErrorType};

use super::Proxy;
use super::request::{Ctx, Setback};
use crate::core::tenant;
use crate::shell::metrics::UpstreamError;
use crate::shell::response::Answer;

pub(super) const BODY_TOO_LARGE: Answer = Answer::problem(
    ErrorCode::BodyTooLarge,
    "the body is larger than this proxy passes on",
);
pub(super) const BODY_TOO_SLOW: Answer =
    Answer::problem(ErrorCode::InvalidRequest, "the body did not arrive in time");
pub(super) const ORIGIN_REFUSES: Answer = Answer::problem(
    ErrorCode::Unavailable,
    "the origin accepts no connections; definitely not written",
);
pub(super) const STALE: Answer = Answer::Problem {
    code: ErrorCode::StalePlacement,
    status: Some(503), // 421 would tell the client to try another connection
    detail: "the tenant has moved and this proxy has not heard where to; definitely not written",
};

pub(super) const OUTCOME_UNKNOWN: Answer = Answer::problem(
    ErrorCode::OutcomeUnknown,
    "the request was sent and the origin did not answer; the write may or may not take effect",
);

pub(super) fn rejection(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::UnknownTenant => "no placement is known for the tenant",
        ErrorCode::RegionUnavailable => "no region that could serve the request is known and up",
        ErrorCode::Unavailable => "this proxy has not heard of any placement yet",
        ErrorCode::TenantHeld => "the tenant is moving; its writes are held for a moment",
        ErrorCode::GroupLeaderless => "the tenant's group has no leader at the moment",
        ErrorCode::NotYet => "the tenant's placement changed while the write waited; not written",
        ErrorCode::HoldQueueFull => "too many writes wait for their primary already",
        _ => "the request can't be served",
    }
}

pub(super) fn tenant_detail(error: tenant::TenantError) -> &'static str {
    match error {
        tenant::TenantError::Required => "set the header X-MAIA-Tenant-ID",
        tenant::TenantError::Illegal => {
            "a tenant id is 1 to 128 of A-Z, a-z, 0-9 and - _ . : @ ~, first a letter or digit"
        }
        tenant::TenantError::Ambiguous => "the request names several tenants",
    }
}

impl Proxy {
    /// What a failure on the way to the origin is answered with; `None`: the client is gone.
    pub(super) fn answer_to(&self, error: &Error, ctx: &Ctx) -> Option<Answer> {
        if ctx.setback == Some(Setback::Stale) {
            return Some(ctx.truthful(STALE));
        }
        match error.esource() {
            ErrorSource::Upstream => Some(ctx.truthful(self.answer_to_origin(error))),
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
                let answer = Answer::problem(ErrorCode::Internal, "the proxy failed");
                Some(ctx.truthful(answer))
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
                "the origin did not answer in time",
            ),
            UpstreamError::Broken | UpstreamError::Stale => {
                Answer::problem(ErrorCode::NoOrigin, "the origin broke off")
            }
        }
    }
}

/// Whether the origin broke off, rather than refused or was slow.
pub(super) fn is_broken(error: &Error) -> bool {
    kind_of(error) == UpstreamError::Broken
}

fn kind_of(error: &Error) -> UpstreamError {
    match error.etype() {
        ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectTimedout
        | ErrorType::ConnectError
        | ErrorType::BindError
        | ErrorType::SocketError => UpstreamError::Connect,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => UpstreamError::Timeout,
        _ => UpstreamError::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_before_a_connection_was_there_was_not_sent() {
        for (of, kind) in [
            (ErrorType::ConnectTimedout, UpstreamError::Connect),
            (ErrorType::ConnectRefused, UpstreamError::Connect),
            (ErrorType::SocketError, UpstreamError::Connect),
            (ErrorType::ReadTimedout, UpstreamError::Timeout),
            (ErrorType::ConnectionClosed, UpstreamError::Broken),
        ] {
            assert_eq!(kind_of(&Error::new(of.clone())), kind, "{of:?}");
        }
    }
}
