//! A client's connection as pingora sees it: a TCP stream with three guards that pingora lacks.
//!
//! **Header deadline.** pingora's header timeout is per read and none applies between the pieces
//! of a header after the first request, so a client that sends a byte now and then holds a
//! connection for ever (slowloris). Here a header must be complete a fixed time after its first
//! byte. The clock is asked only where a read finds nothing after a header has begun, so the
//! usual request pays nothing. A header's size is bounded here too.
//!
//! **Idle time.** Between two requests a connection is kept for a fixed time, then closed like
//! one that the client closed. pingora's own time-out would make a timer for each request; here
//! one timer serves a connection for all its life and is only asked, never moved, while requests
//! come: where it fires too early, it is set to when the time will really be over.
//!
//! **Lingering close.** Closing a socket with unread bytes makes the kernel send RST, which can
//! erase the answer before the client has read it. After an early answer the write side is
//! closed, and what the client still sends is read and thrown away for a bounded time (RFC 9112
//! §9.6), never parsed.
//!
//! ```text
//! Idle ─first byte─▶ Header ─request parsed (service)─▶ Request ─answered (service)─▶ Idle
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{io, net::SocketAddr};

use http::HeaderValue;
use pingora::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::os::fd::AsRawFd;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// Joins a response's header and a small body into one packet.
const WRITE_BUFFER_BYTES: usize = 4096;
/// pingora would take a megabyte; nobody needs more than this.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// How much a lingering close reads at once.
const DISCARD_BYTES: usize = 16 << 10;

const IDLE: u8 = 0;
const HEADER: u8 = 1;
const REQUEST: u8 = 2;

/// What a connection and the service that serves it tell each other.
#[derive(Debug)]
pub struct Guard {
    phase: AtomicU8,
    linger: AtomicBool,
    accepted: std::time::Instant,
    /// When the last request was answered, in microseconds after `accepted`.
    idle_since_us: AtomicU64,
    header_timeout: Duration,
    idle_timeout: Duration,
    linger_timeout: Duration,
    address: SocketAddr,
    client: String,
    forwarded_for: HeaderValue,
    forwarded: HeaderValue,
}

impl Guard {
    /// The guard of a fresh connection.
    #[must_use]
    pub fn new(
        client: SocketAddr,
        header_timeout: Duration,
        idle_timeout: Duration,
        linger_timeout: Duration,
    ) -> Self {
        let ip = client.ip().to_canonical();
        let node = match ip {
            std::net::IpAddr::V4(v4) => format!("for={v4};proto=http"),
            std::net::IpAddr::V6(v6) => format!("for=\"[{v6}]\";proto=http"),
        };
        let value = |text: &str| HeaderValue::from_str(text).expect("addresses are ASCII");
        Self {
            phase: AtomicU8::new(IDLE),
            linger: AtomicBool::new(false),
            accepted: std::time::Instant::now(),
            idle_since_us: AtomicU64::new(0),
            header_timeout,
            idle_timeout,
            linger_timeout,
            address: client,
            client: client.to_string(),
            forwarded_for: value(&ip.to_string()),
            forwarded: value(&node),
        }
    }

    /// The client's address, as text: every log line has it.
    #[must_use]
    pub fn client(&self) -> &str {
        &self.client
    }

    /// The element to add to `X-Forwarded-For`.
    #[must_use]
    pub fn forwarded_for(&self) -> &HeaderValue {
        &self.forwarded_for
    }

    /// The element to add to `Forwarded` (RFC 7239).
    #[must_use]
    pub fn forwarded(&self) -> &HeaderValue {
        &self.forwarded
    }

    /// A request's header is complete: the header deadline rests.
    pub fn request_begins(&self) {
        self.phase.store(REQUEST, Ordering::Relaxed);
    }

    /// The request is answered: the next byte begins another.
    pub fn request_ends(&self, now: std::time::Instant) {
        let since = now.saturating_duration_since(self.accepted).as_micros() as u64;
        self.idle_since_us.store(since, Ordering::Relaxed);
        self.phase.store(IDLE, Ordering::Relaxed);
    }

    /// When a connection is closed on which no further request begins.
    fn idle_until(&self) -> Instant {
        let since = Duration::from_micros(self.idle_since_us.load(Ordering::Relaxed));
        Instant::from_std(self.accepted) + since + self.idle_timeout
    }

