//! The hold queue: writes that wait, briefly and bounded, while their primary moves, and requests
//! whose tenant is looked up. Every hold
//! ends (I11): decided otherwise, out of budget, or left by its client. The number of requests
//! that wait is capped (I12).

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::runtime::{Gate, Pass};
use tokio::sync::watch;

use crate::shell::metrics::Metrics;

/// How a hold ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Held<T> {
    /// Something else was decided.
    Released(T),
    /// The budget ran out.
    Expired,
    /// Too many wait already.
    Full,
    /// The client left.
    Abandoned,
}

/// The queue.
pub struct HoldQueue {
    gate: Gate,
    metrics: Arc<Metrics>,
}

/// Counts a waiting request, however its waiting ends.
pub struct Waiting<'q> {
    metrics: &'q Metrics,
    since: Instant,
    _pass: Pass,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.metrics.held.dec();
        self.metrics
            .hold_seconds
            .observe(self.since.elapsed().as_secs_f64());
    }
}

impl HoldQueue {
    /// A queue of at most `capacity` waiting requests.
    #[must_use]
    pub fn new(capacity: u32, metrics: Arc<Metrics>) -> Self {
        Self {
            gate: Gate::new(capacity),
            metrics,
        }
    }

    /// Waits until `decide` says something (asked at once, after each change, and each `again`),
    /// until `deadline`, or until `gone` ends.
    pub async fn hold<T>(
        &self,
        mut changes: watch::Receiver<u64>,
        deadline: Instant,
        again: Duration,
        gone: impl Future<Output = ()>,
        mut decide: impl FnMut() -> Option<T>,
    ) -> Held<T> {
        let Some(_waiting) = self.wait() else {
            return Held::Full;
        };
        let expired = tokio::time::sleep_until(deadline.into());
        tokio::pin!(expired, gone);
        loop {
            // Seen before it is asked: a change in between is not missed.
            changes.borrow_and_update();
            if let Some(decided) = decide() {
                return Held::Released(decided);
            }
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Held::Expired; // nothing will ever change any more
                    }
                }
                () = tokio::time::sleep(again) => {}
                () = &mut expired => return Held::Expired,
                () = &mut gone => return Held::Abandoned,
            }
        }
    }

    /// Counts one more that waits, until that is dropped; `None`: too many wait already.
    #[must_use]
    pub fn wait(&self) -> Option<Waiting<'_>> {
        let pass = self.gate.enter().ok()?;
        self.metrics.held.inc();
        Some(Waiting {
            metrics: &self.metrics,
            since: Instant::now(),
            _pass: pass,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    const LONG: Duration = Duration::from_secs(60);

    fn queue(capacity: u32) -> HoldQueue {
        HoldQueue::new(
            capacity,
            Arc::new(Metrics::new(crate::shell::metrics::plaintext()).unwrap()),
        )
    }

    fn soon(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[tokio::test]
    async fn every_hold_ends() {
        let queue = queue(1);
        let changes = watch::Sender::new(0u64);
        let never = || None::<u8>;
        let held = queue
            .hold(changes.subscribe(), soon(20), LONG, pending(), never)
            .await;
        assert_eq!(held, Held::Expired);
        let left = queue
            .hold(changes.subscribe(), soon(60_000), LONG, async {}, never)
            .await;
        assert_eq!(left, Held::Abandoned);
        let mut asked = 0;
        let decide = || {
            asked += 1;
            (asked == 2).then_some(7)
        };
        let hold = queue.hold(changes.subscribe(), soon(60_000), LONG, pending(), decide);
        let (released, ()) = tokio::join!(hold, async { changes.send_modify(|n| *n += 1) });
        assert_eq!(released, Held::Released(7));
        assert_eq!((queue.gate.inside(), queue.metrics.held.get()), (0, 0));
    }

    #[tokio::test]
    async fn no_more_wait_than_may() {
        let queue = queue(1);
        let changes = watch::Sender::new(0u64);
        let first = queue.hold(
            changes.subscribe(),
            soon(50),
            LONG,
            pending(),
            || None::<u8>,
        );
        let second = async {
            tokio::task::yield_now().await;
            queue
                .hold(
                    changes.subscribe(),
                    soon(50),
                    LONG,
                    pending(),
                    || None::<u8>,
                )
                .await
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first, second), (Held::Expired, Held::Full));
    }
}
