//! The stable error codes that clients see, and the problem document (RFC 9457) that carries one.
//! The one place where a code becomes an HTTP status. Called by both shells when they answer; the
//! decision which code applies is made elsewhere.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal, $retryable:literal;)*) => {
        /// A stable, bounded name for what went wrong; also a metric label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl ErrorCode {
            /// Every code, for documents and tests.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code as clients see it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $text,)* }
            }

            /// The HTTP status that goes with the code.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(ErrorCode::$variant => $status,)* }
            }

            /// Whether the same request may succeed later without being changed.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(ErrorCode::$variant => $retryable,)* }
            }

            /// The code with this text, if there is one.
            #[must_use]
            pub fn parse(text: &str) -> Option<ErrorCode> {
                match text { $($text => Some(ErrorCode::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// No placement is known for the tenant.
    UnknownTenant = "unknown_tenant", 404, false;
    /// The tenant's name is illegal.
    InvalidTenant = "invalid_tenant", 400, false;
    /// The request names no tenant.
    TenantRequired = "tenant_required", 400, false;
    /// The resource, or the thing named in the path, does not exist.
    NotFound = "not_found", 404, false;
    /// The request is malformed; the detail says where.
    InvalidRequest = "invalid_request", 400, false;
    /// The path exists, the method is not for it.
    MethodNotAllowed = "method_not_allowed", 405, false;
    /// The placement can't be as asked; the detail says why.
    PlacementConflict = "placement_conflict", 409, false;
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed = "precondition_failed", 412, false;
    /// The request needs an `If-Match`.
    PreconditionRequired = "precondition_required", 428, false;
    /// The idempotency key was used with another body.
    IdempotencyConflict = "idempotency_conflict", 409, false;
    /// Another migration of the tenant has not finished.
    MigrationInProgress = "migration_in_progress", 409, true;
    /// The migration's target can't take the tenant.
    MigrationTargetUnavailable = "migration_target_unavailable", 409, true;
    /// The world changed since the plan was made.
    PlanChanged = "plan_changed", 409, false;
    /// The node can't be added or removed as asked; the detail says why.
    NodeConflict = "node_conflict", 409, false;
    /// The cluster has its cap of placement groups.
    TooManyGroups = "too_many_groups", 409, false;
    /// The proxy is connected: stop it first.
    ProxyConnected = "proxy_connected", 409, true;
    /// The cluster has its cap of registered proxies.
    TooManyProxies = "too_many_proxies", 409, false;
    /// This node does not lead the group.
    NotLeader = "not_leader", 421, true;
    /// The request was routed by a placement that is no longer true.
    StalePlacement = "stale_placement", 421, true;
    /// The tenant's writes are held while it moves.
    TenantHeld = "tenant_held", 503, true;
    /// The tenant's group has no leader now.
    GroupLeaderless = "group_leaderless", 503, true;
    /// Too few copies answer; definitely not written.
    NotEnoughReplicas = "not_enough_replicas", 503, true;
    /// The write may or may not take effect; retry with the same idempotency key.
    OutcomeUnknown = "outcome_unknown", 503, true;
    /// Too many requests are held already.
    HoldQueueFull = "hold_queue_full", 503, true;
    /// The service is not ready, or too busy; definitely not written.
    Unavailable = "unavailable", 503, true;
    /// The disk has no room; definitely not written.
    DiskFull = "disk_full", 507, true;
    /// No region that could serve the request is up.
    RegionUnavailable = "region_unavailable", 503, true;
    /// The local origin can't be reached.
    NoOrigin = "no_origin", 502, true;
    /// The origin did not answer in time.
    OriginTimeout = "origin_timeout", 504, true;
    /// The request went around in a circle.
    LoopDetected = "loop_detected", 508, false;
    /// The body is larger than the limit.
    BodyTooLarge = "body_too_large", 413, false;
    /// Too many requests from this caller.
    RateLimited = "rate_limited", 429, true;
    /// No valid token.
    Unauthenticated = "unauthenticated", 401, false;
    /// The token lacks the scope.
    Forbidden = "forbidden", 403, false;
    /// Goes on only with an explicit acceptance of loss.
    DataLossRefused = "data_loss_refused", 409, false;
    /// The token's position is not part of this history.
    DivergedHistory = "diverged_history", 409, false;
    /// The log no longer has what follows the position: read the whole state, then go on from there.
    NotRetained = "not_retained", 410, false;
    /// This replica has not reached the token's position in time.
    NotYet = "not_yet", 503, true;
    /// A bug or a broken machine; the log has more.
    Internal = "internal", 500, false;
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The media type of a problem document.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// An RFC 9457 problem document: what every error answer carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI that names the kind of problem: `urn:maia:error:<code>`.
    pub r#type: String,
    /// The code once more, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: ErrorCode,
    /// What happened here, safe to show to a client.
    pub detail: String,
    /// Where to turn instead, for `not_leader` and `stale_placement`: a region's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_region: Option<String>,
}

impl Problem {
    /// The document for this code and detail.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            r#type: format!("urn:maia:error:{code}"),
            title: code.as_str().replace('_', " "),
            status: code.status(),
            code,
            detail: detail.into(),
            leader_region: None,
        }
    }

    /// The document as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialize")
    }
}

/// Seconds for `Retry-After` on 429 and 503 where nothing better is known.
pub const RETRY_AFTER_S: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_parse_back() {
        let texts: std::collections::BTreeSet<_> =
            ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
        }
    }

    #[test]
    fn a_problem_document_has_the_members_of_rfc_9457() {
        let json: serde_json::Value =
            serde_json::from_slice(&Problem::new(ErrorCode::UnknownTenant, "no such").to_json())
                .unwrap();
        assert_eq!(json["status"], 404);
        assert_eq!(json["code"], "unknown_tenant");
        assert_eq!(json["type"], "urn:maia:error:unknown_tenant");
    }
}