    /// How long a client that was answered early may go on sending.
    #[must_use]
    pub fn linger_timeout(&self) -> Duration {
        self.linger_timeout
    }

    /// The client may still be sending what nobody will read: close with care.
    pub fn linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Closing {
    Open,
    Discarding(Pin<Box<Sleep>>),
    Closed,
}

/// The stream.
#[derive(Debug)]
pub struct ClientStream {
    tcp: BufWriter<TcpStream>,
    guard: Arc<Guard>,
    /// One for all deadlines; it may fire before the one in force, never after it.
    timer: Option<Pin<Box<Sleep>>>,
    /// Of the header that is being read.
    header_until: Option<Instant>,
    /// Of the header that is being read, with what followed it in its last read.
    header_bytes: usize,
    closing: Closing,
    socket: Arc<SocketDigest>,
}

impl ClientStream {
    /// Guards the connection.
    #[must_use]
    pub fn new(tcp: TcpStream, guard: Arc<Guard>) -> Self {
        let socket = SocketDigest::from_raw_fd(tcp.as_raw_fd());
        let _ = socket.peer_addr.set(Some(PeerAddr::Inet(guard.address)));
        Self {
            tcp: BufWriter::with_capacity(WRITE_BUFFER_BYTES, tcp),
            guard,
            timer: None,
            header_until: None,
            header_bytes: 0,
            closing: Closing::Open,
            socket: Arc::new(socket),
        }
    }

    /// A read found nothing: waits, unless the connection's time is over. An error where a header
    /// should have been complete by now, the end of the stream where no request began in time.
    fn check_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.guard.phase.load(Ordering::Relaxed);
        let until = match phase {
            IDLE => self.guard.idle_until(),
            HEADER => *self
                .header_until
                .get_or_insert_with(|| Instant::now() + self.guard.header_timeout),
            _ => return Poll::Pending,
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= until {
                break;
            }
            timer.as_mut().reset(until);
        }
        if phase == IDLE {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the request header did not arrive in time",
        )))
    }

    /// Reads and throws away until the client closes or the time is over.
    fn discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Closing::Discarding(until) = &mut self.closing else {
            return Poll::Ready(());
        };
        if until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut scratch = [0u8; DISCARD_BYTES];
        // A bounded number of reads at a time, so that one client can't keep the thread.
        for _ in 0..16 {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(self.tcp.get_mut()).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let phase = self.guard.phase.load(Ordering::Relaxed);
        if phase == HEADER && self.header_bytes > MAX_HEADER_BYTES {
            let error = "the request header is too large";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        let before = buf.filled().len();
        let Poll::Ready(result) = Pin::new(&mut self.tcp).poll_read(cx, buf) else {
            return self.check_deadline(cx);
        };
        let read = buf.filled().len() - before;
        if read > 0 && phase == IDLE {
            self.guard.phase.store(HEADER, Ordering::Relaxed);
            self.header_bytes = read;
            self.header_until = None;
        } else {
            self.header_bytes += read;
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &self.closing {
                Closing::Closed => return Poll::Ready(Ok(())),
                Closing::Open => {
                    let closed = ready!(Pin::new(&mut self.tcp).poll_shutdown(cx));
                    let linger = self.guard.linger.load(Ordering::Relaxed);
                    self.closing = match closed {
                        Ok(()) if linger => {
                            let until = Instant::now() + self.guard.linger_timeout;
                            Closing::Discarding(Box::pin(sleep_until(until)))
                        }
                        _ => Closing::Closed,
                    };
                    closed?;
                }
                Closing::Discarding(_) => {
                    ready!(self.discard(cx));
                    self.closing = Closing::Closed;
                }
            }
        }
    }
}

#[async_trait::async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        if let Err(e) = AsyncWriteExt::shutdown(self).await {
            tracing::debug!(error = %e, "a connection was gone before it was closed");
        }
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.tcp.get_ref().as_raw_fd()
    }
}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.socket))
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<pingora::protocols::raw_connect::ProxyDigest>> {
        None
    }
}

impl Ssl for ClientStream {}
impl Peek for ClientStream {}
