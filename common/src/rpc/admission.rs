//! The check before a service: only nodes ask what nodes ask of each other, only proxies follow the
//! feed. In the clear the cluster key's proof is all there is to check.

use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::caller::{Caller, denied, stranger};
use crate::cluster_key::ClusterCheck;

/// Who may call a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Coordinators.
    Nodes,
    /// Proxies.
    Proxies,
}

/// The check, as tonic calls it before each call.
#[derive(Debug, Clone)]
pub struct Admission {
    kind: Kind,
    /// Where connections are in the clear.
    proof: Option<ClusterCheck>,
}

impl Admission {
    pub(super) fn new(kind: Kind, proof: Option<ClusterCheck>) -> Self {
        Self { kind, proof }
    }
}

impl Interceptor for Admission {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match (Caller::of(request.extensions())?, &mut self.proof) {
            (Caller::Plain, Some(proof)) => proof.call(request),
            (Caller::Plain, None) => Err(stranger("is missing")),
            (Caller::Stranger(why), _) => Err(stranger(why)),
            (Caller::Known(identity), _) => {
                let kind = match identity.node() {
                    Some(_) => Kind::Nodes,
                    None => Kind::Proxies,
                };
                if kind == self.kind {
                    return Ok(request);
                }
                let only = match self.kind {
                    Kind::Nodes => "nodes",
                    Kind::Proxies => "proxies",
                };
                Err(denied(&format!("only {only} call this, not {identity}")))
            }
        }
    }
}
