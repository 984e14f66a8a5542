//! How long a connection over TLS may live: as long as the certificates of both its ends, and no longer
//! than a node that it leads to belongs to the cluster. Whoever still needs it makes another, which is
//! judged anew; a removed node is thereby left with what a new connection grants it. Made after each
//! handshake, on both sides; polled by the stream.
//!
//! Connections do not end all at once with the certificate that they share: each ends earlier, by a share
//! of the time that is left, picked at random. Where no newer certificate is there, the next one lives a
//! share of what is left then; so a process makes a handful of connections in a certificate's last
//! minutes (I12).
//!
//! The wall clock is asked once, by the handshake; what was left then runs out by a clock that only grows. A
//! wall clock that jumps would else end all of a node's connections at once and let none be made: a bad
//! time server of most nodes would stop the cluster, whose connections are as good as they were.

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
        let life = life(expires, unix_now(), fastrand::f64());
        Self::of(life, node, removed)
    }

    fn of(life: Duration, node: Option<NodeId>, removed: &Removed) -> Self {
        let gone = gone(node, removed.subscribe());
        let ending = async move {
            tokio::select! {
                () = tokio::time::sleep(life) => "a certificate of its ends expires",
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

/// How long a connection lives whose certificates expire then: at most a tenth of what is left shorter,
/// `share` (0 to 1) of that. A certificate is good through the whole second that it names: one that ended with that
/// second's beginning would be made again and again until it is over.
fn life(expires_unix_s: i64, now: Duration, share: f64) -> Duration {
    let expires = u64::try_from(expires_unix_s).map_or(Duration::ZERO, |last| {
        Duration::from_secs(last.saturating_add(1))
    });
    let left = expires.saturating_sub(now);
    let spread = (left / 10).min(limits::CERTIFICATE_SPREAD);
    left.saturating_sub(spread.mul_f64(share))
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
    use std::future::poll_fn;
    use std::time::Instant;

    use super::*;

    #[test]
    fn connections_end_apart_from_each_other_and_none_late() {
        let now = Duration::from_secs(1_000_000);
        let at = |left_s: u64, share| {
            let last_second = i64::try_from(now.as_secs() + left_s).unwrap() - 1;
            life(last_second, now, share)
        };
        let day = 86_400;
        assert_eq!(at(day, 0.0), Duration::from_secs(day));
        assert_eq!(at(day, 1.0), Duration::from_secs(day - 600));
        assert_eq!(at(600, 1.0), Duration::from_secs(540));
        assert_eq!(at(0, 1.0), Duration::ZERO);
        assert_eq!(life(i64::MIN, now, 0.5), Duration::ZERO);
    }

    #[test]
    fn a_handful_are_made_in_a_certificate_s_last_second() {
        let last_second = 1_000_000;
        let over = Duration::from_secs(last_second + 1);
        let mut now = Duration::from_secs(last_second);
        let mut made = 0;
        // As long as a handshake succeeds: each takes a millisecond.
        while now < over {
            made += 1;
            assert!(made <= 4, "{made}");
            let last_second = i64::try_from(last_second).unwrap();
            now += life(last_second, now, 1.0) + Duration::from_millis(1);
        }
    }

    /// That the wall clock has no say in it is in the shape of `of`: it is given a length, not an end.
    #[tokio::test]
    async fn it_ends_when_its_length_is_up() {
        let (removed, length) = (Removed::default(), Duration::from_millis(200));
        let made = Instant::now();
        let mut lifetime = Lifetime::of(length, None, &removed);
        assert!(!poll_fn(|context| Poll::Ready(lifetime.is_over(context))).await);
        assert!(!lifetime.was_over());
        let is_over = poll_fn(|context| {
            if lifetime.is_over(context) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        let ended = tokio::time::timeout(Duration::from_secs(60), is_over).await;
        ended.expect("it ends");
        assert!(made.elapsed() >= length, "{:?}", made.elapsed());
        assert!(lifetime.was_over());
    }
}
