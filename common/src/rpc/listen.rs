//! The listening side: accepts on the runtime that serves the calls, so that their bytes are moved
//! there; shakes hands on another one, so that a thousand proxies that come at once do not delay a
//! heartbeat. Handshakes are bounded in number and time (I12).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use super::caller::Caller;
use super::identity::Identity;
use super::lifetime::Lifetime;
use super::material::identity_of;
use super::stream::{Connection, Stream};
use super::{Credentials, Rpc, Way, refusals};
use crate::limits::{MAX_TLS_HANDSHAKES, TLS_HANDSHAKE};
use crate::runtime::Tasks;

/// Accepted connections, for `serve_with_incoming`.
pub type Incoming = ReceiverStream<io::Result<Connection>>;

/// Too many open files, most likely: it takes others to end.
const AFTER_ACCEPT_FAILED: Duration = Duration::from_millis(50);

/// Connections that are accepted and that nobody serves yet.
const READY: usize = 64;

impl Rpc {
    /// Accepts connections on `serving` until `tasks` stop; shakes hands on the runtime that this is
    /// called on.
    pub fn incoming(&self, listener: TcpListener, serving: &Handle, tasks: &Tasks) -> Incoming {
        let (ready, incoming) = mpsc::channel(READY);
        let accepting = Accepting {
            rpc: self.clone(),
            ready,
            shaking: Arc::new(Semaphore::new(MAX_TLS_HANDSHAKES)),
            aside: Handle::current(),
            tasks: tasks.clone(),
        };
        let accepting = accepting.run(listener);
        tasks.spawn_until_stop_on(serving, "rpc accept", accepting);
        ReceiverStream::new(incoming)
    }
}

struct Accepting {
    rpc: Rpc,
    ready: mpsc::Sender<io::Result<Connection>>,
    shaking: Arc<Semaphore>,
    aside: Handle,
    tasks: Tasks,
}

impl Accepting {
    async fn run(self, listener: TcpListener) {
        loop {
            // Before a connection is taken: what waits is the system's, and bounded by it.
            let turn = Arc::clone(&self.shaking).acquire_owned().await;
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.ready.closed() => return,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "an rpc connection can't be accepted");
                    tokio::time::sleep(AFTER_ACCEPT_FAILED).await;
                    continue;
                }
            };
            // Each answer would wait for a delayed acknowledgement without it.
            drop(tcp.set_nodelay(true));
            let (rpc, ready) = (self.rpc.clone(), self.ready.clone());
            let shake = async move {
                if let Some(connection) = establish(&rpc, tcp, peer).await {
                    drop(ready.send(Ok(connection)).await);
                }
                drop(turn);
            };
            self.tasks
                .spawn_until_stop_on(&self.aside, "rpc handshake", shake);
        }
    }
}

/// None, and a line in the log: it was refused.
async fn establish(rpc: &Rpc, tcp: TcpStream, peer: SocketAddr) -> Option<Connection> {
    let Way::Tls(credentials) = &*rpc.0 else {
        return Some(Connection::plain(tcp));
    };
    let reason = match tokio::time::timeout(TLS_HANDSHAKE, secure(credentials, tcp)).await {
        Ok(Ok(connection)) => return Some(connection),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no handshake within {TLS_HANDSHAKE:?}"),
    };
    if refusals::may_be_told() {
        tracing::warn!(%peer, reason, "an rpc connection is refused");
    }
    None
}

async fn secure(credentials: &Credentials, tcp: TcpStream) -> io::Result<Connection> {
    let (acceptor, cluster, expires_unix_s) = {
        let material = credentials.material();
        (
            TlsAcceptor::from(material.server.clone()),
            material.identity.cluster().clone(),
            material.expires_unix_s,
        )
    };
    let tls = acceptor.accept(tcp).await?;
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let found = certificate.map_or_else(|| Err("is missing".to_owned()), identity_of);
    let node = found.as_ref().ok().and_then(Identity::node);
    let lifetime = Lifetime::new(expires_unix_s, certificate, node, credentials.removed());
    let caller = match found {
        Ok(found) if *found.cluster() == cluster => Caller::Known(Arc::new(found)),
        Ok(found) => Caller::Stranger(format!("is of another cluster, {}", found.cluster()).into()),
        Err(why) => Caller::Stranger(why.into()),
    };
    Ok(Connection {
        stream: Stream::secured(tls.into(), lifetime),
        caller,
    })
}
