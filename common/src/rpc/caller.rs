//! Who is on the other end of a connection that was accepted. In the extensions of every request.

use std::sync::Arc;

use http::Extensions;
use tonic::Status;

use super::identity::{Identity, Party};
use super::refusals;

/// Who calls.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Nobody can tell: the connection is in the clear.
    Plain,
    /// Whom the certificate names.
    Known(Arc<Identity>),
    /// The certificate is of the cluster's CA and names nobody of the cluster; why.
    Stranger(Arc<str>),
}

impl Caller {
    /// Who sent the request.
    ///
    /// # Errors
    /// `unauthenticated` where the listener did not say, which is a bug.
    pub fn of(extensions: &Extensions) -> Result<&Caller, Status> {
        let caller = extensions.get::<Caller>();
        caller.ok_or_else(|| Status::unauthenticated("nobody knows who calls"))
    }

    /// Whether the caller may speak as `party`.
    ///
    /// # Errors
    /// `permission_denied` where its certificate does not name it.
    pub fn speaks_for(&self, party: &Party) -> Result<(), Status> {
        match self {
            Caller::Plain => Ok(()),
            Caller::Known(identity) if identity.names(party) => Ok(()),
            Caller::Known(identity) => {
                let text = format!("the caller's certificate is of {identity}, not of {party}");
                Err(denied(&text))
            }
            Caller::Stranger(why) => Err(stranger(why)),
        }
    }
}

/// Refuses a call for what its caller is.
pub(super) fn denied(text: &str) -> Status {
    if refusals::may_be_told() {
        tracing::warn!(reason = text, "an rpc call is refused");
    }
    Status::permission_denied(text)
}

pub(super) fn stranger(why: &str) -> Status {
    let text = format!("the caller's certificate {why}");
    if refusals::may_be_told() {
        tracing::warn!(reason = text, "an rpc call is refused");
    }
    Status::unauthenticated(text)
}
