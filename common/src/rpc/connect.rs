//! The dialling side: a connection counts as made when the other side has proven to be whom was meant
//! and has taken this side's certificate. Nothing of a call is sent before; so a call that fails for
//! its connection was certainly not carried out.

use std::io;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Uri;

use super::identity::Identity;
use super::lifetime::Lifetime;
use super::material::identity_of;
use super::stream::Stream;
use super::{Credentials, Rpc, Way, refusals};
use crate::ids::NodeId;
use crate::limits::TLS_HANDSHAKE;

/// Who is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// This node, wherever it listens.
    Node(NodeId),
    /// Any node of the cluster.
    AnyNode,
}

/// Why a connection was not made. Nothing was sent on it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP.
    #[error("{0}")]
    Tcp(#[source] io::Error),
    /// TLS: one side does not take the other's certificate.
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    /// It took too long.
    #[error("TLS: no answer within {TLS_HANDSHAKE:?}")]
    Silent,
    /// A process of the cluster, but another one.
    #[error("wanted {wanted}, and there is {found}")]
    Another {
        /// Who was meant.
        wanted: String,
        /// Who is there.
        found: String,
    },
}

/// Makes the connections of one channel.
#[derive(Clone)]
pub(super) struct Connector {
    rpc: Rpc,
    target: Target,
}

impl Connector {
    pub(super) fn new(rpc: Rpc, target: Target) -> Self {
        Self { rpc, target }
    }

    async fn connect(self, uri: Uri) -> Result<Stream, ConnectError> {
        let tcp = tcp(&uri).await.map_err(ConnectError::Tcp)?;
        let Way::Tls(credentials) = &*self.rpc.0 else {
            return Ok(Stream::Plain(tcp));
        };
        let handshake = tokio::time::timeout(TLS_HANDSHAKE, secure(credentials, self.target, tcp));
        let made = handshake.await.map_err(|_| ConnectError::Silent).flatten();
        if let Err(error) = &made
            && refusals::may_be_told()
        {
            tracing::warn!(address = %uri, %error, "no rpc connection");
        }
        made
    }
}

async fn tcp(uri: &Uri) -> io::Result<TcpStream> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("`{uri}` has no port"));
    let host = uri.host().ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().ok_or_else(wrong)?;
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

async fn secure(
    credentials: &Credentials,
    target: Target,
    tcp: TcpStream,
) -> Result<Stream, ConnectError> {
    let (client, cluster, expires_unix_s) = {
        let material = credentials.material();
        (
            TlsConnector::from(material.client.clone()),
            material.identity.cluster().clone(),
            material.expires_unix_s,
        )
    };
    // Not looked at: see `verify`.
    let nobody = ServerName::try_from("maia").expect("a host label");
    let mut tls = client
        .connect(nobody, tcp)
        .await
        .map_err(ConnectError::Tls)?;
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let found = certificate.map_or_else(|| Err("no certificate".to_owned()), identity_of);
    let is_meant = |found: &Identity| {
        let node = match target {
            Target::AnyNode => found.node().is_some(),
            Target::Node(id) => found.node() == Some(id),
        };
        node && *found.cluster() == cluster
    };
    let node = match found {
        Ok(found) if is_meant(&found) => found.node(),
        found => {
            return Err(ConnectError::Another {
                wanted: match target {
                    Target::Node(id) => format!("node {id} of {cluster}"),
                    Target::AnyNode => format!("a node of {cluster}"),
                },
                found: found.map_or_else(
                    |why| format!("one whose certificate {why}"),
                    |found| format!("{found} of {}", found.cluster()),
                ),
            });
        }
    };
    let lifetime = Lifetime::new(expires_unix_s, certificate, node, credentials.removed());
    // This side's certificate is judged after its own part of the handshake is over. The other side
    // speaks first in HTTP/2 when it has taken it; else this is where its refusal arrives.
    if tls.fill_buf().await.map_err(ConnectError::Tls)?.is_empty() {
        let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other side");
        return Err(ConnectError::Tls(closed));
    }
    Ok(Stream::secured(tls.into(), lifetime))
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(uri).await.map(TokioIo::new) })
    }
}
