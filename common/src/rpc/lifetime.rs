//! How long a connection over TLS may live: as long as the certificates of both its ends, and no longer
//! than a node that it leads to belongs to the cluster. Whoever still needs it makes another, which is
//! judged anew; a removed node is thereby left with what a new connection grants it. Made after each
//! handshake, on both sides; polled by the stream.
//!
//! Connections do not end all at once with the certificate that they share: each ends earlier, by a share
//! of the time that is left, picked at random. Where no newer certificate is there, the next one lives a
//! share of what is left then; so a process makes a handful of connections in a certificate's last
//! minutes (I12).

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::inspect::describe;
use crate::ids::NodeId;
use crate::limits;

/// Nodes that are known to have been removed.
pub(super) type Removed = watch::Sender<BTreeSet<NodeId>>;

/// Ends once, when the connection must.
pub(super) struct Lifetime {
    ending: Pin<Box<dyn Future<Output = &'static str> + Send + Sync>>,
    has_ended: bool,
}

impl Lifetime {
    /// Of a connection on which this side shows a certificate that expires then, to a peer that shows
    /// `peer` and is that node, if it is one.
    pub(super) fn new(
        own_expires_unix_s: i64,
        peer: Option<&CertificateDer<'_>>,
        node: Option<NodeId>,
        removed: &Removed,
    ) -> Self {
        let peer = peer.and_then(|peer| describe(peer).ok());
        let peer_expires = peer.map_or(i64::MIN, |peer| peer.not_after_unix_s);
        let expires = own_expires_unix_s.min(peer_expires);
        let ends = early(expires, unix_now(), fastrand::f64());
        let expired = until(ends);
        let gone = gone(node, removed.subscribe());
        let ending = async move {
            tokio::select! {
                () = expired => "a certificate of its ends expires",
                () = gone => "the node at its other end was removed",
            }
        };
        Self {
            ending: Box::pin(ending),
            has_ended: false,
        }
    }

    /// Whether it is over; else the task is woken when it is.
    pub(super) fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        if !self.has_ended
            && let Poll::Ready(reason) = self.ending.as_mut().poll(context)
        {
            tracing::info!(reason, "an rpc connection ends");
            self.has_ended = true;
        }
        self.has_ended
    }

    /// As [`Self::is_over`] found it last.
    pub(super) fn was_over(&self) -> bool {
        self.has_ended
    }
}

fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// When a connection ends, in the time since 1970, whose certificates expire then: at most a tenth of
/// what is left earlier, `share` (0 to 1) of that.
fn early(expires_unix_s: i64, now: Duration, share: f64) -> Duration {
    let expires = Duration::from_secs(u64::try_from(expires_unix_s).unwrap_or(0));
    let left = expires.saturating_sub(now);
    let spread = (left / 10).min(limits::CERTIFICATE_SPREAD);
    expires.saturating_sub(spread.mul_f64(share))
}

/// By the wall clock, as certificates are judged: it is looked at again now and then, since it may be set.
async fn until(unix: Duration) {
    loop {
        let left = unix.saturating_sub(unix_now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(limits::CERTIFICATE_POLL)).await;
    }
}

/// Ends when the node is removed from now on: one that was removed before is let in for what it may ask.
async fn gone(node: Option<NodeId>, mut removed: watch::Receiver<BTreeSet<NodeId>>) {
    let Some(node) = node.filter(|node| !removed.borrow().contains(node)) else {
        return std::future::pending().await;
    };
    if removed.wait_for(|all| all.contains(&node)).await.is_err() {
        std::future::pending::<()>().await; // nobody says any more who is removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_end_apart_from_each_other_and_none_late() {
        let now = Duration::from_secs(1_000_000);
        let at = |left_s: u64, share| {
            let expires = i64::try_from(now.as_secs() + left_s).unwrap();
            early(expires, now, share).checked_sub(now).unwrap()
        };
        let day = 86_400;
        assert_eq!(at(day, 0.0), Duration::from_secs(day));
        assert_eq!(at(day, 1.0), Duration::from_secs(day - 600));
        assert_eq!(at(600, 1.0), Duration::from_secs(540));
        assert_eq!(at(0, 1.0), Duration::ZERO);
        assert_eq!(early(i64::MIN, now, 0.5), Duration::ZERO);
    }
}
