//! The product's header names as the HTTP library's, made at compile time: a look-up by text would
//! parse the text each time. Used by every phase of a request; the texts are `maia_common`'s.

use http::HeaderName;
use maia_common::headers;

/// `X-MAIA-Tenant-ID`
pub const TENANT: HeaderName = HeaderName::from_static(headers::TENANT);
/// `X-MAIA-Preferred-Region`
pub const PREFERRED_REGION: HeaderName = HeaderName::from_static(headers::PREFERRED_REGION);
/// `X-MAIA-Consistency-Token`
pub const CONSISTENCY_TOKEN: HeaderName = HeaderName::from_static(headers::CONSISTENCY_TOKEN);
/// `X-MAIA-Placement-Epoch`
pub const PLACEMENT_EPOCH: HeaderName = HeaderName::from_static(headers::PLACEMENT_EPOCH);
/// `X-MAIA-Region`
pub const REGION: HeaderName = HeaderName::from_static(headers::REGION);
/// `X-MAIA-Primary-Region`
pub const PRIMARY_REGION: HeaderName = HeaderName::from_static(headers::PRIMARY_REGION);
/// `X-MAIA-Redirect-Reason`
pub const REDIRECT_REASON: HeaderName = HeaderName::from_static(headers::REDIRECT_REASON);
/// `X-Request-ID`
pub const REQUEST_ID: HeaderName = HeaderName::from_static(headers::REQUEST_ID);
/// `Idempotency-Key`
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static(headers::IDEMPOTENCY_KEY);
/// `X-Forwarded-For`
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
