//! Waiting for a condition with a deadline, in place of sleeping and hoping.

use std::future::Future;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Returns when the condition holds; panics with `what` at the deadline.
pub async fn wait_until<F: Future<Output = bool>>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    wait_value(deadline, what, || {
        let holds = condition();
        async move { holds.await.then_some(()) }
    })
    .await;
}

/// Returns the first value there is; panics with `what` at the deadline.
pub async fn wait_value<T, F: Future<Output = Option<T>>>(
    deadline: Duration,
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(
            Instant::now() < end,
            "after {deadline:?} still not so: {what}"
        );
        tokio::time::sleep(POLL).await;
    }
}
