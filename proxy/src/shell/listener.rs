//! Accepts connections and serves them with a pingora application: our own accept loop, because
//! pingora's gives no place for the guards of [`super::stream`], for a cap on connections, or for
//! the choice between HTTP/1 and HTTP/2 without hanging on short requests.
//!
//! A connection belongs to the listener's [`Tasks`] and holds a pass of its [`Gate`], so that
//! shutdown can tell whether it is idle. Stop: the listener closes, requests in flight finish,
//! idle connections are dropped (pingora's `http_cleanup`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use maia_common::runtime::{Gate, Tasks};
use pingora::apps::{HttpServerApp, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use tokio::net::{TcpListener, TcpStream};

use crate::shell::metrics::Metrics;
use crate::shell::stream::{ClientStream, Guard};

/// What HTTP/2 clients begin with (RFC 9113 §3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Keep-alive as pingora counts it, in seconds.
const WITHOUT_LIMIT: u64 = 0;
/// How long to wait when the process is out of file descriptors.
const OUT_OF_FILES_PAUSE: Duration = Duration::from_millis(200);

/// How connections of one listener are treated.
#[derive(Debug, Clone)]
pub struct Treatment {
    /// From a header's first byte to its end.
    pub header_timeout: Duration,
    /// Between two requests.
    pub idle_timeout: Duration,
    /// For a client that was answered early to stop sending.
    pub linger_timeout: Duration,
    /// Whether HTTP/2 is taken.
    pub h2c: bool,
}

/// One listener's accept loop and its connections.
pub struct Acceptor<A> {
    /// Serves the requests.
    pub app: Arc<A>,
    /// How.
    pub treatment: Treatment,
    /// How many connections at once.
    pub gate: Gate,
    /// Owns the connections.
    pub tasks: Tasks,
    /// True: requests close their connections.
    pub shutdown: ShutdownWatch,
    /// Counts connections; `None` for the admin listener.
    pub metrics: Option<Arc<Metrics>>,
}

impl<A: HttpServerApp + Send + Sync + 'static> Acceptor<A> {
    /// Accepts until the process stops.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let mut shutdown = self.shutdown.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = shutdown.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((tcp, client)) => self.admit(tcp, client),
                Err(e) => {
                    tracing::warn!(error = %e, "a connection can't be accepted");
                    tokio::time::sleep(OUT_OF_FILES_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, tcp: TcpStream, client: SocketAddr) {
        let Ok(pass) = self.gate.enter() else {
            if let Some(metrics) = &self.metrics {
                metrics.connections_refused.inc();
            }
            return; // closed unanswered: answering would cost what there is too little of
        };
        // A latency matter only; the connection works without.
        let _ = tcp.set_nodelay(true);
        let this = Arc::clone(self);
        self.tasks.spawn("connection", async move {
            let _pass = pass;
            if let Some(metrics) = &this.metrics {
                metrics.connections.inc();
            }
            this.serve(tcp, client).await;
            if let Some(metrics) = &this.metrics {
                metrics.connections.dec();
            }
        });
    }

    async fn serve(&self, tcp: TcpStream, client: SocketAddr) {
        let t = &self.treatment;
        let guard = Arc::new(Guard::new(
            client,
            t.header_timeout,
            t.idle_timeout,
            t.linger_timeout,
        ));
        let h2 = t.h2c && self.speaks_h2(&tcp).await;
        let stream = Box::new(ClientStream::new(tcp, Arc::clone(&guard)));
        if h2 {
            guard.request_begins(); // h2 has its own idle timeout and header limits
            self.app.process_new(stream, &self.shutdown).await;
            return;
        }
        let mut session = ServerSession::new_http1(stream);
        session.set_keepalive(Some(WITHOUT_LIMIT)); // the stream keeps the time
        session.set_connection_user_context(Some(Box::new(guard)));
        let mut reusable = self.app.process_new_http(session, &self.shutdown).await;
        while let Some((stream, settings)) = reusable.map(ReusedHttpStream::consume) {
            let mut session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
            reusable = self.app.process_new_http(session, &self.shutdown).await;
        }
    }

    /// Whether the connection begins with HTTP/2's preface, without taking a byte from it.
    async fn speaks_h2(&self, tcp: &TcpStream) -> bool {
        let peek = async {
            let mut head = [0u8; H2_PREFACE.len()];
            let mut seen = 0;
            loop {
                let count = tcp.peek(&mut head).await.unwrap_or(0);
                if count == H2_PREFACE.len() || head[..count] != H2_PREFACE[..count] {
                    return head == H2_PREFACE;
                }
                if count == seen {
                    // Closed, or the rest is on its way: peek returns at once either way.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                if count == 0 {
                    return false;
                }
                seen = count;
            }
        };
        let deadline = self.treatment.idle_timeout;
        tokio::select! {
            found = tokio::time::timeout(deadline, peek) => found.unwrap_or(false),
            () = self.stopping() => false,
        }
    }

    async fn stopping(&self) {
        let mut shutdown = self.shutdown.clone();
        let _sender_gone = shutdown.wait_for(|stop| *stop).await;
    }
}
