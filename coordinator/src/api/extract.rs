//! Extractors whose refusals are problem documents too.

use std::fmt::Display;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use serde::Deserialize;

use super::problem::ApiError;

/// The query of an operation that changes something and has no parameters: whoever gives one, such as
/// `dry_run` where there is none, must not have it ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParameters {}

/// Another extractor, refused with a problem document.
#[derive(Debug)]
pub struct Checked<E>(pub E);

impl<S, E> FromRequestParts<S> for Checked<E>
where
    S: Send + Sync,
    E: FromRequestParts<S>,
    E::Rejection: Display,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match E::from_request_parts(parts, state).await {
            Ok(extracted) => Ok(Self(extracted)),
            Err(rejection) => Err(ApiError::invalid(rejection.to_string())),
        }
    }
}
