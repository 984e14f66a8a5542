//! How the processes of one cluster speak gRPC with each other: over mutual TLS, by which each knows
//! who the other is; or, where the configuration says so in as many words, in the clear, where the
//! cluster key keeps out who belongs to another cluster. Called by coordinators (both sides) and by
//! proxies (the dialling side).
//!
//! ```text
//! dial: TCP ─ TLS ─ certificate of the cluster's CA? ─ names whom was meant? ─▶ channel
//! hear: TCP ─ TLS ─ certificate of the cluster's CA? ─▶ Caller ─ Admission (kind) ─ speaks_for (id)
//! ```
//! A certificate says who holds it by a URI among its names, `maia://CLUSTER/node/ID` or
//! `maia://CLUSTER/proxy/ID`. Addresses and host names prove nothing and are not looked at.
//!
//! Invariants: no connection outlives the certificates that it was made with; nothing is sent before the other side has proven who it is; over TLS no call is carried
//! out in the name of a node or proxy that the caller's certificate does not name; files that can't be
//! used never replace those in use.

mod admission;
mod caller;
mod config;
mod connect;
mod credentials;
mod identity;
mod inspect;
mod lifetime;
mod listen;
mod material;
mod refusals;
mod stream;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::cluster_key::{ClusterInterceptor, ClusterKey};
use crate::ids::NodeId;

pub use admission::{Admission, Kind};
pub use caller::Caller;
pub use config::{RpcFault, RpcSection};
pub use connect::{ConnectError, Target};
pub use credentials::{Credentials, Expiry};
pub use identity::{Identity, IdentityFault, Party};
pub use inspect::{Described, inspect};
pub use listen::Incoming;
pub use material::{TlsFault, TlsFiles};
pub use stream::Connection;

use connect::Connector;

/// What clients send their calls through.
pub type RpcChannel = InterceptedService<Channel, Proof>;

/// How this process speaks. Cheap to clone: all clones use the same certificates.
#[derive(Clone)]
pub struct Rpc(Arc<Way>);

enum Way {
    /// In the clear.
    Plain(ClusterInterceptor),
    /// Mutual TLS.
    Tls(Credentials),
}

impl Rpc {
    /// In the clear, with a proof of the cluster key in each call.
    #[must_use]
    pub fn plaintext(key: &ClusterKey) -> Self {
        Self(Arc::new(Way::Plain(key.interceptor())))
    }

    /// Over mutual TLS.
    #[must_use]
    pub fn tls(credentials: Credentials) -> Self {
        Self(Arc::new(Way::Tls(credentials)))
    }

    /// A channel that connects when first used, and again when it broke. Each connection is made with
    /// the certificate that is in use by then.
    #[must_use]
    pub fn connect_lazy(&self, endpoint: &Endpoint, target: Target) -> RpcChannel {
        let channel = endpoint.connect_with_connector_lazy(self.connector(target));
        InterceptedService::new(channel, self.proof())
    }

    /// A channel that is connected.
    ///
    /// # Errors
    /// That of the connection, with [`ConnectError`] among its sources.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        target: Target,
    ) -> Result<RpcChannel, tonic::transport::Error> {
        let connecting = endpoint.connect_with_connector(self.connector(target));
        Ok(InterceptedService::new(connecting.await?, self.proof()))
    }

    /// The check that stands before a service which only `kind` may call.
    #[must_use]
    pub fn admit(&self, kind: Kind) -> Admission {
        let proof = match &*self.0 {
            Way::Plain(proof) => Some(proof.check()),
            Way::Tls(_) => None,
        };
        Admission::new(kind, proof)
    }

    /// Takes up certificates that were put in place of those in use, and tells ahead when one expires.
    /// Runs until it is dropped; what is connected stays until its own certificates expire.
    pub async fn watch(self) {
        match &*self.0 {
            Way::Plain(_) => {}
            Way::Tls(credentials) => credentials.watch().await,
        }
    }

    /// Ends the connections with nodes that are among these now and were not before.
    pub fn removed<'a>(&self, nodes: impl Iterator<Item = &'a NodeId>) {
        let Way::Tls(credentials) = &*self.0 else {
            return;
        };
        let nodes = nodes.copied().collect();
        credentials.removed().send_if_modified(|known| {
            let is_new = *known != nodes;
            *known = nodes;
            is_new
        });
    }

    /// When the certificates in use expire; none in the clear.
    #[must_use]
    pub fn expiry(&self) -> Option<Expiry> {
        match &*self.0 {
            Way::Plain(_) => None,
            Way::Tls(credentials) => Some(credentials.expiry()),
        }
    }

    fn connector(&self, target: Target) -> Connector {
        Connector::new(self.clone(), target)
    }

    fn proof(&self) -> Proof {
        Proof(match &*self.0 {
            Way::Plain(proof) => Some(proof.clone()),
            Way::Tls(_) => None,
        })
    }
}

/// Adds to each call what proves membership where the connection does not.
#[derive(Debug, Clone)]
pub struct Proof(Option<ClusterInterceptor>);

impl Interceptor for Proof {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match &mut self.0 {
            Some(proof) => proof.call(request),
            None => Ok(request),
        }
    }
}
