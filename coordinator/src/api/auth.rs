//! Who may call what: bearer tokens, kept as hashes, with scopes. `admin` includes the others. The
//! comparison takes the same time for every token.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use maia_common::error_code::ErrorCode;

use super::Api;
use super::problem::ApiError;
use crate::config::{Auth, Scope};

/// The accepted tokens.
#[derive(Debug)]
pub struct Tokens {
    accepted: Vec<(blake3::Hash, Vec<Scope>)>,
    anonymous_data: bool,
}

impl Tokens {
    /// The tokens of the configuration.
    pub fn new(auth: &Auth) -> Self {
        let accepted = auth.tokens.iter().filter_map(|token| {
            Some((
                blake3::Hash::from_hex(&token.blake3).ok()?,
                token.scopes.clone(),
            ))
        });
        Self {
            accepted: accepted.collect(),
            anonymous_data: auth.anonymous_data,
        }
    }

    /// Whether a call with this `Authorization` may do what needs `scope`.
    fn check(&self, authorization: Option<&str>, scope: Scope) -> Result<(), ErrorCode> {
        let Some(authorization) = authorization else {
            let anonymous = scope == Scope::Data && self.anonymous_data;
            return if anonymous {
                Ok(())
            } else {
                Err(ErrorCode::Unauthenticated)
            };
        };
        let token = authorization
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or(ErrorCode::Unauthenticated)?;
        let hash = blake3::hash(token.as_bytes());
        // Every token is compared, so that time tells nothing about which one came close.
        let mut scopes: Option<&[Scope]> = None;
        for (accepted, its_scopes) in &self.accepted {
            if *accepted == hash {
                scopes = Some(its_scopes);
            }
        }
        let scopes = scopes.ok_or(ErrorCode::Unauthenticated)?;
        if scopes.contains(&scope) || scopes.contains(&Scope::Admin) {
            Ok(())
        } else {
            Err(ErrorCode::Forbidden)
        }
    }
}

/// Lets through who has the scope.
pub async fn demand(
    State((api, scope)): State<(Api, Scope)>,
    request: Request,
    next: Next,
) -> Response {
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.map(|value| value.to_str().unwrap_or_default());
    match api.auth.check(given, scope) {
        Ok(()) => next.run(request).await,
        Err(code) => {
            let detail = match code {
                ErrorCode::Forbidden => "the token lacks the scope for this",
                _ => "a valid bearer token is needed: Authorization: Bearer …",
            };
            ApiError::new(code, detail).into_response()
        }
    }
}

/// Lets through who has the scope `data` by a token of its own, also where resources are served without.
pub async fn demand_named(State(api): State<Api>, request: Request, next: Next) -> Response {
    if request.headers().contains_key(header::AUTHORIZATION) {
        return demand(State((api, Scope::Data)), request, next).await;
    }
    let text = "a bearer token is needed: Authorization: Bearer …";
    ApiError::new(ErrorCode::Unauthenticated, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Token;

    fn tokens(anonymous_data: bool) -> Tokens {
        let token = |name: &str, scopes: &[Scope]| Token {
            name: name.into(),
            blake3: blake3::hash(name.as_bytes()).to_hex().to_string(),
            scopes: scopes.to_vec(),
        };
        Tokens::new(&Auth {
            tokens: vec![token("root", &[Scope::Admin]), token("app", &[Scope::Data])],
            anonymous_data,
        })
    }

    #[test]
    fn scopes_are_demanded() {
        let tokens = tokens(false);
        let ask = |authorization, scope| tokens.check(authorization, scope).err();
        assert_eq!(ask(Some("Bearer root"), Scope::Read), None);
        assert_eq!(ask(Some("bearer app"), Scope::Data), None);
        assert_eq!(
            ask(Some("Bearer app"), Scope::Admin),
            Some(ErrorCode::Forbidden)
        );
        for bad in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer x"),
            Some("Basic root"),
        ] {
            assert_eq!(
                ask(bad, Scope::Data),
                Some(ErrorCode::Unauthenticated),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn anonymous_callers_get_data_only_where_it_is_configured() {
        assert_eq!(tokens(true).check(None, Scope::Data), Ok(()));
        assert_eq!(
            tokens(true).check(None, Scope::Read),
            Err(ErrorCode::Unauthenticated)
        );
        assert_eq!(
            tokens(true).check(Some("Bearer x"), Scope::Data),
            Err(ErrorCode::Unauthenticated),
            "a wrong token is never taken for none"
        );
    }
}
